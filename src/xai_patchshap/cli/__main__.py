"""``python -m xai_patchshap.cli``."""

from __future__ import annotations

from . import main

__all__: list[str] = []

if __name__ == "__main__":
    raise SystemExit(main())

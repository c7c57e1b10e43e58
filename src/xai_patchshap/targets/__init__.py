"""Targets: what is asked of a model's outputs."""

from __future__ import annotations

__all__: list[str] = []

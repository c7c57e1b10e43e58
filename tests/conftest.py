"""Fixtures and games that several test modules share."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

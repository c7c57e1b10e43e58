"""Masking: what the model sees when some of the players are gone."""

from __future__ import annotations

from .coalition_inputs import CoalitionInputs
from .patch_masker import PatchMasker
from .token_dropping import TokenDropping

__all__ = ["CoalitionInputs", "PatchMasker", "TokenDropping"]

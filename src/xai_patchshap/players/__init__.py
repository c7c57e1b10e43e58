"""Players: which parts of an input play, as labels 0..n-1, and trees of them."""

from __future__ import annotations

from .grids import Players, PlayersSpec, grid_players, mask_players
from .superpixels import Superpixels, slic

__all__ = ["Players", "PlayersSpec", "Superpixels", "grid_players", "mask_players", "slic"]

"""Hierarchies of players: binary partition trees, data-aware or axis-aligned."""

from __future__ import annotations

from .bpt import MOST_COMPACT, bpt_tree
from .partition_tree import PartitionTree, axis_tree, linkage_tree

__all__ = ["MOST_COMPACT", "PartitionTree", "axis_tree", "bpt_tree", "linkage_tree"]

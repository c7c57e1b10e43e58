"""Coalitions to evaluate: sampled, or designed, always with their complements."""

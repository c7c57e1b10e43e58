"""The Gaussian process over coalitions: its kernel, its evidence and its posterior."""

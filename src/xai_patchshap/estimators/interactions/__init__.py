"""Interactions between players, by enumeration, regression or a Gaussian process."""

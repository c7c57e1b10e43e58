"""Shapley values, by enumeration, regression or a Gaussian process."""

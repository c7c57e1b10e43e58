"""Estimators of Shapley values."""

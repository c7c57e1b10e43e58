"""Training of surrogates and explainer networks, and their calibration.

Its names are those of :mod:`xai_patchshap.amortized`.
"""

__all__: list[str] = []

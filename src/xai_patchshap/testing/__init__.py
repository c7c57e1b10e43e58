"""Games with known answers, and the promises of an explainer as checks that anyone can run.

:func:`check_explainer` is to explainers what ``check_estimator`` of scikit-learn is to estimators.
"""

from __future__ import annotations

from .checks import Check, check_explainer, explainer_checks
from .games import LinearGame, OnePixelGame, ProductGame, ToyGame, UnanimityGame

__all__ = [
    "Check",
    "LinearGame",
    "OnePixelGame",
    "ProductGame",
    "ToyGame",
    "UnanimityGame",
    "check_explainer",
    "explainer_checks",
]

"""Pictures of results."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..estimators import Interactions
from ..plots import interaction_network

__all__: list[str] = []  # parts of the command line, for no one else


def save_figure(figure: Figure, file: Path) -> None:
    """Write a picture; letters that the font lacks are boxes in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, dpi=150)


def draw_pairs(folder: Path, arrays: dict[str, Any], found: Interactions) -> list[str]:
    """One picture of the pairs for each class, and what they are called."""
    if found.order < 2:
        return []
    names = []
    for k, (index, class_) in enumerate(zip(arrays["classes"], arrays["class_names"], strict=True)):
        figure = interaction_network(
            arrays["photo"],
            arrays["labels"],
            found.matrix()[:, :, k],
            title=plain(class_),
            label=f"interaction ({found.index})",
            std=np.nan_to_num(found.matrix_std()[:, :, k], posinf=1e300),
        )
        slug = "".join(c if c.isalnum() else "-" for c in class_)[:40]
        names.append(f"{index}-{slug}.png")
        save_figure(figure, folder / names[-1])
    return names


def plain(text: str) -> str:
    """A title that matplotlib takes for no formula."""
    return text.replace("$", r"\$")

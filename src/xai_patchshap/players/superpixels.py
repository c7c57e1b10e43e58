"""Superpixels: players that follow the edges of an image, by SLIC of scikit-image."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation import checked, finite, pair, whole
from ..errors import MissingExtraError, bad

__all__ = ["Superpixels", "slic"]

# Options of skimage.segmentation.slic that are not the user's to set.
_OURS = {
    "image": "It is the image that is explained.",
    "start_label": "Players are numbered from 0, whatever SLIC starts at.",
    "channel_axis": "Images come channels last, (H, W, C), or gray (H, W).",
}


@checked(n_segments=whole(1), compactness=finite(above=0), sigma=pair(finite(least=0)))
@dataclass(frozen=True)
class Superpixels:
    """Segment one image by SLIC; :func:`slic` makes one.

    Can be pickled, compared and used for any number of images.

    Attributes
    ----------
    n_segments : int
        About how many superpixels an image is cut into, as many as pixels at the most.
    compactness : float
        Weight of nearness against likeness in colour, in units of Lab.
    sigma : float or (float, float)
        Width in pixels of the Gaussian that smooths the image first.
    options : dict
        Further options of :func:`skimage.segmentation.slic`.
    """

    n_segments: int = 100
    compactness: float = 10.0
    sigma: float | tuple[float, float] = 0.0
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        known = set(inspect.signature(_skimage_slic()).parameters)
        known -= {"n_segments", "compactness", "sigma"}
        for name in self.options:
            if name in _OURS:
                raise bad("slic", f"{name}={self.options[name]!r}", f"no {name}", _OURS[name])
            if name not in known:
                theirs = ", ".join(sorted(known - set(_OURS)))
                raise bad("slic", f"the option {name!r}", f"one of scikit-image's: {theirs}")

    def __call__(self, image: ArrayLike) -> NDArray[np.int64]:
        """Superpixels of one image.

        Parameters
        ----------
        image : array_like (H, W), or (H, W, C) with 1, 3 or 4 channels
            In any range: it is brought to [0, 1] by its own extremes.

        Returns
        -------
        ndarray of int64, shape (H, W)
            Superpixel of each pixel, 0..n-1, each used. With scikit-image's option
            ``mask``, what lies outside of the mask is superpixel 0.

        Raises
        ------
        PatchShapError
            If the image has another shape or is not finite, or SLIC refuses an option.
        """
        pixels = np.asarray(image)
        shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
        if not shaped or not pixels.size:
            raise bad("slic", f"an image of shape {pixels.shape}", "(H, W), or (H, W, 1, 3 or 4)")
        if pixels.dtype.kind not in "fiub":
            raise bad("slic", f"an image of dtype {pixels.dtype}", "numbers")
        pixels = pixels.astype(np.float64)
        if not np.isfinite(pixels).all():
            raise bad("slic", "an image with NaN or infinite pixels", "finite numbers")
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / ((high - low) or 1.0)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        lab = self.options.get("convert2lab")
        lab = pixels.shape[2] == 3 if lab is None else lab
        # Lab goes to 100 where plain channels go to 1; one compactness is to serve both.
        compactness = self.compactness if lab else self.compactness / 100
        options = {**self.options, "convert2lab": lab}
        n_segments = min(int(self.n_segments), pixels.shape[0] * pixels.shape[1])
        try:
            labels = _skimage_slic()(pixels, n_segments, compactness, sigma=self.sigma, **options)
        except (ValueError, TypeError) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise bad(
                "slic",
                f"an image of shape {pixels.shape} and {given or 'no further options'}",
                "what skimage.segmentation.slic takes",
                f"({error})",
            ) from error
        ids = np.unique(labels, return_inverse=True)[1]
        return np.asarray(ids, dtype=np.int64).reshape(labels.shape)


def slic(
    n_segments: int = 100,
    *,
    compactness: float = 10.0,
    sigma: float | tuple[float, float] = 0.0,
    **options: Any,
) -> Superpixels:
    """Superpixels as players, each image of a batch cut along its own edges.

    Needs scikit-image: ``pip install 'xai-patchshap[superpixels]'``. The method is SLIC
    (Achanta et al., TPAMI 2012, https://doi.org/10.1109/TPAMI.2012.120).

    Parameters
    ----------
    n_segments : int
        About how many superpixels an image is cut into; SLIC may find fewer or more.
    compactness : float
        Weight of nearness against likeness in colour: from 1, ragged, to 100, nearly
        squares. Images of 3 channels are compared as Lab, whose lightness goes from 0 to
        100. Gray images and images of 4 channels are compared as they are; there scikit-image
        is given a hundredth of it, so that a value means the same for both.
    sigma : float or (float, float)
        Width in pixels of the Gaussian that smooths the image first.
    **options
        Further options of :func:`skimage.segmentation.slic`, such as ``max_num_iter``,
        ``slic_zero`` or ``mask``; not ``start_label`` and ``channel_axis``.

    Returns
    -------
    Superpixels
        A function from an image (H, W, C) or (H, W), whatever its range, to labels (H, W).
        ``PatchMasker("slic:200")`` stands for ``PatchMasker(slic(200))``. Where the images of
        a batch have different numbers of superpixels, the arrays of ``explain_players`` and of
        interactions are of dtype object, one array for each image.

    Raises
    ------
    PatchShapError
        If an option is unknown or out of range, or scikit-image is missing.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((8, 12, 3))
    >>> image[:, 5:] = 1.0
    >>> slic(2)(image)[0].tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    """
    return Superpixels(n_segments, compactness, sigma, options)


def _skimage_slic() -> Callable[..., Any]:
    try:
        from skimage.segmentation import slic as segment
    except ImportError as error:
        raise MissingExtraError(
            f"slic: got no module {error.name!r}; expected scikit-image, which makes the "
            "superpixels. Install it with: pip install 'xai-patchshap[superpixels]'"
        ) from error
    found: Callable[..., Any] = segment
    return found

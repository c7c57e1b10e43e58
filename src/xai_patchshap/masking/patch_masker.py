"""PatchMasker: what hides the parts of an image that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from torch import Tensor

from .._arrays import Layout, as_array, as_tensor, layout_of
from .._compat import Deserializer, Serializer
from .._validation import checked, one_of, whole
from ..errors import PatchShapError, bad, rename
from ..players.grids import (
    Players,
    PlayersSpec,
    check_players,
    is_grid,
    mask_players,
    named_segmentation,
    player_means,
    resolve_players,
)
from ..players.trees import axis_tree, bpt_tree, linkage_tree
from .backgrounds import background_tensor, check_background
from .coalition_inputs import CoalitionInputs

__all__ = ["PatchMasker"]


class PatchMasker(shap.maskers.Masker):
    """Hide patches, superpixels or any groups of pixels behind a background.

    The masker is shared by all explainers of this package, and it is a shap masker: shap's
    own Permutation, Partition and Exact explainers run with it, on images that are numpy
    arrays. For Captum's own methods, :meth:`feature_mask` and :meth:`baselines` give the
    arguments of the same names.

    Parameters
    ----------
    players : optional
        (rows, columns) or ``"7x7"`` for a grid; 16 or ``"patch:16"`` for patches of 16
        pixels, 1 for single pixels; ``"slic:200"`` or :func:`~xai_patchshap.slic` for
        superpixels; an integer mask (H, W), or (N, H, W) with one mask for each image of
        the batch; a function from an image (H, W, C) to a mask. By default, single pixels
        for :class:`~xai_patchshap.OwenBPT`, else the patches of the model if it is a vision
        transformer, else about 7x7 patches; for inputs that are not images, each element.
    background : optional
        What stands in for hidden pixels, in the units of the images. By default 0, as in Captum:
        the mean of normalised images, and black in [0, 1]. ``explain_image`` and the command
        line, whose images are in [0, 1], take ``"mean"``. A number, a tuple
        with one number per channel, ``"mean"`` (the image's mean colour), ``"blur"`` or
        ``"blur:SIGMA"`` (Gaussian, by default a tenth of the shorter side), ``"noise"``
        (normal, with the image's mean and deviation per channel), or an image. ``"drop"``
        is for vision transformers: hidden patches are NaN, and their tokens leave the
        sequence (:class:`~xai_patchshap.TokenDropping`, which the explainers of this
        package put around the model themselves). A list of these, or images stacked along
        a new first axis, is a set: the values of the game are averaged over it, and each
        coalition costs one evaluation per background.
    layout : {"auto", "NCHW", "NHWC"}
        Axes of image batches; see :func:`layout_of`.
    clustering : {None, "bpt", "axis", "ward"} or ndarray of shape (n - 1, 4), optional
        Hierarchy of the players as a scipy linkage, which shap's Partition explainer
        needs: ``"bpt"`` is the data-aware binary partition tree of the image, ``"axis"``
        halves it, ``"ward"`` clusters players by where they are. ``shap.Explainer`` picks
        its Partition explainer for a masker with a clustering. shap's Exact explainer
        computes Owen values, not Shapley values, when it finds one.
    seed : int
        Seed of the noise background.

    Raises
    ------
    PatchShapError
        If players or background do not fit the image.

    Examples
    --------
    >>> import numpy as np
    >>> masker = PatchMasker(players=(2, 2), background=0.0)
    >>> image = np.ones((4, 4, 3), dtype=np.float32)
    >>> (masked,) = masker(np.array([True, False, False, False]), image)
    >>> masked.shape, float(masked.sum())
    ((1, 4, 4, 3), 12.0)
    """

    image_data = True

    @checked(layout=one_of("auto", "NCHW", "NHWC"), seed=whole(0, 2**63 - 1))
    def __init__(
        self,
        players: PlayersSpec = None,
        background: Any = 0.0,
        layout: Layout | Literal["auto"] = "auto",
        clustering: str | NDArray[np.float64] | None = None,
        seed: int = 0,
    ) -> None:
        check_players(players)
        check_background(background)
        self.players = players
        self.background = background
        self.layout = layout
        self.seed = seed
        self._input_clustering = clustering
        # shap asks hasattr(masker, "clustering"): the attribute exists only when asked for.
        if isinstance(clustering, str):
            trees = {"ward": self._ward, "bpt": self._bpt, "axis": self._axis}
            if clustering not in trees:
                raise bad(
                    "clustering",
                    repr(clustering),
                    "'bpt', 'axis', 'ward' or a scipy linkage (n - 1, 4)",
                )
            self.clustering: Any = trees[clustering]
        elif clustering is not None:
            try:
                linkage_tree(clustering)
            except PatchShapError as error:
                rename(error, {"hierarchy": "clustering"})
                raise
            self.clustering = np.asarray(clustering, dtype=np.float64)
        self._last: tuple[tuple[Any, ...], NDArray[Any], CoalitionInputs, Players] | None = None
        specs = background if isinstance(background, list) else [background]
        self.fixed_background = not any(isinstance(s, str) for s in specs)

    # ----- what the package's explainers use -------------------------------------------

    @property
    def drops_tokens(self) -> bool:
        """Whether hidden patches are to leave a vision transformer's sequence."""
        specs = self.background if isinstance(self.background, list) else [self.background]
        return any(isinstance(s, str) and s == "drop" for s in specs)

    def prepare(
        self,
        x: Tensor,
        layout: Layout | None,
        patch: tuple[int, int] | None = None,
        images: NDArray[Any] | None = None,
    ) -> tuple[CoalitionInputs, list[Players]]:
        """Bind the masker to a batch.

        Parameters
        ----------
        x : Tensor
            Images (N, C, H, W) or (N, H, W, C), as ``layout`` says; with ``layout=None``
            any batch (N, ...) whose elements play one by one.
        patch : (int, int), optional
            Patch size of a vision transformer, used when the masker names no players.
        images : ndarray (N, H, W, C), optional
            What a function that makes players is given; by default ``x`` channels last.
        """
        players = self._players_of_batch(x, layout, patch, images)
        shared = len(players) == 1
        labels = torch.from_numpy(np.stack([p.labels for p in players]))
        if layout is not None:
            labels = labels.unsqueeze(1 if layout == "NCHW" else -1)
        backgrounds = background_tensor(self.background, x, layout, self.seed)
        everyone = players * len(x) if shared else players
        bound = CoalitionInputs((x,), (backgrounds,), (labels,), tuple(p.n for p in everyone))
        return bound, everyone

    def _players_of_batch(
        self,
        x: Tensor,
        layout: Layout | None,
        patch: tuple[int, int] | None,
        images: NDArray[Any] | None,
    ) -> list[Players]:
        """One entry for each example, or a single one that all share."""
        if layout is None:
            if self.players is None:
                labels = np.arange(x[0].numel(), dtype=np.int64).reshape(x.shape[1:])
                return [Players(labels, tuple(f"feature {i}" for i in range(labels.size)))]
            given = self.players
            if callable(given) or isinstance(given, str | int) or is_grid(given):
                raise bad(
                    "players",
                    f"{given!r} for inputs of shape {tuple(x.shape)}",
                    f"a mask of shape {tuple(x.shape[1:])}",
                    "Grids, patches and superpixels are for images, (N, C, H, W) or (N, H, W, C).",
                )
            mask = as_array(given)
            return [mask_players(mask, tuple(x.shape[1:]))]
        if isinstance(self.players, np.ndarray | Tensor) and self.players.ndim == 3:
            masks = as_array(self.players)
            if len(masks) not in (1, len(x)):
                raise bad(
                    "players", f"{len(masks)} masks for {len(x)} images", "one mask, or one each"
                )
            specs: Sequence[PlayersSpec] = list(masks)
        elif callable(given := named_segmentation(self.players)):
            specs = [given] * len(x)
        else:
            specs = [as_array(given) if isinstance(given, Tensor) else given]
        if images is None:
            images = as_array(x.permute(0, 2, 3, 1) if layout == "NCHW" else x)
        # A function gets a copy: it may write into its image.
        return [
            resolve_players(s, images[i].copy() if callable(s) else images[i], patch)
            for i, s in enumerate(specs)
        ]

    def __repr__(self) -> str:
        return f"PatchMasker({', '.join(self.described())})"

    def described(self) -> list[str]:
        """What was chosen, as short text: players, background, layout, hierarchy."""
        shown = [] if self.players is None else [f"players={_short(self.players)}"]
        shown.append(f"background={_short(self.background)}")
        if self.layout != "auto":
            shown.append(f"layout={self.layout}")
        clustering = getattr(self, "clustering", None)
        if clustering is not None:
            shown.append(f"clustering={_short(clustering).lstrip('_')}")
        return shown

    # ----- shap's masker protocol --------------------------------------------------------

    def _one(self, x: NDArray[Any] | Tensor) -> tuple[CoalitionInputs, Players]:
        # shap calls with the same row again and again: the last one is remembered.
        key = (type(x), self.players, self.background, self.layout, self.seed)
        image = as_array(x)
        last = self._last
        same = last is not None and all(a is b for a, b in zip(last[0], key, strict=True))
        if last is None or not same or not np.array_equal(last[1], image):
            last = self._last = (key, image.copy(), *self._bind(x))
        return last[2:]

    def _bind(self, x: NDArray[Any] | Tensor) -> tuple[CoalitionInputs, Players]:
        batch = as_tensor(x, "x")[None]
        if isinstance(self.players, np.ndarray | Tensor) and self.players.ndim == 3:
            raise PatchShapError(
                "players: one mask for each image of a batch does not say which image this is; "
                "give one mask (H, W) or a function of the image when shap drives the masker."
            )
        layout = None
        if batch.dim() == 4:
            layout = layout_of(batch if isinstance(x, Tensor) else batch.numpy(), self.layout)
        bound, players = self.prepare(batch, layout)
        return bound, players[0]

    def __call__(self, mask: Any, x: NDArray[Any] | Tensor) -> tuple[NDArray[Any], ...]:
        """Masked copies of one image, one for each background, as shap's maskers give them.

        Parameters
        ----------
        mask : ndarray of bool, shape (n,); or True or False for all players
        x : ndarray or Tensor, one image without batch axis

        Returns
        -------
        tuple of one ndarray of shape (S, *x.shape)
        """
        bound, players = self._one(x)
        coalition = as_array(as_tensor(mask, "mask")).astype(bool)
        if coalition.shape not in ((), (players.n,)):
            raise bad("mask", f"shape {coalition.shape}", f"({players.n},), one entry per player")
        coalition = np.broadcast_to(coalition, (players.n,))
        s = bound.n_backgrounds
        rows = bound.rows(
            torch.zeros(s, dtype=torch.long),
            torch.from_numpy(coalition.copy()).expand(s, -1),
            torch.arange(s),
        )
        masked = as_array(rows[0])
        return (
            masked if isinstance(x, Tensor) else masked.astype(np.asarray(x).dtype, copy=False),
        )

    def shape(self, x: NDArray[Any] | Tensor) -> tuple[int, int]:
        """(number of backgrounds, number of players) for the image ``x``."""
        bound, players = self._one(x)
        return bound.n_backgrounds, players.n

    def mask_shapes(self, x: NDArray[Any] | Tensor) -> list[tuple[int, ...]]:
        """Shape of the mask for the image ``x``: one entry per player."""
        return [(self._one(x)[1].n,)]

    def feature_names(self, x: NDArray[Any] | Tensor) -> list[list[str]]:
        """Names of the players of the image ``x``."""
        return [list(self._one(x)[1].names)]

    def data_transform(self, x: NDArray[Any] | Tensor) -> list[NDArray[np.float64]]:
        """Mean intensity of each player, which shap's plots show beside its value."""
        players = self._one(x)[1]
        return [player_means(as_array(x), players)]

    def _ward(self, x: NDArray[Any] | Tensor) -> NDArray[np.float64]:
        labels = self._one(x)[1].labels
        position = np.indices(labels.shape).reshape(labels.ndim, -1)
        count = np.bincount(labels.ravel())
        centre = [np.bincount(labels.ravel(), weights=p) / count for p in position]
        return np.asarray(linkage(np.stack(centre, axis=1), "ward"))

    def _bpt(self, x: NDArray[Any] | Tensor) -> NDArray[np.float64]:
        image = as_array(x)
        if image.ndim != 3:
            raise bad("clustering", f"'bpt' for an input of shape {image.shape}", "an image")
        batch = as_tensor(x, "x")[None] if isinstance(x, Tensor) else np.asarray(x)[None]
        if layout_of(batch, self.layout) == "NCHW":
            image = np.moveaxis(image, 0, -1)
        return bpt_tree(image, self._one(x)[1].labels).linkage

    def _axis(self, x: NDArray[Any] | Tensor) -> NDArray[np.float64]:
        labels = self._one(x)[1].labels
        if labels.ndim != 2:
            raise bad("clustering", f"'axis' for an input of shape {np.shape(x)}", "an image")
        return axis_tree(labels).linkage

    # ----- for Captum's own methods ------------------------------------------------------

    def feature_mask(self, x: Tensor) -> Tensor:
        """Players as Captum's ``feature_mask``.

        The masker knows no model: where it names no players, they are about 7x7 patches.

        Parameters
        ----------
        x : Tensor of shape (N, C, H, W) or (N, ...)

        Returns
        -------
        Tensor of int64
            (1 or N, 1, H, W) for images, (1, ...) else; broadcasts against ``x``.
        """
        layout = self._layout_of_tensor(x)
        return self.prepare(x, layout)[0].labels[0].to(x.device)

    def baselines(self, x: Tensor) -> Tensor:
        """The background as Captum's ``baselines``, (1 or N, ...)."""
        layout = self._layout_of_tensor(x)
        backgrounds = background_tensor(self.background, x, layout, self.seed)
        if len(backgrounds) > 1:
            raise PatchShapError(
                f"baselines: Captum takes one baseline, this masker has {len(backgrounds)} "
                "backgrounds; average Captum's attributions over maskers with one each."
            )
        return backgrounds[0]

    def _layout_of_tensor(self, x: Any) -> Layout | None:
        if not isinstance(x, Tensor):
            raise bad("x", f"an object of type {type(x).__name__}", "a tensor, as Captum takes it")
        return layout_of(x, self.layout) if x.dim() == 4 else None

    # ----- shap's serialization ----------------------------------------------------------

    def save(self, out_file: Any) -> None:
        """Write the masker to a binary stream, as shap's maskers do."""
        super().save(out_file)
        with Serializer(out_file, "xai_patchshap.PatchMasker", version=0) as s:
            for name, value in self._arguments().items():
                s.save(name, value)

    @classmethod
    def load(cls, in_file: Any, instantiate: bool = True) -> Any:
        """Read a masker back from a binary stream."""
        if instantiate:
            return cls._instantiated_load(in_file)
        kwargs = super().load(in_file, instantiate=False)
        with Deserializer(in_file, "xai_patchshap.PatchMasker", min_version=0, max_version=0) as s:
            for name in ("players", "background", "layout", "clustering", "seed"):
                kwargs[name] = s.load(name)
        return kwargs

    def _arguments(self) -> dict[str, Any]:
        return {
            "players": self.players,
            "background": self.background,
            "layout": self.layout,
            "clustering": self._input_clustering,
            "seed": self.seed,
        }


def _short(spec: Any) -> str:
    """A choice as a person would say it; arrays by their shape."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, np.ndarray | Tensor):
        return f"{type(spec).__name__} {tuple(spec.shape)}"
    if isinstance(spec, list):
        return f"[{', '.join(map(_short, spec))}]"
    if callable(spec):
        return getattr(spec, "__name__", type(spec).__name__)
    return repr(spec)

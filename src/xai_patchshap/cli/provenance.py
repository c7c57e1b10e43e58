"""What the numbers of a result depend on: the settings, the model's code and its weights."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..models.named_model import NamedModel
from ..models.onnx import OnnxModel
from .images import digest_of
from .settings import EvaluateSettings, ExplainSettings

__all__: list[str] = []  # parts of the command line, for no one else


def provenance(
    settings: ExplainSettings | EvaluateSettings, named: NamedModel, model: Any
) -> dict[str, Any]:
    """All that the numbers of a result depend on, but for the image.

    The device and the size of the batches are not among it: they change the last digits alone.
    """
    found: dict[str, Any] = settings.asked() | {"background": settings.background}
    if Path(settings.background).is_file():
        found["background"] = digest_of(settings.background)
    if code := code_of(named.name):
        found["code"] = code
    return found | {
        "model": named.name,
        "weights": weights_of(model),
        "scale": named.scale,
        "size": list(named.size),
        "version": __version__,
    }


def code_of(name: str) -> str:
    """The digest of the source behind ``module:function``; empty for any other model.

    It is that of the module's file, and of the files beside it or in its package that the
    module uses. What it runs in other ways cannot be seen.
    """
    prefix, _, rest = name.partition(":")
    if not rest or prefix in ("timm", "torchvision", "hf", "onnx") or prefix not in sys.modules:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for _, file in sorted(_sources(sys.modules[prefix]).items()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(first: ModuleType) -> dict[str, Path]:
    """Files of a module and of those that it uses and that lie with it, by their names."""
    package = first.__name__.partition(".")[0]
    top = Path(getattr(sys.modules.get(package, first), "__file__", None) or first.__name__)
    home = top.parent.parent if top.stem == "__init__" else top.parent
    found: dict[str, Path] = {}
    waiting = [first.__name__]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = _file_of(name, module, home)
        below = file.relative_to(home).parts if home in file.parents else ()
        is_near = below and not {"site-packages", "dist-packages"} & set(file.parts)
        is_own = name.partition(".")[0] == package
        if name in found or not (is_own or is_near) or not file.is_file():
            continue
        found[name] = file
        for value in list(vars(module).values()) if module else ():
            used = value if isinstance(value, ModuleType) else _home_of(value)
            if used is not None:
                waiting.append(used.__name__)
        waiting += _imports(file, name)
    return found


def _file_of(name: str, module: ModuleType | None, home: Path) -> Path:
    """Where a module lies, or would lie, which may be imported only when it is needed."""
    if module is not None:
        return Path(getattr(module, "__file__", None) or "")
    place = home.joinpath(*name.split("."))
    package = place / "__init__.py"
    return package if package.is_file() else place.with_suffix(".py")


def _imports(file: Path, name: str) -> list[str]:
    """What a file's code imports, anywhere in it; names in a module are taken for modules too."""
    try:
        code = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # a compiled module
        return []
    parts = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found += [start, *(f"{start}.{alias.name}".lstrip(".") for alias in node.names)]
    names = {".".join(name.split(".")[:k]) for name in found for k in range(1, name.count(".") + 2)}
    return sorted(names - {""})


def _home_of(value: Any) -> ModuleType | None:
    """The module where a class or function was written."""
    written = value if isinstance(value, type | FunctionType) else type(value)
    return sys.modules.get(written.__module__)


def weights_of(model: Any) -> str:
    """What tells a model's weights from others; of a function, those of all it computes with."""
    digest = hashlib.blake2b(digest_size=16)
    for key, content in _contents(model, set()):
        digest.update(key.encode())
        digest.update(content)
    return digest.hexdigest()


def _contents(value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Names and bytes of the tensors that a model holds, or that its function refers to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    used: list[Any] = []
    if isinstance(value, OnnxModel):
        yield "", value.content
    elif isinstance(value, torch.nn.Module):
        yield from ((k, _bytes(v)) for k, v in value.state_dict().items() if _is_dense(v))
    elif _is_dense(value):
        yield "", _bytes(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield "", value.tobytes()
    elif isinstance(value, partial):
        used = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        used = [value.__func__, value.__self__]
    elif isinstance(value, dict):
        used = list(value.values())
    elif isinstance(value, list | tuple):
        used = list(value)
    elif isinstance(value, FunctionType) and not _is_installed(value):
        used = _named_in(value)
    elif _is_own_object(value):
        used = [*vars(value).values(), *([value.__call__] if callable(value) else [])]
    for part in used:
        yield from _contents(part, seen)


def _is_own_object(value: Any) -> bool:
    """Whether a value is an object of a class that no library has."""
    is_code = isinstance(value, type | ModuleType | FunctionType)
    return hasattr(value, "__dict__") and not is_code and not _is_installed(type(value))


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _named_in(function: FunctionType) -> list[Any]:
    """What the names in a function's code stand for."""
    codes = [function.__code__]
    for code in codes:
        codes += [part for part in code.co_consts if isinstance(part, CodeType)]
    names = sorted({name for code in codes for name in code.co_names})
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    for module in [value for value in found if isinstance(value, ModuleType)]:
        found += [vars(module)[name] for name in names if name in vars(module)]
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it yet
            found.append(cell.cell_contents)
    return found


def _is_installed(written: Any) -> bool:
    """Whether a function or class is of a library, and its state not that of a model."""
    module = sys.modules.get(written.__module__ or "")
    parts = Path(getattr(module, "__file__", None) or "").parts
    return bool({"site-packages", "dist-packages"} & set(parts))

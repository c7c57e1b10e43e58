"""Every check of an argument, declared once.

A :class:`Constraint` says what an argument may be. Called with the name and the value of an
argument, it returns the value as a plain Python object, or raises the package's error. Constraints
are declared for a whole function by :func:`checked`, and tests are generated from these
declarations::

    @checked(n_trees=whole(1, 50), seed=maybe(whole(0)))
    def grow(n_trees=4, seed=None): ...
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import bad

__all__ = [
    "Constraint",
    "a_function",
    "check_memory",
    "checked",
    "finite",
    "free_memory",
    "ids",
    "list_of_names",
    "maybe",
    "one_of",
    "pair",
    "said",
    "whole",
]

F = TypeVar("F", bound=Callable[..., Any])


class _RefusedError(Exception):
    """What came, in the words of the message, where they are not just the value's repr."""


@dataclass(frozen=True)
class Constraint:
    """What an argument may be.

    Attributes
    ----------
    expected : str
        The words of the message.
    take : callable
        Returns the value in its plain form, or raises.
    good, wrong : tuple
        Examples of values that are taken and of values that are refused.
    mend : str
        Advice that ends the message.
    """

    expected: str
    take: Callable[[Any], Any]
    good: tuple[Any, ...]
    wrong: tuple[Any, ...]
    mend: str = ""

    def __call__(self, what: str, value: Any) -> Any:
        """The value in its plain form, or an error that names the argument."""
        try:
            return self.take(value)
        except _RefusedError as refused:
            came = str(refused) or _shown(value)
        raise bad(what, came, self.expected, self.mend)


def whole(
    least: int, most: int | None = None, *, also: int | None = None, unit: str = "", mend: str = ""
) -> Constraint:
    """A whole number, Python's or numpy's, from ``least`` to ``most``, or ``also`` one other."""

    def take(value: Any) -> int:
        # The type comes first: what is no number may not be comparable.
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise _RefusedError
        if value != also and (value < least or (most is not None and value > most)):
            raise _RefusedError
        return int(value)

    other = "" if also is None else f"{also}, or "
    end = "" if most is None else f" and at most {most}"
    beyond = () if most is None else (most + 1, 10**40)
    return Constraint(
        f"{other}a whole number of at least {least}{end}{unit}",
        take,
        (least, np.int64(least)) + (() if also is None else (also,)),
        (True, False, None, 2.0, "2", math.nan, least - 1 - (least - 1 == also), [2], *beyond),
        mend,
    )


def finite(
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    mend: str = "",
) -> Constraint:
    """A finite real number within bounds; ``above`` and ``below`` are not within."""

    def take(value: Any) -> float:
        number = _number(value)
        if not (math.isfinite(number) and least <= number <= most and above < number < below):
            raise _RefusedError
        return number

    bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
    given = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    lower = [low - 1 for low in (least, above) if math.isfinite(low)]
    upper = [high + 1 for high in (most, below) if math.isfinite(high)]
    edges = [edge for edge in (above, below) if math.isfinite(edge)]
    low, high = max(least, above), min(most, below)
    if math.isfinite(low) and math.isfinite(high):
        middle = (low + high) / 2
    else:
        middle = low + 1 if math.isfinite(low) else high - 1 if math.isfinite(high) else 0.0
    return Constraint(
        " ".join(["a finite number", " and ".join(given)]).rstrip(),
        take,
        (middle, np.float32(middle)),
        (True, None, "1", math.nan, math.inf, np.zeros(2), *lower, *upper, *edges),
        mend,
    )


def one_of(*values: Any, mend: str = "") -> Constraint:
    """One of a few texts or numbers."""

    def take(value: Any) -> Any:
        kind = int if isinstance(value, np.integer) else type(value)
        for known in values:
            if issubclass(kind, type(known)) and kind is not bool and value == known:
                return known
        raise _RefusedError

    listed = f"one of {', '.join(map(repr, values[:-1]))} or {values[-1]!r}"
    return Constraint(
        listed, take, values, (None, True, "no such", 10**6, math.nan, ["a"], np.zeros(2)), mend
    )


def maybe(constraint: Constraint) -> Constraint:
    """``None``, or what another constraint takes."""
    return replace(
        constraint,
        expected=f"{constraint.expected}, or None",
        take=lambda value: None if value is None else constraint.take(value),
        good=(None, *constraint.good),
        wrong=tuple(value for value in constraint.wrong if value is not None),
    )


def pair(constraint: Constraint) -> Constraint:
    """Two values in a tuple or a list, or one that counts twice."""

    def take(value: Any) -> tuple[Any, Any]:
        both = tuple(value) if isinstance(value, tuple | list) else (value, value)
        if len(both) != 2:
            raise _RefusedError
        try:
            return constraint.take(both[0]), constraint.take(both[1])
        except _RefusedError:
            raise _RefusedError from None

    one, wrong = constraint.good[0], [v for v in constraint.wrong if not isinstance(v, list)]
    return replace(
        constraint,
        expected=f"{constraint.expected}, or two in a tuple",
        take=take,
        good=(*constraint.good, (one, one), [one, one]),
        wrong=(*wrong, (), (one,), (one, one, one), *((one, value) for value in wrong)),
    )


def a_function(example: str) -> Constraint:
    """What can be called."""

    def take(value: Any) -> Any:
        if not callable(value):
            raise _RefusedError
        return value

    return Constraint(f"a function, as {example}", take, (abs,), (None, "abs", 1.0, True))


def list_of_names() -> Constraint:
    """Names in an order, which are returned as a list; numbers will do, sets have no order."""

    def take(value: Any) -> list[Any]:
        if isinstance(value, str | bytes):
            raise _RefusedError(f"the text {value!r}")
        if isinstance(value, set | frozenset) or not isinstance(value, Iterable):
            raise _RefusedError(f"an object of type {type(value).__name__}")
        listed = list(value)
        for name in listed:
            if isinstance(name, Iterable) and not isinstance(name, str | bytes):
                raise _RefusedError(f"the name {name!r}")
        return listed

    return Constraint(
        "a list of names, one text each",
        take,
        (["a", "b"], ("a",), np.array(["a", "b"]), [1, 2]),
        ("ab", b"ab", {"a", "b"}, frozenset("ab"), 3, True, None, [["a"], ["b"]]),
    )


def ids(*, gaps: bool = True, empty: bool = False) -> Constraint:
    """An array of whole numbers of at least 0, returned as int64, with or without gaps."""

    def take(value: Any) -> NDArray[np.int64]:
        mask = _whole_numbers(np.asarray(value))
        if mask.size == 0 and not empty:
            raise _RefusedError("a mask without positions")
        if mask.min(initial=0) < 0:
            raise _RefusedError(f"the negative id {mask.min()}")
        if gaps:
            return mask
        found = np.unique(mask)
        if found[-1] != len(found) - 1:
            missing = np.flatnonzero(np.diff(found, prepend=-1) > 1)[:5]
            some = ", ".join(str(found[i] - 1) for i in missing)
            raise _RefusedError(f"ids up to {found[-1]} without {some}")
        return mask

    wrong: tuple[Any, ...] = (
        *([] if empty else [[]]),
        [[0.5, 1.0]],
        [[-1, 0]],
        [[math.nan]],
        [["a"]],
        [[2.0**63]],
        None,
        "abc",
        [[1j]],
    )
    if gaps:
        return Constraint("whole numbers of at least 0", take, ([[0, 2]], [[0.0]]), wrong)
    return Constraint(
        "whole numbers 0..n-1, each used at least once",
        take,
        ([[0, 1], [1, 0]], [[0.0]]),
        (*wrong, [[0, 2]], [[1]]),
        "np.unique(labels, return_inverse=True)[1].reshape(labels.shape) closes the gaps.",
    )


def _whole_numbers(mask: NDArray[Any]) -> NDArray[np.int64]:
    counts = mask.dtype.kind in "iub"
    if not counts and (mask.dtype.kind != "f" or not np.array_equal(mask, np.floor(mask))):
        raise _RefusedError(f"a mask of dtype {mask.dtype}")
    if mask.size and mask.dtype.kind in "fu" and float(mask.max()) >= 2**63:
        raise _RefusedError(f"the id {mask.max():g}")
    return mask.astype(np.int64)


def _number(value: Any) -> float:
    """The number, or NaN for what is none."""
    of_many = isinstance(value, np.ndarray) and value.ndim
    if isinstance(value, bool | np.bool_ | str | bytes) or of_many:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def _shown(value: Any) -> str:
    """What came, also where it is a number too large to be written out."""
    return said(value) if isinstance(value, int) and abs(value) >= 10**40 else repr(value)


# Every declaration: the function as its user calls it, and its constraints.
DECLARED: list[tuple[Callable[..., Any], dict[str, Constraint]]] = []


def checked(**constraints: Constraint) -> Callable[[F], F]:
    """Check the arguments of a function, or of a class's constructor, before it runs.

    Defaults are not checked, and a call that Python itself refuses goes on to Python's error.
    """

    def declare(made: F) -> F:
        function: Any = vars(made)["__init__"] if isinstance(made, type) else made
        signature = inspect.signature(function)
        unknown = set(constraints) - set(signature.parameters)
        if unknown:
            raise TypeError(f"{made.__qualname__} has no arguments {sorted(unknown)}")

        @wraps(function)
        def with_checks(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)
            for name, constraint in constraints.items():
                if name in given.arguments:
                    given.arguments[name] = constraint(name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        # getfullargspec, which shap's load asks, does not look behind wrappers.
        with_checks.__signature__ = signature  # type: ignore[attr-defined]
        DECLARED.append((with_checks, constraints))
        if isinstance(made, type):
            setattr(made, "__init__", with_checks)  # noqa: B010
            return made
        return with_checks  # type: ignore[return-value]

    return declare


_UNKNOWN = 2**36  # where the platform says nothing
_LIMITS_OF_CONTAINERS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Bytes that this process can still get, as far as the platform tells.

    The least of what the system has available, what a container leaves, and what a limit on
    the address space leaves.
    """
    found = [_available()]
    for limit, used in _LIMITS_OF_CONTAINERS:
        most, now = _written(limit), _written(used)
        if most is not None and now is not None:
            found.append(most - now)
    left = _left_of_address_space()
    return max(0, min(found if left is None else [*found, left]))


def check_memory(what: str, came: str, n_bytes: int, mend: str) -> None:
    """Raise unless ``n_bytes`` fit into the free memory.

    Parameters
    ----------
    what, came, mend : str
        As for the package's other errors.
    n_bytes : int
        What is about to be asked for at the least; of any size.
    """
    # Free memory is looked up for what is large only: most calls are small.
    if n_bytes < 2**28 or n_bytes <= (free := free_memory()):
        return
    raise bad(
        what,
        f"{came}, which takes {_gib(n_bytes)}",
        f"at most the {_gib(free)} of memory that are free",
        mend,
    )


def said(number: int) -> str:
    """A whole number of any size, in few characters."""
    if abs(number) < 10**18:
        return f"{number:,}"
    return f"about {'-' * (number < 0)}2**{(abs(int(number)) - 1).bit_length()}"


def _gib(n_bytes: int) -> str:
    """Gibibytes of a number that may be too large for a float, or to be written out."""
    tenths = n_bytes * 10 // 2**30
    return f"{tenths / 10:,.1f} GiB" if tenths < 10**16 else "more than 10**15 GiB"


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return _UNKNOWN


def _written(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _left_of_address_space() -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return None if limit < 0 else limit - pages * resource.getpagesize()
    except (ImportError, OSError):
        return None

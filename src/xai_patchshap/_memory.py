"""How much memory there is, asked before a size that the user chose is taken from it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import bad

__all__ = ["check_memory", "free_memory", "said"]

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
        most, now = _number(limit), _number(used)
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
    return f"{number:,}" if number < 10**18 else f"about 2**{int(number - 1).bit_length()}"


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


def _number(path: str) -> int | None:
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

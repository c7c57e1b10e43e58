"""A folder of results belongs to one process at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import PatchShapError, bad

__all__ = ["draft_of", "only_process_in", "write_atomically", "write_text"]

_LOCK, _HOLDER = ".xai-patchshap.lock", ".xai-patchshap.holder"
_DRAFT = ".xai-patchshap-draft-"
# Seconds until another process is refused. Workers of a killed process hold on to its lock for
# as long as they take to notice.
_PATIENCE = 6.0
# What is written to see whether there is room: less than any result takes.
_ROOM = bytes(2**16)
# A disk that is full, has no room left for this user, takes no larger file, or is read-only.
_CANNOT_WRITE = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO")
}


@contextmanager
def only_process_in(folder: str | os.PathLike[str], *, deep: bool = False) -> Iterator[None]:
    """Make a folder of results, and keep all other processes out of it.

    The lock ends with the process, however that ends. What a killed process had begun to write
    is removed. A folder that was made and not written to is removed.

    Parameters
    ----------
    folder : path
    deep : bool
        Whether results lie at any depth below the folder, or in it alone.

    Raises
    ------
    PatchShapError
        If the folder cannot be made or written to, if another process is at work in it, or if
        it can no longer be written to before the end.
    """
    folder = Path(folder)
    made: list[Path] = []
    lock = FileLock(folder / _LOCK, timeout=_PATIENCE)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _taken(folder) from None
    except (OSError, NotImplementedError) as error:
        raise _unusable(folder, error) from error
    try:
        _check_nested(folder, deep)
        _prepare(folder, deep)
        yield
    except OSError as error:
        if not _is_about(folder, error):
            raise
        raise _unusable(folder, error) from error
    finally:
        _leave(folder, made)
        lock.release()


def draft_of(file: Path) -> Path:
    """Where this process writes a file before it replaces the file that was there."""
    return file.with_name(f"{_DRAFT}{os.getpid()}{file.suffix}")


def write_text(file: Path, text: str) -> None:
    """Write a file so that it is there as a whole or as it was before, whatever happens."""
    draft = draft_of(file)
    draft.write_bytes(text.encode(errors="backslashreplace"))
    draft.replace(file)


def _check_nested(folder: Path, deep: bool) -> None:
    """Raise if another process is at work in a folder around this one, or below it."""
    around = [parent / _LOCK for parent in folder.resolve().parents]
    for path in (*around, *(folder.rglob(_LOCK) if deep else ())):
        if path == folder / _LOCK or not path.exists():
            continue
        try:
            FileLock(path, timeout=0).acquire().lock.release()
        except Timeout:
            raise _taken(path.parent) from None
        except (OSError, NotImplementedError):
            pass  # nobody that we would disturb writes there


def _prepare(folder: Path, deep: bool) -> None:
    """Remove drafts of processes that were killed, see whether there is room, say who we are."""
    found = folder.rglob if deep else folder.glob
    for draft in list(found(f"{_DRAFT}*")):
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft)
        else:
            draft.unlink()
    draft = draft_of(folder / "room")
    try:
        draft.write_bytes(_ROOM)
    finally:
        draft.unlink(missing_ok=True)
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    write_text(folder / _HOLDER, text)  # and through no link


def _taken(folder: Path) -> PatchShapError:
    return bad(
        "folder",
        f"'{folder}', where {_holder(folder)} is at work",
        "a folder that no other process writes to",
        "Wait until that process has ended, or name another folder.",
    )


def _holder(folder: Path) -> str:
    """Who has the lock, in words."""
    try:
        if not (folder / _HOLDER).is_file():
            return "another process"
        said = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return f"process {said['pid']} on {said['host']}, since {said['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # the process has only just begun
        return "another process"


def _leave(folder: Path, made: list[Path]) -> None:
    with suppress(OSError):
        (folder / _HOLDER).unlink(missing_ok=True)
        if made and {path.name for path in folder.iterdir()} <= {_LOCK}:
            (folder / _LOCK).unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def _is_about(folder: Path, error: OSError) -> bool:
    """Whether an error is that of a folder that can no longer be written to."""
    if error.errno in _CANNOT_WRITE or not folder.is_dir():
        return True
    names = (error.filename, error.filename2)
    return any(isinstance(name, str) and folder in Path(name).parents for name in names)


def _unusable(folder: Path, error: Exception) -> PatchShapError:
    reason = getattr(error, "strerror", None) or str(error)
    gone = ", which is gone" if not folder.exists() and isinstance(error, FileNotFoundError) else ""
    return bad(
        "folder",
        f"'{folder}'{gone}",
        "a folder that can be made and written to",
        f"({reason}) Free its disk or name another folder; what is finished is kept.",
    )


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or as it was before, whatever happens."""
    new = draft_of(file)
    with new.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)

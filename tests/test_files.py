"""A folder of results, which one process has at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xai_patchshap import PatchShapError
from xai_patchshap import _files as _folders
from xai_patchshap._files import draft_of, only_process_in

# What takes the lock as ours does, without the seconds that torch takes to import.
OTHER = """
import json, sys, time
from pathlib import Path
from filelock import FileLock
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with FileLock(folder / ".xai-patchshap.lock"):
    holder = {"pid": 4711, "host": "elsewhere", "since": "yesterday"}
    (folder / ".xai-patchshap.holder").write_text(json.dumps(holder))
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(_folders, "_PATIENCE", 0.05)


@pytest.fixture
def other(tmp_path):
    """A process that has a folder, until it is killed."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", OTHER, str(folder)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "locked\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path, other):
    other(tmp_path / "out")
    message = (
        "folder: got '.*out', where process 4711 on elsewhere, since yesterday, is at work; "
        "expected a folder that no other process writes to. Wait until"
    )
    with pytest.raises(PatchShapError, match=message), only_process_in(tmp_path / "out"):
        pass


def test_a_killed_process_leaves_nothing_that_blocks(tmp_path, other):
    out = tmp_path / "out"
    process = other(out)
    (out / "sub").mkdir()
    draft_of(out / "sub" / "a.npz").write_bytes(b"half a resu")
    draft_of(out / "a.pairs").mkdir()
    process.kill()
    process.wait()
    with only_process_in(out, deep=True):
        assert json.loads((out / ".xai-patchshap.holder").read_text())["pid"] == os.getpid()
        assert not list(out.rglob("*draft*"))
    assert not (out / ".xai-patchshap.holder").exists()


def test_threads_of_one_process_are_kept_apart_too(tmp_path):
    errors = []

    def second():
        try:
            with only_process_in(tmp_path):
                pass
        except PatchShapError as error:
            errors.append(str(error))

    with only_process_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert re.search(rf"where process {os.getpid()} on .* is at work", errors[0])
    with only_process_in(tmp_path):  # again, once it is free
        pass


@pytest.mark.parametrize(("theirs", "ours"), [(".", "sub/deep"), ("sub/deep", "."), ("sub", "s")])
def test_folders_inside_each_other_are_one(tmp_path, other, theirs, ours):
    (tmp_path / "s").symlink_to(tmp_path / "sub")
    other(tmp_path / theirs)
    taken = only_process_in(tmp_path / ours, deep=True)
    with pytest.raises(PatchShapError, match="4711"), taken:
        pass


def test_folders_beside_each_other_are_two(tmp_path, other):
    other(tmp_path / "a")
    with only_process_in(tmp_path / "b"):
        pass


def test_what_was_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), only_process_in(tmp_path / "a" / "b"):
        raise RuntimeError("mine")
    assert not (tmp_path / "a").exists()
    with only_process_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert (tmp_path / "a" / "b" / "result").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/below", "loop", "loop/below"):
        (tmp_path / "loop").unlink(missing_ok=True)
        (tmp_path / "loop").symlink_to("loop")
        taken = only_process_in(tmp_path / path)
        with pytest.raises(PatchShapError, match="expected a folder that can be made"), taken:
            pass


def refuse(name, reason):
    def failing(*_, **__):
        raise OSError(reason, os.strerror(reason))

    return name, failing


@pytest.mark.parametrize(
    ("method", "reason"),
    [("mkdir", errno.EROFS), ("mkdir", errno.EACCES), ("write_bytes", errno.ENOSPC)],
)
def test_a_folder_that_cannot_be_written_to_is_found_before_any_work(
    tmp_path, monkeypatch, method, reason
):
    monkeypatch.setattr(Path, *refuse(method, reason))
    message = re.escape(f"({os.strerror(reason)})")
    with pytest.raises(PatchShapError, match=message), only_process_in(tmp_path / "out"):
        pytest.fail("there was no place to work in")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_any_more_is_reported(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(PatchShapError, match="No space left on device"), only_process_in(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PatchShapError, match="out', which is gone;"), only_process_in(out):
        shutil.rmtree(out) or (out / "x").write_text("")
    with pytest.raises(FileNotFoundError), only_process_in(out):
        (tmp_path / "elsewhere").read_text()  # that is not about the folder

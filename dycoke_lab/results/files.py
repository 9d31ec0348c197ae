"""Files that are written as a whole or not at all; folders that can take a run, one at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOM = 100 * 2**20  # bytes: a training's two checkpoints and its model take half of it, rows much less


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which then takes the place of `path`: if the process is killed
    meanwhile, the old content or the new is there, never a part."""
    new = path.with_name(path.name + ".new")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    with replacing(path) as new:
        new.write_text(text)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON. ValueError, which names the file, if it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise damaged(path, f"a {type(found).__name__} where an object should be")
    return found


def damaged(path: Path, why: object) -> ValueError:
    """Return the error for a file that cannot be what it should be."""
    reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
    return ValueError(f"{path} is damaged ({reason}): restore it from a copy, or delete it and make it again")


def check_folder(folder: Path, room: int = ROOM) -> None:
    """Raise OSError, which names the folder, if no run can leave its results there: it cannot be written,
    or the disk is full. Creates nothing."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is not a folder: choose another one with --out")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} cannot be written ({error.strerror}): choose another folder with --out"
        ) from error
    free = shutil.disk_usage(there).free
    if free < room:
        raise OSError(
            f"{folder} has {free / 2**20:.0f} MiB left on its disk, and a run needs about "
            f"{room / 2**20:.0f} MiB: make room, or choose another folder with --out"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create the folder if need be, and hold it for one run. However a process ends, the system then lets
    go of it.

    Raises OSError for a folder that no run can use, BlockingIOError for one that another run holds, in
    this process or in another.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)  # the folder itself: no file is left in it
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{folder} is in use by another run: wait until it ends, or choose another folder with --out"
            ) from None
        except OSError:  # a file system that has no locks
            pass
        yield
    finally:
        os.close(handle)

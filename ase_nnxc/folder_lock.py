"""One run at a time in a folder of results."""

import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase.calculators.calculator import InputError
from filelock import FileLock, Timeout

LOCK, OWNER = "run.lock", "run.owner"
"""The file that is locked, and beside it a note that names the process that holds the lock."""


@contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Create a folder and keep other runs out of it; without a folder nothing is locked.

    The operating system holds the lock, so that it ends with the process, however that ends. The file `run.lock` stays
    in the folder; it means nothing unless it is locked.

    Raises
    ------
    InputError
        If another run is using the folder; the message names its process and machine.
    """
    if folder is None:
        yield
        return
    lock = _acquired(FileLock(folder / LOCK), folder)
    try:
        yield
    finally:
        _release(lock, folder)


def hold_folder(user: object, folder: Path) -> None:
    """Create a folder and keep other processes out of it until an object is deleted; see `folder_lock`.

    Other objects of this process may use the folder, too.
    """
    lock = _acquired(FileLock(folder / LOCK, is_singleton=True), folder)
    weakref.finalize(user, _release, lock, folder)


def _acquired(lock: FileLock, folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another run ({_read(folder / OWNER)}) is using {folder}: wait until it has ended, or choose another "
            "folder"
        ) from error
    (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def _release(lock: FileLock, folder: Path) -> None:
    if lock.lock_counter == 1:
        (folder / OWNER).unlink(missing_ok=True)
    lock.release()


def _read(owner: Path) -> str:
    try:
        return owner.read_text(encoding="utf-8") or "just starting"
    except FileNotFoundError:
        return "just starting"

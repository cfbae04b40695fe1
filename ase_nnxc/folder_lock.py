"""One run at a time in a folder of results."""

import os
import socket
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
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / LOCK), folder / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another run ({_read(owner)}) is using {folder}: wait until it has ended, or choose another folder"
        ) from error
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read(owner: Path) -> str:
    try:
        return owner.read_text(encoding="utf-8") or "just starting"
    except FileNotFoundError:
        return "just starting"

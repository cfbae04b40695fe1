"""Files of tensors and plain data that a resumed training reads, each with the SHA-256 by which it is verified."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from ase.calculators.calculator import InputError

from ..calculator.memory import physical_memory
from ..regular_files import check_regular_file

LARGEST = 2**36  # bytes of a file, where the system does not report its memory


def save_tensors(data: Any, path: Path) -> str:
    """Write tensors and plain data to a file and return its SHA-256, hexadecimal."""
    torch.save(data, path)
    return _digest(path)


def load_tensors(path: Path, digest: str) -> Any:
    """Return what `save_tensors` wrote, with all tensors on the CPU.

    Raises
    ------
    InputError
        If there is no such file, if it is not a regular one, or if it does not have this SHA-256.
    """
    try:
        check_regular_file(path, physical_memory() or LARGEST)
        found = _digest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if found != digest:
        raise InputError(f"{path} is damaged or was changed: it does not have its SHA-256")
    return torch.load(path, map_location="cpu", weights_only=True)


def _digest(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            sha256.update(block)
    return sha256.hexdigest()

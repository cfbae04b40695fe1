"""The files of a checkpoint: read once, with a limit of their size, and compared with the index of the package."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..regular_files import read_regular_file
from . import roots
from .roots import CheckpointError

CARD, WEIGHTS, INDEX = "card.json", "functional.safetensors", "index.json"
LARGEST = {CARD: 2**22, WEIGHTS: 2**28, INDEX: 2**20}  # bytes


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Put the folder in front of the message of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error.__cause__


def read_files(folder: Path) -> dict[str, bytes]:
    """Return card and tensors by the names of their files, read once: what is checked is what is used."""
    return {name: read_file(folder / name) for name in (CARD, WEIGHTS)}


def read_file(path: Path) -> bytes:
    """Return the content of a card, of tensors or of an index.

    Raises
    ------
    CheckpointError
        If the file is missing, too large, or not a regular file, or if it cannot be read.
    """
    try:
        return read_regular_file(path, LARGEST[path.name], follow_links=False)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in the content of a file.

    Raises
    ------
    CheckpointError
        If it is not a JSON object, or if it contains NaN or infinity.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a finite number")

    try:
        value = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is damaged: expected a JSON object")
    return value


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_index(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Raise CheckpointError if files of a model of the package are not those in the package's index."""
    root = roots.model_roots()[0].folder.resolve()
    if folder.resolve().parent != root:
        return
    pinned = parse_json(read_file(root / INDEX), INDEX).get(folder.name)
    if pinned is None:
        raise CheckpointError(f"not listed in the package's {INDEX}; to ship the model, run `nnxc models pin`")
    if not isinstance(pinned, dict) or any(pinned.get(name) != digest(data) for name, data in contents.items()):
        raise CheckpointError(f"its files differ from those in the package's {INDEX}: the installation is damaged")

"""Numbers of generated pseudopotentials in a folder of the user: $NNXC_CACHE_DIR, by default in the user's cache.

A file is written under another name and then renamed, so that any number of processes may write it. A file that cannot
be read, or whose numbers are not those that were written, counts as missing.
"""

import io
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from ...regular_files import read_regular_file
from .inputs import Inputs
from .table import Numbers, digest_of

LARGEST = 2**22  # bytes of a file
DIGEST = "digest"  # name of the array that holds the digest of the others


def cache_folder() -> Path:
    """Return the folder in which generated pseudopotentials are kept."""
    chosen = os.environ.get("NNXC_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ase_nnxc"


def _path(inputs: Inputs, key: str) -> Path:
    return cache_folder() / f"oncv-{inputs.symbol}-{key}.npz"


def load_numbers(inputs: Inputs, key: str) -> Numbers | None:
    """Return the numbers that were stored under a key, or None if there are none."""
    try:
        data = read_regular_file(_path(inputs, key), LARGEST)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            numbers = {name: file[name] for name in file.files}
        stored = str(numbers.pop(DIGEST))
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):  # missing, or spoilt
        return None
    return numbers if stored == digest_of(inputs, numbers) else None


def store_numbers(inputs: Inputs, key: str, numbers: Numbers) -> None:
    """Store numbers under a key.

    Warns
    -----
    UserWarning
        Once in a process, if the folder cannot be written.
    """
    try:
        path = _path(inputs, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, numbers | {DIGEST: np.array(digest_of(inputs, numbers))})  # type: ignore[operator]
    except (OSError, RuntimeError) as error:  # RuntimeError: an unknown home
        _warn_once(f"generated pseudopotentials are not kept in a folder: {error}")


def _replace(path: Path, numbers: Numbers) -> None:
    """Write a file, complete or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".oncv-")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **numbers)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if not _warned:
        _warned.add(message)
        warnings.warn(f"{message}. Set NNXC_CACHE_DIR to a folder that can be written", stacklevel=2)

"""Arrays of numbers in files of numpy, .npy and .npz; nothing is unpickled.

This module does not load torch.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import InputError

from .input_files import check_input_file

LARGEST = 2**28
"""Bytes of the largest file that is read, and of all arrays in a compressed one."""

_ERRORS = (ValueError, OSError, EOFError, MemoryError, OverflowError, RuntimeError, zipfile.BadZipFile, zlib.error)
# RuntimeError: an encrypted archive, and NotImplementedError, its subclass: an unknown compression


def read_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file as float64.

    Raises
    ------
    InputError
        If the file is not a regular one, is too large, or does not contain one array of finite real numbers.
    OSError
        If there is no such file.
    """
    check_input_file(path, LARGEST)
    content = _load(path)
    if not isinstance(content, np.ndarray):
        content.close()
        raise InputError(f"{path} contains several arrays: expected a .npy file with one")
    return _numbers(content, str(path))


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays of a .npz file by their names as float64; errors are those of `read_array`.

    Raises
    ------
    InputError
        If an array is missing, too.
    """
    check_input_file(path, LARGEST)
    expected = f"expected a .npz file with the arrays {', '.join(names)}"
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} contains one array without names: {expected}")
    with _load(path) as content:
        if sum(info.file_size for info in content.zip.infolist()) > LARGEST:
            raise InputError(f"{path}: the arrays have more than {LARGEST} bytes")
        missing = [name for name in names if name not in content]
        if missing:
            raise InputError(f"{path} does not contain {missing[0]}: {expected}")
        try:
            return {name: _numbers(content[name], f"{path}, array {name}") for name in names}
        except _ERRORS as error:
            raise InputError(f"{path} cannot be read: {error}") from error


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except _ERRORS as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _numbers(array: Any, what: str) -> np.ndarray:
    """Return an array of finite real numbers as float64."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{what}: expected an array of real numbers, got {getattr(array, 'dtype', 'other data')}")
    if not np.isfinite(array).all():
        raise InputError(f"{what}: expected finite numbers, got NaN or infinity")
    return array.astype(float)

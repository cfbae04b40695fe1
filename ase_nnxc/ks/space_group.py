"""Search for the space group of a crystal by spglib (A. Togo, K. Shinohara, I. Tanaka, arXiv:1808.01590)."""

from inspect import signature
from typing import Any

import numpy as np
import spglib

# If a search fails, spglib 2.5 and 2.6 return None. spglib 2.7 and 2.8 also return None, and issue a DeprecationWarning
# at every call unless a global switch is set. With this private argument they raise an exception and do not warn.
_THROW = {"_throw": True} if "_throw" in signature(spglib.get_symmetry_dataset).parameters else {}
_SpglibError: Any = getattr(spglib, "SpglibError", ())  # absent in spglib 2.5 and 2.6


class SymmetrySearchError(RuntimeError):
    """Raised when the search fails; the message is spglib's reason, for example that atoms are too close."""


def search_space_group(
    lattice: np.ndarray, positions: np.ndarray, kinds: np.ndarray, tolerance: float
) -> "spglib.SpglibDataset":
    """Find the space group of a crystal.

    Parameters
    ----------
    lattice : numpy.ndarray
        (3, 3), rows are lattice vectors, in any unit of length.
    positions : numpy.ndarray
        (natoms, 3), fractional.
    kinds : numpy.ndarray
        (natoms,) integers that are equal for atoms of the same kind.
    tolerance : float
        Largest distance between the image of an atom and the equivalent atom, in the unit of `lattice`.

    Returns
    -------
    spglib.SpglibDataset
        Symmetry operations, number of the space group, and standardized cell.

    Raises
    ------
    SymmetrySearchError
        If the search fails.
    TypeError, ValueError
        If the arguments are malformed.
    """
    cell = (lattice.tolist(), positions.tolist(), kinds.tolist())
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=tolerance, **_THROW)
    except _SpglibError as error:
        if error.__cause__ is not None:  # spglib 2.7 and 2.8 wrap the error of malformed input
            raise error.__cause__ from None
        raise SymmetrySearchError(str(error)) from error
    if dataset is None:
        raise SymmetrySearchError(spglib.get_error_message())
    return dataset

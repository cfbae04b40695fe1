"""The search for the space group of a crystal, by spglib (A. Togo, K. Shinohara, I. Tanaka, arXiv:1808.01590)."""

from inspect import signature
from typing import Any

import numpy as np
import spglib

# If a search fails, spglib 2.5 and 2.6 return None. 2.7 and 2.8 do so too, with a DeprecationWarning at every call,
# unless a global switch is set; with this private argument they raise instead, and do not warn.
_THROW = {"_throw": True} if "_throw" in signature(spglib.get_symmetry_dataset).parameters else {}
_SpglibError: Any = getattr(spglib, "SpglibError", ())  # not in 2.5 and 2.6


class SymmetrySearchError(RuntimeError):
    """The search failed; the message states spglib's reason, for example that atoms are too close."""


def search_space_group(
    lattice: np.ndarray, positions: np.ndarray, kinds: np.ndarray, tolerance: float
) -> "spglib.SpglibDataset":
    """Search the space group of a crystal.

    Parameters
    ----------
    lattice : numpy.ndarray
        (3, 3), rows are lattice vectors, in any unit of length.
    positions : numpy.ndarray
        (natoms, 3), fractional.
    kinds : numpy.ndarray
        (natoms,) integers that are equal for atoms of the same kind.
    tolerance : float
        Distance by which atoms may miss their places, in the unit of `lattice`.

    Returns
    -------
    spglib.SpglibDataset
        Operations, the number of the space group, the standardized cell.

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
        if error.__cause__ is not None:  # malformed input, which 2.7 and 2.8 wrap
            raise error.__cause__ from None
        raise SymmetrySearchError(str(error)) from error
    if dataset is None:
        raise SymmetrySearchError(spglib.get_error_message())
    return dataset

"""Structures of a scan: scaled cells, and the conventional cell of a cubic crystal."""

import numpy as np
from ase import Atoms

from ..ks.space_group import SymmetrySearchError, search_space_group


def scaled(atoms: Atoms, factor: float) -> Atoms:
    """Return a copy with `factor` times the volume, at the same shape of the cell and scaled positions."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell[:] * factor ** (1 / 3), scale_atoms=True)
    return copy


def without_calculator(atoms: Atoms) -> Atoms:
    """Return a copy without constraints and calculator."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = None
    return copy


def cubic_lattice_constant(atoms: Atoms) -> float | None:
    """Return the lattice constant of the conventional cell, Angstrom; None if the crystal is not cubic."""
    try:
        dataset = search_space_group(atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers, tolerance=1e-4)
    except SymmetrySearchError:
        return None
    if dataset.number < 195:  # the cubic space groups are 195 to 230
        return None
    return float(np.linalg.det(dataset.std_lattice) ** (1 / 3))

"""Structures of a scan: scaled cells, and the conventional cell of a cubic crystal."""

import warnings

import numpy as np
import spglib
from ase import Atoms


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
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, about how it reports errors
            dataset = spglib.get_symmetry_dataset(cell, symprec=1e-4)
    except getattr(spglib, "SpglibError", ()):
        return None
    if dataset is None or dataset.number < 195:  # the cubic space groups are 195 to 230
        return None
    return float(np.linalg.det(dataset.std_lattice) ** (1 / 3))

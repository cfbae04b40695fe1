"""Records of equations of state: scaled structures, and measured lattice constants."""

from typing import Any

import numpy as np
from ase import Atoms, units

from .record import MEASURED, Record


def scaled_structures(atoms: Atoms, points: int = 5, span: float = 0.06) -> tuple[Atoms, ...]:
    """Return the structures of an equation of state, with volumes (1 + span)^(-1 ... 1) times that of the atoms.

    Parameters
    ----------
    atoms : Atoms
        The structure in the middle.
    points : int
        Number of volumes.
    span : float
        Difference between the largest volume and the middle one, as a fraction of the middle one.
    """
    scaled = []
    for exponent in np.linspace(-1, 1, points):
        copy = atoms.copy()
        copy.set_cell(atoms.cell * (1 + span) ** (exponent / 3), scale_atoms=True)
        scaled.append(copy)
    return tuple(scaled)


def experimental_solid(
    name: str, atoms: Atoms, lattice_constant: float, a0: float, bulk_modulus: float | None = None, **scan: Any
) -> Record:
    """Return the record of a cubic solid with a measured lattice constant, for losses on equations of state.

    Parameters
    ----------
    name : str
        Name of the record.
    atoms : Atoms
        Any cell of the solid.
    lattice_constant : float
        Lattice constant of `atoms`, Angstrom.
    a0 : float
        Measured lattice constant, Angstrom, preferably without the zero-point expansion.
    bulk_modulus : float, optional
        Measured bulk modulus, GPa.
    **scan
        `points` and `span` of `scaled_structures`, around `a0`.
    """
    middle = atoms.copy()
    middle.set_cell(atoms.cell * (a0 / lattice_constant), scale_atoms=True)
    targets = {"volume": middle.get_volume()}
    if bulk_modulus is not None:
        targets["bulk_modulus"] = bulk_modulus * units.GPa
    return Record(name, scaled_structures(middle, **scan), targets, provenance=MEASURED)

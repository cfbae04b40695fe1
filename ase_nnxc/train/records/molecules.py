"""Records of molecules with all electrons, in Gaussian basis sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import InputError
from ase.data import ground_state_magnetic_moments

from ...calculator import PySCFCalculator
from .record import Record

TOLERANCE = 1e-6
"""Of charges, elementary charges, and of moments, Bohr magnetons, that are whole numbers."""


def all_electron(record: Record, basis: str, **keywords: Any) -> Record:
    """Return a record of molecules whose structures PySCF calculates with all electrons, instead of plane waves.

    The sum of the initial magnetic moments is the number of unpaired electrons of `PySCFCalculator`. Atoms by Hund's
    rule get the moment of their ground state; structures without moments get those that add up to `fixed_magmom`, if it
    is a number; all others keep their own. Total energies of all electrons differ from those of plane waves
    with pseudopotentials, but energies of reactions can be compared, so that such records and those of solids can be in
    one training.

    Parameters
    ----------
    record : Record
        From `atomization_energy` or `ionization_potential`, or others of molecules.
    basis : str
        Name of a basis set in PySCF.
    **keywords
        Other keywords of `PySCFCalculator`, except xc, pseudo and charge.

    Raises
    ------
    InputError
        If a structure is periodic, if the record has a target other than an energy, if a keyword is not valid, if a
        charge or a fixed moment is not a whole number, or if the moments of a structure do not add up to the fixed one.
    """
    if "charge" in keywords:
        raise InputError("charge: that of each structure is the one of its settings in the record")
    settings: Sequence[Mapping[str, Any]] = record.settings or [{}] * len(record.structures)
    pairs = list(zip(record.structures, settings, strict=True))
    return replace(
        record,
        structures=tuple(_with_moments(atoms, one) for atoms, one in pairs),
        settings=tuple(
            {"basis": basis, "charge": _whole("charge", one.get("charge", 0))} | keywords for _, one in pairs
        ),
        calculator=PySCFCalculator.name,
    )


def _with_moments(atoms: Atoms, settings: Mapping[str, Any]) -> Atoms:
    """Return atoms whose initial moments add up to the moment that the settings for plane waves hold."""
    atoms, fixed = atoms.copy(), settings.get("fixed_magmom", False)
    if settings.get("hund"):
        atoms.set_initial_magnetic_moments(ground_state_magnetic_moments[atoms.numbers])
    if isinstance(fixed, bool):  # True: the sum of the initial moments
        return atoms
    fixed = _whole("fixed_magmom", fixed)
    if not atoms.get_initial_magnetic_moments().any():
        atoms.set_initial_magnetic_moments([fixed / len(atoms)] * len(atoms))
    total = atoms.get_initial_magnetic_moments().sum()
    if not np.isclose(total, fixed, rtol=0, atol=TOLERANCE):
        raise InputError(
            f"fixed_magmom={fixed} of {atoms.symbols}: the initial magnetic moments add up to {total:g}; give moments "
            "of that sum, or none"
        )
    return atoms


def _whole(name: str, value: float) -> int:
    """Return a whole number as an int; raise InputError if it is not one."""
    if not np.isclose(value, round(value), rtol=0, atol=TOLERANCE):
        raise InputError(f"{name}={value}: expected a whole number in a molecule with all electrons")
    return round(value)

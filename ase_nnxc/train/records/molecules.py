"""Records of molecules with all electrons, in Gaussian basis sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ase import Atoms
from ase.calculators.calculator import InputError
from ase.data import ground_state_magnetic_moments

from ...calculator import PySCFCalculator
from .record import Record


def all_electron(record: Record, basis: str, **keywords: Any) -> Record:
    """Return a record of molecules whose structures PySCF calculates with all electrons, instead of plane waves.

    Free atoms by Hund's rule and molecules and ions with a fixed moment get initial magnetic moments, whose sum is the
    number of unpaired electrons of `PySCFCalculator`. Total energies of all electrons differ from those of plane waves
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
        If a structure is periodic, if the record has a target other than an energy, or if a keyword is not valid.
    """
    if "charge" in keywords:
        raise InputError("charge: that of each structure is the one of its settings in the record")
    settings: Sequence[Mapping[str, Any]] = record.settings or [{}] * len(record.structures)
    pairs = list(zip(record.structures, settings, strict=True))
    return replace(
        record,
        structures=tuple(_with_moments(atoms, one) for atoms, one in pairs),
        settings=tuple({"basis": basis, "charge": round(one.get("charge", 0))} | keywords for _, one in pairs),
        calculator=PySCFCalculator.name,
    )


def _with_moments(atoms: Atoms, settings: Mapping[str, Any]) -> Atoms:
    """Return atoms whose initial moments add up to the moment that the settings for plane waves fix."""
    atoms = atoms.copy()
    if settings.get("hund"):
        atoms.set_initial_magnetic_moments(ground_state_magnetic_moments[atoms.numbers])
    elif settings.get("fixed_magmom") and not atoms.get_initial_magnetic_moments().any():
        atoms.set_initial_magnetic_moments([settings["fixed_magmom"] / len(atoms)] * len(atoms))
    return atoms

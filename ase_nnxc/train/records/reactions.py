"""Records of cohesive, atomization and ionization energies: reactions of crystals, molecules, atoms and ions."""

from collections.abc import Mapping
from typing import Any

from ase import Atoms
from ase.calculators.calculator import InputError

from .record import MEASURED, Provenance, Record

FREE: dict[str, Any] = {
    "smearing": {"name": "gaussian", "width": 0.01},
    "kpts": [1, 1, 1],
    "gpts": None,
    "nbands": None,
    "spinpol": None,
    "charge": 0.0,
    "fixed_magmom": False,
    "hund": False,
}
"""Settings of free atoms and molecules, which replace those that a calculator has for a crystal."""


def cohesive_energy(name: str, crystal: Atoms, energy: float, provenance: Provenance = MEASURED) -> Record:
    """Return the record of the cohesive energy of a crystal or a layer: free atoms minus crystal, per atom.

    Free energies are compared. The atoms follow Hund's rule and have the smearing in `FREE`; the crystal has the
    settings of the calculator.

    Parameters
    ----------
    name : str
        Name of the record.
    crystal : Atoms
        With initial magnetic moments if it is magnetic.
    energy : float
        eV per atom, positive; preferably without the zero-point energy if it is measured.
    provenance : Provenance
        Where the energy comes from; default: an experiment.
    """
    return _energy_of_free_atoms(name, crystal, {}, energy, len(crystal), provenance)


def atomization_energy(name: str, molecule: Atoms, energy: float, provenance: Provenance = MEASURED) -> Record:
    """Return the record of the atomization energy of a molecule: free atoms minus molecule.

    Free energies are compared, all with the smearing in `FREE`. The atoms follow Hund's rule.

    Parameters
    ----------
    name : str
        Name of the record.
    molecule : Atoms
        Calculated without periodic directions, whatever its `pbc`; the sum of its initial magnetic moments is held.
    energy : float
        eV per molecule, positive; preferably without the zero-point energy if it is measured.
    provenance : Provenance
        Where the energy comes from; default: an experiment.
    """
    return _energy_of_free_atoms(name, *_free(molecule), energy, 1, provenance)


def ionization_potential(
    name: str, molecule: Atoms, energy: float, magmom: float, provenance: Provenance = MEASURED
) -> Record:
    """Return the record of the vertical ionization potential of a molecule or an atom: cation minus neutral.

    Free energies are compared, both with the smearing in `FREE`, at the positions of the neutral molecule.

    Parameters
    ----------
    name : str
        Name of the record.
    molecule : Atoms
        Calculated without periodic directions, whatever its `pbc`; the sum of its initial magnetic moments is held. A
        single atom follows Hund's rule.
    energy : float
        eV, positive.
    magmom : float
        Total moment of the ion, Bohr magnetons, which is held: 1 if the molecule has a closed shell, 3 for O.
    provenance : Provenance
        Where the energy comes from; default: an experiment.

    Raises
    ------
    InputError
        If the number of electrons of the ion does not allow the moment.
    """
    electrons = molecule.numbers.sum() - 1
    if (electrons - magmom) % 2 != 0:
        raise InputError(f"record {name!r}: an ion of {electrons} electrons cannot have magmom={magmom}")
    neutral, settings = _free(molecule)
    ion = neutral.copy()
    ion.set_initial_magnetic_moments([magmom / len(ion)] * len(ion))
    charged = FREE | {"charge": 1} | ({"fixed_magmom": magmom} if magmom else {})
    targets = {"reaction_energy": energy}
    return Record(name, (neutral, ion), targets, (-1.0, 1.0), provenance, (settings, charged))


def _free(molecule: Atoms) -> tuple[Atoms, dict[str, Any]]:
    """Return the atoms without periodic directions and cell, and their settings."""
    moments = molecule.get_initial_magnetic_moments()
    free = Atoms(molecule.numbers, molecule.positions, magmoms=moments if moments.any() else None)
    if len(free) == 1:
        return free, FREE | {"hund": True}
    return free, FREE | ({"fixed_magmom": float(moments.sum())} if moments.any() else {})


def _energy_of_free_atoms(
    name: str, bound: Atoms, settings: Mapping[str, Any], energy: float, count: int, provenance: Provenance
) -> Record:
    """Return the record of (sum_Z N_Z E_Z - E_bound) / count, N_Z the number of atoms of the element Z."""
    numbers = bound.symbols.formula.count()
    free_atoms = [_free(Atoms(symbol)) for symbol in numbers]
    return Record(
        name,
        (bound, *(atom for atom, _ in free_atoms)),
        {"reaction_energy": energy},
        (-1 / count, *(number / count for number in numbers.values())),
        provenance,
        (settings, *(atom_settings for _, atom_settings in free_atoms)),
    )

"""Results of a ground state in ASE's units, by ASE's names, and a warning about the stress of a rough cutoff."""

import math
import warnings
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.stress import full_3x3_to_voigt_6_stress

from ..ks.ground_state import GroundState
from ..ks.pulay_stress import pulay_pressure
from ..units import BOHR, GPA, HARTREE
from .geometry import has_stress

LARGEST_PULAY_PRESSURE = 0.5  # GPa; more than this draws a warning when a cell is relaxed


def energies(atoms: Atoms, state: GroundState) -> dict[str, Any]:
    """Return the results that every calculation has: energies, moments, Fermi level, and the dipole of a molecule.

    Raises
    ------
    CalculationFailed
        If an energy is not finite.
    """
    free_energy, energy = state.free_energy * HARTREE, state.energy * HARTREE
    if not (math.isfinite(free_energy) and math.isfinite(energy)):
        raise CalculationFailed("the energy is not a finite number")
    results = {
        "energy": energy,
        "free_energy": free_energy,
        "magmom": state.total_moment,
        "magmoms": state.atomic_moments().cpu().numpy(),
        "fermi_level": state.fermi_level * HARTREE,
    }
    if not any(state.crystal.pbc):
        centre = atoms.positions.mean(0)  # the origin of the crystal
        results["dipole"] = state.dipole_moment().cpu().numpy() * BOHR + state.crystal.charge * centre
    return results


def charges(state: GroundState) -> dict[str, np.ndarray]:
    """Return the charges of the atoms."""
    return {"charges": state.atomic_charges().cpu().numpy()}


def derivatives(atoms: Atoms, state: GroundState) -> dict[str, np.ndarray]:
    """Return the forces and, where it is defined, the stress.

    Raises
    ------
    CalculationFailed
        If a component is not finite.
    """
    forces, stress = (tensor.cpu().numpy() for tensor in state.derivatives())
    forces, stress = forces * (HARTREE / BOHR), full_3x3_to_voigt_6_stress(stress) * HARTREE  # stress: eV/bohr^3
    if not (np.isfinite(forces).all() and np.isfinite(stress).all()):
        raise CalculationFailed("a component of the forces or of the stress is not a finite number")
    results = {"forces": forces}
    if has_stress(atoms):
        # of the calculated cell in bohr^3 over the given cell in Angstrom^3; the two cells of a layer differ
        results["stress"] = stress * (float(state.crystal.volume) / atoms.get_volume())
    return results


class RelaxationWatch:
    """Warns, once, if a cell is relaxed with a cutoff at which the stress is far from converged."""

    def __init__(self) -> None:
        self._last: Atoms | None = None  # whose stress was asked for
        self._checked = False

    def stress_asked(self, atoms: Atoms, state: GroundState) -> None:
        """Note that the stress of these atoms was asked for; check it if the cell has changed since the last time."""
        last, self._last = self._last, atoms.copy()
        if self._checked or state.basis.smooth_cutoff or last is None:
            return
        if not np.array_equal(last.numbers, atoms.numbers) or not (last.cell != atoms.cell).any():
            return
        self._checked = True
        pressure = pulay_pressure(state) * HARTREE / BOHR**3 / GPA
        if abs(pressure) > LARGEST_PULAY_PRESSURE:
            warnings.warn(
                f"the cutoff of {state.basis.ecut * HARTREE:.0f} eV is not converged: the error of the stress is a "
                f"Pulay pressure of about {pressure:.1f} GPa, and the relaxed cell is wrong accordingly; use "
                "smooth_cutoff=True or a higher ecut",
                stacklevel=2,
            )

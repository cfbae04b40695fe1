"""PBE of crystals in PySCF: k-points, Gaussian basis sets and GTH pseudopotentials."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree
from pyscf.pbc import dft, gto
from pyscf.pbc.scf.addons import smearing

from ..points import Point


def settings(mesh: int, width: float) -> dict[str, Any]:
    """Return the settings for a mesh of k-points around Gamma and a width in eV."""
    basis = {"basis": "gth-dzvp-molopt-sr", "pseudo": "gth-pbe", "precision": 1e-6, "conv_tol": 1e-7}
    return basis | {"kpts": [mesh] * 3, "smearing": {"name": "fermi-dirac", "width": width}}


def calculator(settings: dict[str, Any]) -> Callable[[Atoms], Point]:
    """Return a function that calculates a primitive cell: the free energy, eV, and a moment, if the atoms have one.

    Each SCF starts from the density matrices of the one before.
    """
    density: list[np.ndarray] = []

    def calculate(atoms: Atoms) -> Point:
        mean_field = prepare(atoms, settings)
        start = density.pop() if density else first_density(mean_field, atoms.get_initial_magnetic_moments().sum())
        mean_field.kernel(start)
        if not mean_field.converged:
            raise RuntimeError(f"the SCF of {atoms} has not converged")
        density.append(mean_field.make_rdm1())
        point = {"free_energy": float(mean_field.e_free * Hartree)}
        return point | ({"magmom": moment_of(mean_field, density[0])} if atoms.has("initial_magmoms") else {})

    return calculate


def prepare(atoms: Atoms, settings: dict[str, Any]) -> Any:
    """Return PySCF's restricted Kohn-Sham object, or the unrestricted one if the atoms have moments."""
    cell = gto.M(
        a=atoms.cell.array,
        atom=list(zip(atoms.symbols, atoms.positions)),
        spin=None,
        space_group_symmetry=True,
        verbose=0,
        **{name: settings[name] for name in ("basis", "pseudo", "precision")},
    )
    kpts = cell.make_kpts(settings["kpts"], space_group_symmetry=True, time_reversal_symmetry=True)
    method = dft.KUKS if atoms.has("initial_magmoms") else dft.KRKS
    mean_field = method(cell, kpts, xc="pbe").multigrid_numint()
    mean_field = smearing(mean_field, sigma=settings["smearing"]["width"] / Hartree, method="fermi")
    mean_field.conv_tol = settings["conv_tol"]
    mean_field.conv_check = False  # a step after convergence, which has no DIIS, can lead away from a magnet's minimum
    return mean_field


def first_density(mean_field: Any, moment: float) -> np.ndarray:
    """Return density matrices of atoms; those of the spins, if there are two, differ by a moment in Bohr magnetons.

    The number of electrons in the cell must be even.
    """
    density = mean_field.get_init_guess()
    if not moment:
        return density
    polarisation = moment / mean_field.cell.nelectron
    return density.sum(0) / 2 * np.reshape([1 + polarisation, 1 - polarisation], (2, 1, 1, 1))


def moment_of(mean_field: Any, density: np.ndarray) -> float:
    """Return the moment, Bohr magnetons, of density matrices (2, nk, nao, nao)."""
    up_minus_down = np.einsum("kij,kji->k", density[0] - density[1], mean_field.get_ovlp()).real
    return float(mean_field.kpts.weights_ibz @ up_minus_down)

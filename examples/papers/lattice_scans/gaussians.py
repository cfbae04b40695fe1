"""PBE of crystals in PySCF: k-points, Gaussian basis sets and GTH pseudopotentials."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree
from pyscf.pbc import dft, gto
from pyscf.pbc.dft.numint import KNumInt
from pyscf.pbc.scf.addons import smearing

from ..points import Point


def settings(mesh: int, width: float) -> dict[str, Any]:
    """Return the settings for a mesh of k-points around Gamma and a width in eV."""
    basis = {"basis": "gth-dzvp-molopt-sr", "pseudo": "gth-pbe", "precision": 1e-7}
    return basis | {"kpts": [mesh] * 3, "smearing": {"name": "fermi-dirac", "width": width}}


def calculate(atoms: Atoms, settings: dict[str, Any]) -> Point:
    """Return the free energy, eV, of a primitive cell without moments."""
    cell = gto.M(
        a=atoms.cell.array,
        atom=list(zip(atoms.symbols, atoms.positions)),
        spin=None,
        space_group_symmetry=True,
        verbose=0,
        **{name: settings[name] for name in ("basis", "pseudo", "precision")},
    )
    kpts = cell.make_kpts(settings["kpts"], space_group_symmetry=True, time_reversal_symmetry=True)
    mean_field = dft.KRKS(cell, kpts, xc="pbe")
    mean_field._numint = mean_field.with_df._numint = OrbitalsInMemory()
    mean_field = smearing(mean_field, sigma=settings["smearing"]["width"] / Hartree, method="fermi")
    mean_field.kernel()
    if not mean_field.converged:
        raise RuntimeError(f"the SCF of {atoms} has not converged")
    return {"free_energy": float(mean_field.e_free * Hartree)}


class OrbitalsInMemory(KNumInt):
    """PySCF's integration of the functional with atomic orbitals that are evaluated once on each block of points."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[Any, ...], Any] = {}

    def eval_ao(self, cell: Any, coords: np.ndarray, kpts: Any, deriv: int = 0, **options: Any) -> Any:
        """Return the orbitals on points."""
        key = (deriv, len(coords), *coords[0], *coords[-1], np.asarray(kpts).tobytes())
        if key not in self._kept:
            self._kept[key] = super().eval_ao(cell, coords, kpts, deriv=deriv, **options)
        return self._kept[key]

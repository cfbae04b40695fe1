"""Ionization and atomization energies, open-shell atoms, antiferromagnets: tables of docs/molecules-and-slabs.md.

    python benchmarks/molecules.py [ionization] [atomization] [atoms] [order] [--ecut 1000]

Energies are kept in molecules.json as they come; what is there is not calculated again. PBE, GTH tables, geometries of
`ase.build.molecule`. References: PySCF (all electrons in def2-QZVPP, and the same GTH tables in the uncontracted
basis), pw.x for atoms in a periodic cell.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import ground_state_magnetic_moments
from ase.units import Bohr, Hartree, kcal, mol
from qe import run_qe

from ase_nnxc import NNXCCalculator

STORE = Path(__file__).with_suffix(".json")
MOLECULES = ("H2O", "N2", "O2", "CO", "CH4")
WIDTH = 0.005  # eV, gaussian
LONGER = 3.0  # Angstrom, by which the second box of a molecule is longer in each direction
CELL = (5.0, 5.2, 5.4)  # Angstrom, of the atoms beside pw.x
ATOMS = {"O": 30.0, "N": 30.0, "Fe": 40.0}  # element: cutoff (Hartree) beside pw.x


def stored(key: str, calculate: Callable[[], Any]) -> Any:
    """The value of this key in molecules.json, calculated unless it is there."""
    if key not in (json.loads(STORE.read_text()) if STORE.exists() else {}):
        value = calculate()
        known = json.loads(STORE.read_text()) if STORE.exists() else {}
        STORE.write_text(json.dumps(dict(sorted((known | {key: value}).items())), indent=1) + "\n")
    return json.loads(STORE.read_text())[key]


def spin(name: str, charge: int) -> int:
    """Unpaired electrons."""
    if len(molecule(name)) == 1:
        return round(ground_state_magnetic_moments[molecule(name).numbers[0]])
    return 2 if name == "O2" else charge


def plane_waves(name: str, ecut: float, charge: int = 0, longer: float = 0.0) -> float:
    """Energy (eV) of a molecule without periods, or of a free atom, by ase_nnxc."""

    def calculate() -> float:
        atoms, moment = molecule(name), spin(name, charge)
        settings = {"smearing": {"name": "gaussian", "width": WIDTH}, "convergence": {"energy": 1e-6}}
        calc = NNXCCalculator(ecut=ecut, charge=charge, txt="-", **settings)
        if longer:
            atoms.cell = np.diag(calc._plan(atoms).crystal.lattice) * Bohr + longer
        if moment:
            atoms.set_initial_magnetic_moments([moment, *[0] * (len(atoms) - 1)] if charge else [moment / len(atoms)] * len(atoms))
            calc.set(fixed_magmom=moment)
        atoms.calc = calc
        return atoms.get_potential_energy(force_consistent=True)

    return stored(f"{name}{'+' * charge} {ecut:.0f} eV{f', box {longer:+.0f} A' if longer else ''}", calculate)


def gaussians(name: str, charge: int = 0, pseudo: str | None = None) -> float:
    """Energy (eV) by PySCF's UKS in def2-QZVPP, of all electrons or of those of a table, with density fitting."""

    def calculate() -> float:
        from pyscf import dft, gto

        atoms = molecule(name)
        mol = gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            basis="unc-def2-qzvpp" if pseudo else "def2-qzvpp",
            pseudo=pseudo,
            charge=charge,
            spin=spin(name, charge),
        )
        field = dft.UKS(mol, xc="PBE").density_fit(auxbasis="def2-universal-jkfit")
        field.grids.level = 3
        energy = field.kernel()
        assert field.converged
        return energy * Hartree

    return stored(f"{name}{'+' * charge} {pseudo or 'all electrons'}, PySCF", calculate)


def ionization(ecut: float) -> None:
    """Vertical ionization energy of water in two boxes and by PySCF."""
    for longer in (0.0, LONGER):
        change = plane_waves("H2O", ecut, 1, longer) - plane_waves("H2O", ecut, 0, longer)
        print(f"H2O -> H2O+   {ecut:.0f} eV   box {longer:+.0f} A   {change:8.4f} eV", flush=True)
    for pseudo in ("gth-pbe", None):
        change = gaussians("H2O", 1, pseudo) - gaussians("H2O", 0, pseudo)
        print(f"H2O -> H2O+   PySCF, {pseudo or 'all electrons':13}   {change:8.4f} eV", flush=True)


def atomization(ecut: float) -> None:
    """Atomization energies, kcal/mol, beside PySCF."""
    methods = {
        f"{ecut:.0f} eV": lambda name: plane_waves(name, ecut),
        "PySCF, gth-pbe": lambda name: gaussians(name, pseudo="gth-pbe"),
        "PySCF, all electrons": gaussians,
    }
    for name in MOLECULES:
        print(f"{name:4}", end="")
        for title, energy in methods.items():
            total = sum(energy(symbol) for symbol in molecule(name).symbols) - energy(name)
            print(f"   {title}: {total / (kcal / mol):7.2f}", end="", flush=True)
        print("   kcal/mol")


if __name__ == "__main__":
    import sys
    what = sys.argv[1]
    if what == "g":
        for n in ("H","O","H2O"):
            print(n, gaussians(n), gaussians(n, pseudo="gth-pbe"), flush=True)
        print(gaussians("H2O",1), gaussians("H2O",1,"gth-pbe"), flush=True)
        for n in ("N","C","N2","O2","CO","CH4"):
            print(n, gaussians(n), gaussians(n, pseudo="gth-pbe"), flush=True)
    else:
        print(plane_waves(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))

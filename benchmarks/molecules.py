"""Ionization energies, atomization energies and antiferromagnets: the numbers of docs/molecules-and-slabs.md.

    python benchmarks/molecules.py [ionization] [atomization] [order] [--ecut 1200]
    python benchmarks/molecules.py ionization atomization --pseudos gth-nlcc-pbe
    python benchmarks/molecules.py atomization --ecut 1100 --pseudos FOLDER/ --molecules H2O O2 CO CH4
    python benchmarks/molecules.py atomization --pseudos oncv --molecules G2 --xc r2SCAN

Each energy is saved in molecules.json as soon as it is calculated, and is not calculated again. The geometries are
those of `ase.build.molecule`; "G2" means the twenty molecules of the set G2-1 with the fewest electrons. The grids of
functionals of tau are coarser than by default (FINENESS). The references are PySCF calculations: with all electrons in
def2-QZVPP, and with gth-pbe in the same basis, uncontracted.
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data.g2_1 import molecule_names
from ase.units import Bohr, Hartree, kcal, mol

from ase_nnxc import NNXCCalculator, get_functional
from ase_nnxc.ks.basis import fft_box
from ase_nnxc.pseudopotentials import is_file_or_folder

STORE = Path(__file__).with_suffix(".json")
MOLECULES = ("H2O", "N2", "O2", "CO", "CH4")
WIDTH = 0.005  # eV, gaussian
FINENESS = 1.5  # of grids for functionals of tau: the default takes three times as long and changes water by 3 meV
LONGER = 2.0  # Angstrom; the second box of a molecule is longer by this in each direction


def stored(key: str, calculate: Callable[[], Any]) -> Any:
    """Return the value of this key in molecules.json; calculate and save it if it is missing."""
    if key not in (json.loads(STORE.read_text()) if STORE.exists() else {}):
        value = calculate()
        known = json.loads(STORE.read_text()) if STORE.exists() else {}
        STORE.write_text(json.dumps(dict(sorted((known | {key: value}).items())), indent=1) + "\n")
    return json.loads(STORE.read_text())[key]


def spin(name: str, charge: int) -> int:
    """Return the number of unpaired electrons."""
    return charge or round(abs(molecule(name).get_initial_magnetic_moments().sum()))


def smallest_of_g2(number: int) -> list[str]:
    """Return the molecules of the set G2-1 with the fewest electrons."""
    several = [name for name in molecule_names if len(molecule(name)) > 1]
    return sorted(several, key=lambda name: (sum(molecule(name).numbers), name))[:number]


def plane_waves(
    name: str, ecut: float, charge: int = 0, longer: float = 0.0, pseudos: str = "gth-pbe", xc: str = "PBE"
) -> float:
    """Return the energy (eV) of an isolated molecule or atom by ase_nnxc."""

    def calculate() -> float:
        atoms, moment = molecule(name), spin(name, charge)
        settings = {"smearing": {"name": "gaussian", "width": WIDTH}, "convergence": {"energy": 1e-6}}
        calc = NNXCCalculator(xc, ecut=ecut, charge=charge, pseudos=pseudos, **settings)
        if "tau" in get_functional(xc).features:
            calc.set(gpts=fft_box(calc._plan(atoms).crystal.lattice, ecut / Hartree, fineness=FINENESS))
        if longer:
            atoms.cell = np.diag(calc._plan(atoms).crystal.lattice) * Bohr + longer
        if moment:
            atoms.set_initial_magnetic_moments([moment / len(atoms)] * len(atoms))
            calc.set(fixed_magmom=moment)
        atoms.calc = calc
        return atoms.get_potential_energy(force_consistent=True)

    box = f", box {longer:+.0f} A" if longer else ""
    source = "" if pseudos == "gth-pbe" else ", files" if is_file_or_folder(pseudos) else f", {pseudos}"
    return stored(f"{name}{'+' * charge} {ecut:.0f} eV{box}{source}{_unless_pbe(xc)}", calculate)


def _unless_pbe(xc: str) -> str:
    return "" if xc == "PBE" else f", {xc}"


def gaussians(name: str, charge: int = 0, pseudo: str | None = None, xc: str = "PBE") -> float:
    """Return the energy (eV) by PySCF's UKS in def2-QZVPP with density fitting, all-electron or with GTH."""

    def calculate() -> float:
        from pyscf import dft, gto

        atoms = molecule(name)
        gas = gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            basis="unc-def2-qzvpp" if pseudo else "def2-qzvpp",
            pseudo=pseudo,
            charge=charge,
            spin=spin(name, charge),
            verbose=0,
        )
        field = dft.UKS(gas, xc=xc).density_fit(auxbasis="def2-universal-jkfit")
        field.grids.level = 3 if xc == "PBE" else 6
        energy = field.kernel()
        if not field.converged:
            field = field.newton()
            energy = field.kernel()
        assert field.converged
        return energy * Hartree

    return stored(f"{name}{'+' * charge} {pseudo or 'all electrons'}, PySCF{_unless_pbe(xc)}", calculate)


def ionization(ecut: float, pseudos: str) -> None:
    """Print the vertical ionization energy of water in two boxes and by PySCF."""
    for longer in (0.0, LONGER):
        cation, neutral = (plane_waves("H2O", ecut, charge, longer, pseudos) for charge in (1, 0))
        print(f"H2O -> H2O+   {ecut:.0f} eV, box {longer:+.0f} A: {cation - neutral:8.4f} eV", flush=True)
    for pseudo in ("gth-pbe", None):
        change = gaussians("H2O", 1, pseudo) - gaussians("H2O", 0, pseudo)
        print(f"H2O -> H2O+   PySCF, {pseudo or 'all electrons'}: {change:8.4f} eV", flush=True)


def atomization(names: list[str], ecut: float, pseudos: str, xc: str) -> None:
    """Print atomization energies, kcal/mol, and their differences between the methods."""
    methods = {f"{ecut:.0f} eV": lambda name: plane_waves(name, ecut, pseudos=pseudos, xc=xc)}
    if pseudos == "gth-pbe" and xc == "PBE":
        methods["PySCF, gth-pbe"] = lambda name: gaussians(name, pseudo="gth-pbe")
    methods["PySCF, all electrons"] = lambda name: gaussians(name, xc=xc)
    worst = 0.0
    for name in smallest_of_g2(20) if names == ["G2"] else names:
        print(f"{name:10}", end="")
        energies = []
        for title, energy in methods.items():
            total = sum(energy(symbol) for symbol in molecule(name).symbols) - energy(name)
            energies.append(total / (kcal / mol))
            print(f"   {title}: {energies[-1]:7.2f}", end="", flush=True)
        print("   differences:", *(f"{a - b:6.2f}" for a, b in pairwise(energies)), " kcal/mol")
        worst = max(worst, abs(energies[0] - energies[-1]) / len(molecule(name)))
    print(f"largest difference from all electrons: {worst:.2f} kcal/mol per atom")


def order() -> None:
    """Print the converged moments of antiferromagnets."""
    chromium = bulk("Cr", "bcc", a=2.95, cubic=True)
    chromium.set_initial_magnetic_moments([2.5, -2.5])
    a = 4.17  # Angstrom; rocksalt NiO with alternating (111) planes of Ni
    cell = a * np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]])
    oxide = Atoms("Ni2O2", cell=cell, scaled_positions=np.outer((0, 0.5, 0.25, 0.75), (1, 1, 1)), pbc=True)
    oxide.set_initial_magnetic_moments([2.0, -2.0, 0.0, 0.0])
    for atoms, ecut in ((chromium, 1200), (oxide, 800)):
        atoms.calc = NNXCCalculator(ecut=ecut, kpts={"size": (2, 2, 2), "gamma": True}, convergence={"energy": 1e-6})

        def calculate(atoms: Atoms = atoms) -> dict[str, Any]:
            moments = atoms.get_magnetic_moments().round(3).tolist()
            return {"moments": moments, "steps": len(atoms.calc.history)}

        name = atoms.get_chemical_formula()
        print(f"{name}: {stored(f'{name} {ecut} eV, order', calculate)}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["ionization", "atomization", "order"])
    parser.add_argument("--ecut", type=float, default=1200.0, help="eV")
    parser.add_argument("--pseudos", default="gth-pbe", help="see NNXCCalculator; a folder ends with /")
    parser.add_argument("--xc", default="PBE", help="functional of atomization energies")
    parser.add_argument("--molecules", nargs="+", default=MOLECULES, help="a folder needs the files for these")
    arguments = parser.parse_args()
    if "ionization" in arguments.what:
        ionization(arguments.ecut, arguments.pseudos)
    if "atomization" in arguments.what:
        atomization(arguments.molecules, arguments.ecut, arguments.pseudos, arguments.xc)
    if "order" in arguments.what:
        order()


if __name__ == "__main__":
    main()

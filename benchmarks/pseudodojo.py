"""Compare results with UPF files with those of Quantum ESPRESSO and ABINIT; writes benchmarks/pseudodojo.json.

    python benchmarks/pseudodojo.py FOLDER energies|lattice [Al Si MgO Cu Ni]

FOLDER contains the files ELEMENT.upf of PseudoDojo NC SR 0.4 PBE standard, which are not part of this repository.
Energies, forces and stress of small crystals are compared with pw.x. Both programs end radial functions at 10 bohr in
this comparison, as pw.x does. Lattice constants, with the default radial cutoff, are compared with those of ABINIT for
the same pseudopotentials (Bosoni et al., Nat. Rev. Phys. 6, 45 (2024)). The tables of docs/accuracy.md and
docs/lattice-constants.md are rewritten.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, GPa, Hartree
from eos_nnxc import write_table
from qe import run_qe

from ase_nnxc import NNXCCalculator, __version__
from ase_nnxc.eos import scan_eos

PATH = Path(__file__).parent / "pseudodojo.json"
PAGE = Path(__file__).parents[1] / "docs/accuracy.md"
BEGIN, END = "<!-- table: python benchmarks/pseudodojo.py -->", "<!-- end of the table of files -->"
HEAD = """\
| crystal | Ecut, Ha | F, µHa per atom | forces, Ha/bohr | stress, Ha/bohr³ |
| --- | --: | --: | --: | --: |
"""
WIDTH = 0.01  # Hartree, of Gaussian smearing in the comparison with pw.x
RADIAL_CUTOFF = 10.0  # bohr, of pw.x


@dataclass(frozen=True)
class Solid:
    """A cubic crystal.

    Parameters
    ----------
    structure, a
        As for `ase.build.bulk`, Angstrom.
    abinit
        Lattice constant by ABINIT with the same pseudopotentials, Angstrom, if one is published.
    all_electron
        Lattice constant by all-electron PBE, Angstrom.
    ecut, kpts
        Cutoff in Hartree and divisions of the mesh along each axis for the lattice constant.
    moment
        Initial magnetic moment of every atom, Bohr magnetons.
    width
        Width of the smearing for the lattice constant, Hartree.
    """

    structure: str
    a: float
    abinit: float | None
    all_electron: float | None
    ecut: float
    kpts: int
    moment: float = 0.0
    width: float = 0.01


SOLIDS = {
    "Al": Solid("fcc", 4.04, 4.0364, 4.0409, 30, 14),
    "Si": Solid("diamond", 5.47, None, None, 24, 6),
    "MgO": Solid("rocksalt", 4.25, 4.2528, 4.2543, 50, 4),
    "Cu": Solid("fcc", 3.63, 3.6276, 3.6294, 50, 9),
    "Ni": Solid("fcc", 3.52, 3.521, 3.5183, 55, 12, 1.0, 0.005),
}


def crystal(name: str) -> Atoms:
    """Return the crystal with its initial lattice constant."""
    solid = SOLIDS[name]
    atoms = bulk(name, solid.structure, a=solid.a)
    atoms.set_initial_magnetic_moments([solid.moment] * len(atoms))
    return atoms


def distorted(name: str) -> Atoms:
    """Return the crystal, strained and with displaced atoms, so that no force and no stress is zero by symmetry."""
    atoms = crystal(name)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.array([[1, 0.5, 0], [0.5, -1, 0], [0, 0, 0.5]])), True)
    atoms.positions += 0.05 * np.sin(1 + np.arange(3 * len(atoms))).reshape(-1, 3) * (len(atoms) > 1)
    return atoms


def energies(name: str, folder: Path) -> dict[str, Any]:
    """Compute the differences from pw.x, both with its radial cutoff; Hartree atomic units."""
    atoms, kpts = distorted(name), (2, 2, 2)
    ecut = {"Al": 20, "Si": 20, "MgO": 30, "Cu": 30, "Ni": 30}[name]
    files = {symbol: folder / f"{symbol}.upf" for symbol in set(atoms.get_chemical_symbols())}
    keywords: dict[str, Any] = {"smearing": "gaussian", "width": WIDTH}
    qe = run_qe(atoms, ecut=ecut, kpts=kpts, files=files, **keywords)
    atoms.calc = NNXCCalculator(
        "PBE",
        ecut=ecut * Hartree,
        kpts={"size": kpts, "gamma": True},
        smearing={"name": "gaussian", "width": WIDTH * Hartree},
        pseudos=folder,
        radial_cutoff=RADIAL_CUTOFF * Bohr,
        gpts=tuple(int(n) for n in qe["fft"].split(",")),
        convergence={"energy": 1e-8},
    )
    energy = atoms.get_potential_energy(force_consistent=True) / Hartree
    forces = atoms.get_forces() * Bohr / Hartree
    stress = atoms.get_stress(voigt=False) * Bohr**3 / Hartree
    return {
        "ecut": ecut,
        "energy_per_atom": (energy - qe["energy"]) / len(atoms),
        "forces": float(np.abs(forces - forces.mean(axis=0) - qe["forces"]).max()),
        "stress": float(np.abs(stress - qe["stress"]).max()),
        "qe": {key: qe[key] for key in ("energy", "forces", "stress")},
    }


def lattice_constant(name: str, folder: Path) -> dict[str, Any]:
    """Compute the lattice constant, Angstrom, and the bulk modulus, GPa."""
    solid = SOLIDS[name]
    calc = NNXCCalculator(
        "PBE",
        ecut=solid.ecut * Hartree,
        kpts={"size": [solid.kpts] * 3, "gamma": True},
        smearing={"name": "marzari-vanderbilt", "width": solid.width * Hartree},
        pseudos=folder,
    )
    result = scan_eos(crystal(name), calc)
    return {
        "ecut": solid.ecut,
        "kpts": solid.kpts,
        "width": solid.width,
        "a_A": result.conventional_a,
        "B_GPa": result.fit.bulk_modulus.item() / GPa,
        "magmom_muB": result.magmom(),
        "abinit_A": solid.abinit,
        "all_electron_A": solid.all_electron,
    }


def accuracy_row(name: str, differences: dict[str, Any]) -> str:
    """Format a line of docs/accuracy.md."""
    cells = [
        f"{name}, {'spin, ' if SOLIDS[name].moment else ''}distorted",
        f"{differences['ecut']}",
        f"{1e6 * differences['energy_per_atom']:+.2f}",
        f"{differences['forces']:.0e} (of {np.abs(differences['qe']['forces']).max():.3f})",
        f"{differences['stress']:.0e} (of {np.abs(differences['qe']['stress']).max():.0e})",
    ]
    return f"| {' | '.join(cells)} |\n"


def write_page(results: dict[str, Any]) -> None:
    """Rewrite the table of UPF files in docs/accuracy.md."""
    table = HEAD + "".join(accuracy_row(n, r["energies"]) for n, r in results.items())
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def main() -> None:
    """Compute what the command line asks for, and rewrite the JSON file and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the UPF files")
    parser.add_argument("what", choices=("energies", "lattice"), help="compare energies or lattice constants")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"crystals out of {', '.join(SOLIDS)}; default: all")
    arguments = parser.parse_args()
    for name in arguments.names or SOLIDS:
        compute = {"energies": energies, "lattice": lattice_constant}[arguments.what]
        result = compute(name, arguments.folder)
        print(name, result, flush=True)
        results = json.loads(PATH.read_text())["results"] if PATH.exists() else {}
        results.setdefault(name, {})[arguments.what] = result
        PATH.write_text(json.dumps({"version": __version__, "results": results}, indent=1) + "\n")
    write_page(results)
    write_table()


if __name__ == "__main__":
    main()

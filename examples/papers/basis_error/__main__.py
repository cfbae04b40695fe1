"""The setting of arXiv:2602.15923 for aluminium, taken apart: basis, fitting basis and k-points.

    python -m examples.papers.basis_error [CASE ...]

Run it in the root of the repository. Crystals are `sys_desc` dictionaries as in the paper's A.3, with STO-3G and
def2-SV(P) as fitting basis. PySCF calculates them with all electrons and with the PBE of this package. The other cases
are named for the settings that they change. The script continues from basis_error.json, and writes the table in
README.md and docs/results.md.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.units import Bohr, GPa, Hartree

from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan
from ase_nnxc.interop.deepchem import read_sys_desc
from ase_nnxc.interop.pyscf import prepare_crystal
from ase_nnxc.xc import PBE
from benchmarks.published import ALL_ELECTRON
from benchmarks.results import read_results

from ..command_line import parse
from ..points import Point, complete, write_table

RESULTS = Path(__file__).with_name("basis_error.json")
CONSTANTS = (3.75, 3.85, 3.95, 4.05, 4.15)  # Angstrom
WIDTH = 0.01  # Hartree, of Fermi-Dirac smearing
GRID_LEVEL = 1

# basis, fitting basis (None: PySCF's own choice), divisions of the mesh of k-points
CASES: dict[str, tuple[str, str | None, int]] = {
    "paper": ("sto-3g", "def2-sv(p)", 2),
    "k-points": ("sto-3g", "def2-sv(p)", 4),
    "fitting basis": ("sto-3g", None, 2),
    "basis and fitting basis": ("def2-svp", None, 2),
    "all three": ("def2-svp", None, 4),
}


def sys_desc(a: float, basis: str, auxbasis: str | None) -> dict[str, str]:
    """Return the dictionary of the primitive cell of aluminium with a lattice constant in Angstrom."""
    h = a / 2 / Bohr
    lattice = f"0 {h} {h}; {h} 0 {h}; {h} {h} 0"
    description = {"mol_desc": "Al 0 0 0", "lattice": lattice, "basis": basis}
    return description | ({} if auxbasis is None else {"auxbasis": auxbasis})


def energy_with(mesh: int) -> Callable[[Atoms], Point]:
    """Return a function that calculates the free energy of a crystal of `read_sys_desc`, eV, on a mesh around Gamma."""

    def calculate(atoms: Atoms) -> Point:
        mean_field = prepare_crystal(atoms, PBE(), (mesh, mesh, mesh), width=WIDTH, grid_level=GRID_LEVEL)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Electron number")  # that of one cell may be odd, as bands are filled
            mean_field.kernel()
        if not mean_field.converged:
            raise RuntimeError(f"the SCF of {atoms} has not converged")
        return {"free_energy": float(mean_field.e_free * Hartree)}

    return calculate


def run(names: Sequence[str], path: Path = RESULTS, constants: Sequence[float] = CONSTANTS) -> dict[str, Any]:
    """Complete the points of the named cases and return them."""
    points = {}
    for name in names:
        basis, auxbasis, mesh = CASES[name]
        structures = {str(a): read_sys_desc(sys_desc(a, basis, auxbasis)) for a in constants}
        settings = {"basis": basis, "auxbasis": auxbasis, "mesh": mesh, "width": WIDTH, "grid_level": GRID_LEVEL}
        points[name] = complete(path, name, settings, structures, energy_with(mesh))
    return points


def fit(points: dict[str, Point]) -> tuple[float, float]:
    """Return the lattice constant, Angstrom, and the bulk modulus, GPa, of the points of the primitive cell."""
    volumes = torch.tensor([float(a) ** 3 / 4 for a in points], dtype=torch.float64)
    energies = torch.tensor([point["free_energy"] for point in points.values()], dtype=torch.float64)
    curve = fit_birch_murnaghan(volumes, energies)
    return float((4 * curve.volume) ** (1 / 3)), float(curve.bulk_modulus) / GPa


def table(path: Path = RESULTS) -> str:
    """Return lattice constants and bulk moduli of the complete cases in the file, beside those of PBE."""
    reference, modulus = ALL_ELECTRON["Al-q3"]
    rows = ["| case | basis | fitting basis | k-points | a0, Å | error, % | B0, GPa | time of a point, s |"]
    rows += ["| --- | --- | --- | --- | --: | --: | --: | --: |"]
    rows += [f"| PBE, all electrons | | | | {reference:.4f} | | {modulus:.1f} | |"]
    for name, result in read_results(path).items():
        settings, points = result["settings"], result["points"]
        if len(points) < len(CONSTANTS):
            continue
        mesh = "x".join(3 * [str(settings["mesh"])])
        seconds = np.mean([point["seconds"] for point in points.values()])
        start = f"| {name} | {settings['basis']} | {settings['auxbasis'] or 'automatic'} | {mesh} |"
        lowest = min(points, key=lambda label: points[label]["free_energy"])
        if float(lowest) in (CONSTANTS[0], CONSTANTS[-1]):
            rows.append(f"{start} beyond {lowest} | | | {seconds:.0f} |")
            continue
        a, b = fit(points)
        rows.append(f"{start} {a:.4f} | {100 * (a / reference - 1):+.2f} | {b:.1f} | {seconds:.0f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run(parse(__doc__, "CASE", list(CASES)).names)
    write_table("basis_error", table())

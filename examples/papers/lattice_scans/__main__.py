"""Lattice scans of Al, Ni and Ca: the ranges and the step of arXiv:2602.15923, with several functionals.

    python -m examples.papers.lattice_scans [--metals Al Ni Ca] [--cases PBE pbe-clone@1 ...]
    python -m examples.papers.lattice_scans --table

Run it in the root of the repository. A case is the name of a functional, also of a model that
`python -m examples.papers.hybrid_xc` has trained; "PySCF" is PBE in PySCF, with 4x4x4 k-points, a Gaussian basis
and GTH pseudopotentials, and "PBE, as PySCF" has the same pseudopotentials, k-points and smearing in plane waves. All
points of a metal have one mesh of k-points and one FFT box.

The script continues from Al.json, Ni.json and Ca.json, draws Al.png, Ni.png and Ca.png, and writes the table in
README.md and docs/results.md. --table only does the latter.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import GPa
from matplotlib.figure import Figure

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos.fit import fit_energies, nearest
from benchmarks.published import ALL_ELECTRON
from benchmarks.results import read_results

from ..points import Point, complete, results_of, settings_of, write_table

FOLDER = Path(__file__).parent
MODELS = FOLDER.parent / "hybrid_xc" / "models"
GAUSSIANS = ("PySCF", "PBE, as PySCF")
CASES = ("PBE", "pbe-clone@1", "PBEsol", "hybrid-six@1", *GAUSSIANS)
SMALL_MESH = 4  # of k-points, for these
STEP = 0.05  # Angstrom
FITTED = 7  # points nearest to the lowest one


@dataclass(frozen=True)
class Metal:
    """An fcc metal and the settings of its scan.

    Parameters
    ----------
    name
        Symbol.
    first, last
        Smallest and largest lattice constant, Angstrom.
    mesh
        Divisions of the mesh of k-points along each axis.
    reference
        Key of the all-electron values.
    width
        Width of the cold smearing, eV.
    moment
        Initial magnetic moment, Bohr magnetons.
    """

    name: str
    first: float
    last: float
    mesh: int
    reference: str
    width: float = 0.2
    moment: float = 0.0

    def structures(self) -> dict[str, Atoms]:
        """Return the primitive cells by lattice constant, the largest first."""
        constants = np.arange(self.last, self.first - STEP / 2, -STEP)
        return {f"{a:.2f}": self.atoms(round(a, 2)) for a in constants}

    def atoms(self, a: float) -> Atoms:
        """Return the primitive cell for a lattice constant, Angstrom."""
        atoms = bulk(self.name, "fcc", a=a)
        if self.moment:
            atoms.set_initial_magnetic_moments([self.moment])
        return atoms

    def settings(self) -> dict[str, Any]:
        """Return the keywords of the calculator."""
        return {
            "kpts": {"size": (self.mesh,) * 3, "gamma": True},
            "smearing": {"name": "marzari-vanderbilt", "width": self.width},
            "smooth_cutoff": True,
            "convergence": {"energy": 1e-6},
        }

    def settings_as_pyscf(self) -> dict[str, Any]:
        """Return the keywords that differ in the comparison with PySCF."""
        return {
            "kpts": {"size": (SMALL_MESH,) * 3, "gamma": True},
            "smearing": {"name": "fermi-dirac", "width": self.width},
            "pseudos": "gth-pbe",
        }


METALS = {
    "Al": Metal("Al", 3.40, 4.45, 16, "Al-q3"),
    "Ni": Metal("Ni", 3.00, 4.00, 10, "Ni-ferro", width=0.1, moment=0.8),
    "Ca": Metal("Ca", 4.50, 6.50, 8, "Ca-q10"),
}


def run(metal: Metal, case: str, path: Path, **changes: Any) -> dict[str, Point]:
    """Return the points of a case by lattice constant, after those that the file lacks are calculated."""
    structures = metal.structures()
    if case == "PySCF":
        from . import gaussians  # loads PySCF

        settings = gaussians.settings(SMALL_MESH, metal.width)
        return complete(path, case, settings, structures, gaussians.calculator(settings))
    changes = metal.settings() | (metal.settings_as_pyscf() if case in GAUSSIANS else {}) | changes
    calc = NNXCCalculator("PBE" if case in GAUSSIANS else case, **changes)
    calc.set(gpts=calc.resolve(next(iter(structures.values())))["gpts"])
    return complete(path, case, settings_of(calc, structures), structures, results_of(calc, "free_energy", "magmom"))


def fit(points: dict[str, Point]) -> dict[str, float]:
    """Return the lattice constant (Angstrom), bulk modulus (GPa) and moment at the minimum, and tests of the curve.

    "minima" is the number of local minima of the whole curve. "scatter_meV" is the root mean square difference of its
    energies from a polynomial of degree 8.
    """
    constants = np.array(sorted(map(float, points)))
    energies = np.array([points[f"{a:.2f}"]["free_energy"] for a in constants])
    chosen = nearest(range(len(constants)), int(energies.argmin()), FITTED)
    found = fit_energies(constants[chosen] ** 3 / 4, energies[chosen])
    inner = energies[1:-1]
    polynomial = np.polynomial.Chebyshev.fit(constants, energies, 8)
    result = {
        "a0_A": (4 * found.volume.item()) ** (1 / 3),
        "B0_GPa": found.bulk_modulus.item() / GPa,
        "minima": int(((inner < energies[:-2]) & (inner < energies[2:])).sum()),
        "scatter_meV": 1000 * float(np.sqrt(np.mean((energies - polynomial(constants)) ** 2))),
    }
    moments = [points[f"{a:.2f}"].get("magmom", 0.0) for a in constants]
    return result | {"magmom_muB": float(np.interp(result["a0_A"], constants, moments))}


def complete_cases(metal: Metal) -> dict[str, dict[str, Point]]:
    """Return the points of all cases in the file of a metal that are complete."""
    results = read_results(FOLDER / f"{metal.name}.json")
    labels = set(metal.structures())
    return {case: result["points"] for case, result in results.items() if labels == set(result["points"])}


def draw(metal: Metal) -> None:
    """Draw the curves of a metal, each from its own minimum."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (case, points) in enumerate(complete_cases(metal).items()):
        constants = sorted(map(float, points))
        energies = np.array([points[f"{a:.2f}"]["free_energy"] for a in constants])
        axes.plot(constants, energies - energies.min(), marker="o+x^1*"[number % 6], markersize=4, lw=0.8, label=case)
    axes.axvline(ALL_ELECTRON[metal.reference][0], color="gray", ls=":", label="PBE, all electrons")
    axes.set_xlabel("lattice constant, Å")
    axes.set_ylabel("energy per atom, eV")
    axes.legend()
    figure.savefig(FOLDER / f"{metal.name}.png", dpi=110)


def table() -> str:
    """Return the fits of all complete curves as a table."""
    titles = ("metal", "functional", "a0, Å", "error, %", "B0, GPa", "moment, µB", "scatter, meV", "minima", "time, s")
    rows = [titles, ("---", "---", *("--:" for _ in titles[2:]))]
    for metal in METALS.values():
        a_all, b_all = ALL_ELECTRON[metal.reference]
        rows.append((metal.name, "PBE, all electrons", f"{a_all:.4f}", "", f"{b_all:.1f}", "", "", "", ""))
        for case, points in complete_cases(metal).items():
            f = fit(points)
            error = f"{100 * (f['a0_A'] / a_all - 1):+.2f}"
            moment = f"{f['magmom_muB']:.2f}" if metal.moment else ""
            curve = f"{f['scatter_meV']:.2f}", str(f["minima"]), f"{sum(p['seconds'] for p in points.values()):.0f}"
            rows.append((metal.name, case, f"{f['a0_A']:.4f}", error, f"{f['B0_GPa']:.1f}", moment, *curve))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Complete the chosen scans and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metals", nargs="+", choices=METALS, default=list(METALS))
    parser.add_argument("--cases", nargs="+", metavar="CASE")
    parser.add_argument("--table", action="store_true", help="calculate nothing, and write figures and table")
    arguments = parser.parse_args()
    os.environ["NNXC_MODEL_PATH"] = str(MODELS)
    for metal in (METALS[name] for name in arguments.metals):
        for case in () if arguments.table else arguments.cases or CASES:
            run(metal, case, FOLDER / f"{metal.name}.json")
        if complete_cases(metal):
            draw(metal)
    write_table("lattice_scans", table())


if __name__ == "__main__":
    main()

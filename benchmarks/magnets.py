"""Compare E(V) and moments of ferromagnets with those of GPAW, and write benchmarks/magnets.json.

    python benchmarks/magnets.py [--metals Fe Co Ni] [--xc PBE r2SCAN]
    python benchmarks/magnets.py --gpaw            the same in a Python that has GPAW
    python benchmarks/magnets.py --page

Five volumes within 6 % of one, 13x13x13 k-points around Gamma, cold smearing of 0.2 eV. Pseudopotentials are generated
for the functional; GPAW (PAW, 600 eV, PBE's frozen cores, kinetic energy densities with all their nodes) takes r2SCAN
from libxc. Results that are in the output are left out. --page rewrites the table in docs/metals-and-spin.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa
from results import read_results, write_results

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "metals-and-spin.md"
BEGIN, END = "<!-- table: python benchmarks/magnets.py --page -->", "<!-- end of the table -->"
METALS = {"Fe": ("bcc", 2.86, 2.3), "Co": ("fcc", 3.50, 1.7), "Ni": ("fcc", 3.50, 0.8)}  # Angstrom, moment at the start
CELLS = {"bcc": 2, "fcc": 4}  # primitive cells in a cube
STRAINS = (0.94, 0.97, 1.0, 1.03, 1.06)  # of the volume
FUNCTIONALS = {"PBE": "PBE", "r2SCAN": "MGGA_X_R2SCAN+MGGA_C_R2SCAN"}  # and their names in GPAW
KPTS = {"size": (13, 13, 13), "gamma": True}
SMEARING = {"name": "marzari-vanderbilt", "width": 0.2}
CODES = ("generated", "GPAW")


def calculator(code: str, xc: str) -> Any:
    """Return the calculator of a code."""
    if code == "GPAW":
        from gpaw import GPAW, PW

        accuracy = {"energy": 1e-6, "density": 1e-5}
        return GPAW(mode=PW(600), xc=FUNCTIONALS[xc], kpts=KPTS, occupations=SMEARING, convergence=accuracy, txt=None)
    from ase_nnxc import NNXCCalculator

    return NNXCCalculator(xc, kpts=KPTS, smearing=SMEARING, smooth_cutoff=True)


def calculate(metal: str, xc: str, code: str) -> list[dict[str, float]]:
    """Return volumes (Angstrom^3), free energies (eV) and moments (Bohr magnetons) of the primitive cell."""
    structure, a, initial = METALS[metal]
    points = []
    for strain in STRAINS:
        atoms = bulk(metal, structure, a=a * strain ** (1 / 3))
        atoms.set_initial_magnetic_moments([initial])
        atoms.calc = calculator(code, xc)
        energy, moment = atoms.get_potential_energy(force_consistent=True), atoms.get_magnetic_moment()
        point = {"volume": atoms.get_volume(), "energy": energy, "moment": moment}
        points.append({name: round(float(value), 6) for name, value in point.items()})
    return points


def row(name: str, structure: str, points: list[dict[str, float]]) -> str:
    """Return a line of the table."""
    volumes, energies = zip(*((point["volume"], point["energy"]) for point in points))
    v0, _, b0 = EquationOfState(volumes, energies, "birchmurnaghan").fit()
    moments = " | ".join(f"{point['moment']:.3f}" for point in points)
    return f"| {structure} {name} | {(CELLS[structure] * v0) ** (1 / 3):.4f} | {b0 / GPa:.0f} | {moments} |"


def write_page() -> None:
    """Write the table: a0 and B0 of a fit, and the moments at the volumes."""
    results = read_results(OUTPUT)
    names = [(m, f"{m} {xc}, {code}") for m in METALS for xc in FUNCTIONALS for code in CODES]
    rows = [row(name, METALS[metal][0], results[name]) for metal, name in names if name in results]
    strains = " | ".join(f"{strain:.2f} V" for strain in STRAINS)
    head = [f"| | a0, Å | B0, GPa | µB at {strains} |", f"| --- {'| --: ' * (2 + len(STRAINS))}|"]
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", *head, *rows, f"{END}{after}"]))


def main() -> None:
    """Calculate what is not in the output, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metals", nargs="+", choices=METALS, default=list(METALS))
    parser.add_argument("--xc", nargs="+", choices=FUNCTIONALS, default=list(FUNCTIONALS))
    parser.add_argument("--gpaw", action="store_true", help="calculate with GPAW")
    parser.add_argument("--page", action="store_true", help="only rewrite the table")
    arguments = parser.parse_args()
    if arguments.page:
        write_page()
        return
    code = "GPAW" if arguments.gpaw else "generated"
    for metal in arguments.metals:
        for xc in arguments.xc:
            key = f"{metal} {xc}, {code}"
            if key not in read_results(OUTPUT):
                points = calculate(metal, xc, code)
                write_results(OUTPUT, read_results(OUTPUT) | {key: points})
                print(key, *points, sep="\n  ", flush=True)


if __name__ == "__main__":
    main()

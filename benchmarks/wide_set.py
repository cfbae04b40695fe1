"""Test the convergence of the SCF for crystals of common elements, and write benchmarks/wide_set.json.

    python benchmarks/wide_set.py [NAME ...] [--xc r2SCAN --pseudos oncv]

The crystals are fcc, bcc, simple cubic and diamond structures of elements, and cubic oxides of six compositions as in
E. Bosoni et al., Nat. Rev. Phys. 6, 45 (2024): X2O (antifluorite), XO (rocksalt), X2O3 (Pn-3m, X on 4b and O on 6d),
XO2 (fluorite), X2O5 (Pn-3m, also O on 4c), XO3 (Pm-3m). The distance between neighbours is the sum of their covalent
radii. Settings are the defaults, except for the cutoff, the mesh, and pseudopotentials: those of gth-pbe with few
electrons unless others are named. Cr, Mn, Fe, Co and Ni start with 3 Bohr magnetons per atom. Structures that are in
the file are not calculated again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import SCFError
from ase.data import atomic_numbers, covalent_radii
from ase.spacegroup import crystal

from ase_nnxc import NNXCCalculator

OUTPUT = Path(__file__).with_suffix(".json")
ELEMENTS = (
    *("Li", "Be", "B", "C", "Na", "Mg", "Al", "Si", "P", "S", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni"),
    *("Cu", "Zn", "Ga", "Ge", "Nb", "Mo", "Pd", "Ag", "Sn", "Pt", "Au"),
)
OXIDES = ["Li", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Ni", "Cu", "Zn"]
# number of electrons where there are several GTH pseudopotentials
FEW = {"Na": 1, "Mg": 2, "Cu": 11, "Ga": 3, "Ag": 11, "Pd": 10, "Pt": 10, "Au": 11, "Zn": 20}
MAGNETIC = ("Cr", "Mn", "Fe", "Co", "Ni")
# lattice constant / distance of neighbours
UNARY = {"fcc": 2**0.5, "bcc": 2 / 3**0.5, "sc": 1.0, "diamond": 4 / 3**0.5}


def distance(*symbols: str) -> float:
    """Return the distance of two neighbours, Angstrom."""
    return float(sum(covalent_radii[atomic_numbers[s]] for s in symbols))


def oxides(x: str) -> Iterator[tuple[str, Atoms]]:
    """Return the six oxides of an element."""
    corner, quarter, edge = (0, 0, 0), (0.25, 0.25, 0.25), (0, 0.5, 0.5)
    d = distance(x, "O")

    def cubic(symbols: str, sites: list[tuple[float, ...]], group: int, a: float) -> Atoms:
        cell = [a, a, a, 90, 90, 90]
        return crystal(symbols.split(), sites, spacegroup=group, cellpar=cell, primitive_cell=True)

    yield f"{x}2O", cubic(f"O {x}", [corner, quarter], 225, 4 / 3**0.5 * d)
    yield f"{x}O", bulk(f"{x}O", "rocksalt", a=2 * d)
    yield f"{x}2O3", cubic(f"{x} O", [quarter, edge], 224, 4 / 3**0.5 * d)
    yield f"{x}O2", cubic(f"{x} O", [corner, quarter], 225, 4 / 3**0.5 * d)
    yield f"{x}2O5", cubic(f"{x} O O", [quarter, edge, (0.75, 0.75, 0.75)], 224, 4 / 3**0.5 * d)
    yield f"{x}O3", cubic(f"{x} O", [corner, (0.5, 0, 0)], 221, 2 * d)


def structures() -> Iterator[tuple[str, Atoms]]:
    """Return all structures by name."""
    for x in ELEMENTS:
        for structure, ratio in UNARY.items():
            yield f"{x}-{structure}", bulk(x, structure, a=ratio * distance(x, x))
    for x in OXIDES:
        yield from oxides(x)


def pseudopotentials(atoms: Atoms, name: str) -> dict[str, str]:
    """Return the pseudopotentials by element, those with few electrons of gth-pbe."""
    few = {s: f"{name}-q{FEW[s]}" for s in set(atoms.symbols) if s in FEW} if name == "gth-pbe" else {}
    return few | {"default": name}


def converge(atoms: Atoms, xc: str, pseudos: str) -> dict[str, float | str]:
    """Return the steps and seconds of the SCF, or its error message."""
    if set(atoms.symbols) & set(MAGNETIC):
        atoms.set_initial_magnetic_moments([3.0 if s in MAGNETIC else 0.0 for s in atoms.symbols])
    atoms.calc = NNXCCalculator(
        xc, ecut=600, kpts={"density": 1.5, "gamma": True}, pseudos=pseudopotentials(atoms, pseudos)
    )
    clock = time.process_time()
    try:
        found: dict[str, float | str] = {"energy_eV": round(atoms.get_potential_energy(), 6)}
    except SCFError as error:
        found = {"error": str(error)}
    return found | {"steps": len(atoms.calc.history), "seconds": round(time.process_time() - clock, 1)}


def main() -> None:
    """Calculate the missing structures and count those that converged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--xc", default="PBE", help="functional")
    parser.add_argument("--pseudos", default="gth-pbe", help="pseudopotentials")
    arguments = parser.parse_args()
    results = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    found = results.setdefault(f"{arguments.xc}, {arguments.pseudos}", {})
    for name, atoms in structures():
        if name in found or (arguments.names and name not in arguments.names):
            continue
        found[name] = converge(atoms, arguments.xc, arguments.pseudos)
        print(name, found[name], flush=True)
        OUTPUT.write_text(json.dumps(results, indent=0) + "\n")
    failed = [name for name, result in found.items() if "error" in result]
    print(f"{len(found) - len(failed)} of {len(found)} converged; not converged: {', '.join(failed) or 'none'}")
    print(f"steps: median {median(result['steps'] for result in found.values())}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="pseudopotentials .* were generated for a functional other")
    main()

"""Calculate random crystals, molecules, slabs and magnets, and write benchmarks/stress_test.json.

    python benchmarks/stress_test.py              # calculate what is not in the file, and print the table
    python benchmarks/stress_test.py crystal-17   # these cases only, again, with their SCF steps

Each case follows from its number alone. It is converged with the defaults of the calculator, but for inexpensive
pseudopotentials (few electrons), the cutoff and, often, the mesh. A case ends "converged", with a "clear error" (an
exception of ASE that a user can act on), or with a "fault" (any other exception). Energies of copies and forces are
compared:

- each third crystal, slab and magnet is calculated again with its atoms in another order, shifted by a step of the FFT
  box, and rotated. These energies should be equal to the convergence of the SCF.
- each molecule is calculated in three orientations with the smooth cutoff, in which the energy differs by the effect of
  the box.
- for each tenth case the forces are compared with the difference of energies along a random displacement, both
  converged to 1e-12 eV per electron.
"""

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bcc110, fcc100, fcc111, graphene, hcp0001, molecule
from ase.calculators.calculator import CalculationFailed, InputError, SCFError
from ase.collections import g2
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from results import read_results, write_results

from ase_nnxc import NNXCCalculator
from ase_nnxc.pseudopotentials.choice import find_pseudos
from ase_nnxc.pseudopotentials.cutoffs import recommended_cutoff
from ase_nnxc.units import HARTREE

OUTPUT = Path(__file__).with_suffix(".json")
COUNTS = {"crystal": 150, "molecule": 60, "slab": 40, "magnet": 30}
# number of electrons where there are several pseudopotentials
FEW = {
    "Na": 1,
    "Mg": 2,
    "Cu": 11,
    "Ga": 3,
    "In": 3,
    "Tl": 3,
    "Ag": 11,
    "Pd": 10,
    "Pt": 10,
    "Au": 11,
    "Zn": 12,
    "Cd": 12,
}
HEAVY = set(chemical_symbols[57:72]) | {"Xe", "Kr", "Ar", "Ne", "He"}
ELEMENTS = [s for s in chemical_symbols[1:84] if s not in HEAVY]
SMALL = [name for name in g2.names if len(g2[name]) <= 4 and max(g2[name].numbers) <= 17]
RADICALS = ("OH", "CH", "NO", "CN", "O2", "SO", "NH", "CH3", "NO2", "ClO", "S2", "HCO", "NH2", "PH2")
EXPENSIVE = 650.0  # eV; recommended cutoffs above it are replaced


def pseudos(atoms: Atoms) -> dict[str, str]:
    """Return the pseudopotentials with few electrons."""
    return {s: f"gth-pbe-q{FEW[s]}" for s in set(atoms.symbols) & set(FEW)} | {"default": "gth-pbe"}


def cutoff(atoms: Atoms, rng: np.random.Generator) -> float:
    """Return the recommended cutoff for a third of the cases in which it is affordable, else a low one, eV."""
    tables = find_pseudos(atoms.get_chemical_symbols(), "pbe", pseudos(atoms))
    recommended = max(recommended_cutoff(table)[0] for table in tables.values()) * HARTREE
    low = float(rng.choice([150, 220, 300]))
    return recommended if recommended < EXPENSIVE and rng.random() < 1 / 3 else low


def random_positions(cell: np.ndarray, symbols: list[str], rng: np.random.Generator) -> Atoms:
    """Return atoms at random positions, at least 0.8 times the sum of their radii apart; the cell grows if needed."""
    while True:
        for _ in range(200):
            atoms = Atoms(symbols, scaled_positions=rng.random((len(symbols), 3)), cell=cell, pbc=True)
            images = atoms * (2, 2, 2)
            radii = covalent_radii[images.numbers]
            distances = images.get_all_distances(mic=True) + 99 * np.eye(len(images))
            if (distances > 0.8 * (radii[:, None] + radii)).all():
                return atoms
        cell = 1.05 * cell


def random_crystal(rng: np.random.Generator, elements: list[str], natoms: int) -> Atoms:
    """Return a crystal with a random cell of about the density of solids."""
    symbols = [str(s) for s in rng.choice(elements, natoms)]
    volume = sum(covalent_radii[atomic_numbers[s]] ** 3 for s in symbols) * rng.uniform(5.5, 8.5)
    while True:
        cell = np.eye(3) + rng.uniform(-0.45, 0.45, (3, 3))
        if np.linalg.det(cell) > 0.5:
            break
    return random_positions(cell * (volume / np.linalg.det(cell)) ** (1 / 3), symbols, rng)


def random_mesh(rng: np.random.Generator) -> dict:
    """Return keywords of a mesh: Gamma only, a small one, or a low density."""
    meshes = ({"kpts": (1, 1, 1)}, {"kpts": (2, 2, 2)}, {"kpts": {"size": (2, 2, 2), "gamma": True}})
    return meshes[rng.integers(3)]


def crystal_case(rng: np.random.Generator) -> tuple[Atoms, dict]:
    """Return a crystal of one to three atoms."""
    atoms = random_crystal(rng, ELEMENTS, int(rng.integers(1, 4)))
    return atoms, random_mesh(rng)


def magnet_case(rng: np.random.Generator) -> tuple[Atoms, dict]:
    """Return a crystal of one or two atoms with random moments."""
    atoms = random_crystal(rng, ["H", "Cr", "Mn", "Fe", "Co", "Ni", "O"], int(rng.integers(1, 3)))
    atoms.set_initial_magnetic_moments(rng.uniform(-3, 3, len(atoms)) * (atoms.numbers > 10) + (atoms.numbers == 1))
    return atoms, random_mesh(rng)


def slab_case(rng: np.random.Generator) -> tuple[Atoms, dict]:
    """Return a layer of graphene, or one to three layers of a metal, perhaps with an atom on it."""
    kind = int(rng.integers(5))
    if kind == 0:
        slab = graphene(a=float(rng.uniform(2.40, 2.55)), vacuum=4)
    else:
        build, metals = (
            (fcc111, ["Al", "Cu", "Ag"]),
            (fcc100, ["Al", "Pd", "Au"]),
            (bcc110, ["Na", "Li", "Nb"]),
            (hcp0001, ["Mg", "Ti", "Zn"]),
        )[kind - 1]
        slab = build(str(rng.choice(metals)), (1, 1, int(rng.integers(1, 4))), vacuum=4)
    if rng.random() < 0.5:
        top = slab.positions[:, 2].argmax()
        slab += Atoms("H", [slab.positions[top] + [0.2, 0.1, 1.6]])
    slab.pbc = (True, True, False)
    return slab, {"kpts": (2, 2, 1)}


def molecule_case(rng: np.random.Generator) -> tuple[Atoms, dict]:
    """Return a small molecule, a radical in a third of the cases."""
    name = str(rng.choice(RADICALS if rng.random() < 1 / 3 else SMALL))
    return molecule(name), {"smooth_cutoff": True}


CASES: dict[str, Callable[[np.random.Generator], tuple[Atoms, dict]]] = {
    "crystal": crystal_case,
    "molecule": molecule_case,
    "slab": slab_case,
    "magnet": magnet_case,
}


def rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a random rotation matrix."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def rotated(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Return a rotated copy."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell @ matrix.T)
    copy.set_positions(atoms.positions @ matrix.T)
    return copy


def copies(kind: str, number: int, atoms: Atoms, calc: NNXCCalculator, rng: np.random.Generator) -> Iterator:
    """Yield names and atoms that should have the same energy."""
    if kind == "molecule":
        yield "rotated", rotated(atoms, rotation(rng))
        yield "rotated again", rotated(atoms, rotation(rng))
    elif number % 3 == 0:
        yield "permuted", atoms[rng.permutation(len(atoms))]
        box = np.array(calc.resolve(atoms)["gpts"])
        shifted = atoms.copy()
        shifted.set_scaled_positions(atoms.get_scaled_positions(wrap=False) + atoms.pbc / box)
        yield "shifted", shifted
        about_z = rotation(rng)
        if kind == "slab":
            angle = rng.uniform(0, 2 * np.pi)
            about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        yield "rotated", rotated(atoms, about_z)


def force_error(atoms: Atoms, settings: dict, rng: np.random.Generator) -> float:
    """Return the difference of the force along a random displacement from that of energies, eV/Angstrom."""
    direction = rng.normal(size=atoms.positions.shape)
    direction /= np.linalg.norm(direction)
    step, energies = 0.001, []
    calc = NNXCCalculator(**settings, convergence={"energy": 1e-12}, symmetry=False)
    along = float((calc.get_forces(atoms) * direction).sum())
    calc.set(gpts=calc.resolve(atoms)["gpts"])
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * step * direction
        energies.append(calc.get_potential_energy(moved, force_consistent=True))
    return abs(along + (energies[0] - energies[1]) / (2 * step))


def attempt(atoms: Atoms, settings: dict) -> tuple[dict, NNXCCalculator]:
    """Return how a calculation ends, and its calculator."""
    calc, clock = NNXCCalculator(**settings), time.perf_counter()
    try:
        ending = {"ending": "converged", "energy": calc.get_potential_energy(atoms, force_consistent=True)}
    except (SCFError, InputError, CalculationFailed) as error:
        ending = {"ending": "clear error", "error": str(error)[:300]}
    except Exception:  # what the test looks for: it is kept as a fault, with its traceback
        ending = {"ending": "fault", "error": traceback.format_exc()[-600:]}
    methods = sorted({step.method for step in calc.history} | {"widths" for s in calc.history if s.width > 0.02})
    return ending | {"steps": len(calc.history), "methods": methods, "seconds": time.perf_counter() - clock}, calc


def run(kind: str, number: int) -> dict:
    """Return the result of one case."""
    rng = np.random.default_rng([list(CASES).index(kind), number])
    atoms, keywords = CASES[kind](rng)
    settings = {"ecut": cutoff(atoms, rng), "pseudos": pseudos(atoms)} | keywords
    result, calc = attempt(atoms, settings)
    result |= {"formula": atoms.get_chemical_formula(), "ecut": settings["ecut"], "kpts": str(keywords.get("kpts"))}
    if result["ending"] != "converged":
        return result
    result["copies"] = {}
    for name, copy in copies(kind, number, atoms, calc, rng):
        again, _ = attempt(copy, settings)
        difference = again["energy"] - result["energy"] if "energy" in again else None
        result["copies"][name] = {"difference": difference, **again}
    if number % 10 == 0:
        try:
            result["force_error"] = force_error(atoms, settings, rng)
        except SCFError as error:
            result["force_ending"] = str(error)[:300]
    return result


def order() -> Iterator[tuple[str, int]]:
    """Yield all cases, the kinds in turn, so that a part of them is a fair sample."""
    names = [(number / count, kind, number) for kind, count in COUNTS.items() for number in range(count)]
    yield from ((kind, number) for _, kind, number in sorted(names))


def table(results: dict[str, dict]) -> None:
    """Print one row for each kind."""
    print("| kind | SCFs | converged | clear errors | faults | steps, median / largest | minimised | widened |", end="")
    print(" copies, largest difference, meV | forces, largest error, meV/Angstrom |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |")
    for kind in COUNTS:
        cases = [r for name, r in results.items() if name.startswith(kind)]
        copied = [c for r in cases for c in r.get("copies", {}).values()]
        every = cases + copied
        endings = [r["ending"] for r in every]
        steps = [r["steps"] for r in every if r["ending"] == "converged"]
        differences = [abs(c["difference"]) for c in copied if c["difference"] is not None]
        forces = [r["force_error"] for r in cases if "force_error" in r]
        minimised, widened = (sum(method in r["methods"] for r in every) for method in ("minimisation", "widths"))
        if every:
            print(
                f"| {kind} | {len(every)} | {endings.count('converged')} | {endings.count('clear error')} "
                f"| {endings.count('fault')} | {np.median(steps):.0f} / {max(steps)} "
                f"| {minimised} | {widened} "
                f"| {1e3 * max(differences, default=0):.4f} | {1e3 * max(forces, default=0):.3f} |"
            )


def main() -> None:
    """Calculate the cases that are not in the file, write each when it ends, and print the table."""
    warnings.simplefilter("ignore")
    for name in sys.argv[1:]:
        kind, number = name.split("-")
        print(name, json.dumps(run(kind, int(number)), indent=1))
    if sys.argv[1:]:
        return
    results = read_results(OUTPUT)
    for kind, number in order():
        name = f"{kind}-{number}"
        if name not in results:
            results[name] = run(kind, number)
            print(name, {k: v for k, v in results[name].items() if k != "copies"}, flush=True)
            write_results(OUTPUT, results)
    table(results)


if __name__ == "__main__":
    main()

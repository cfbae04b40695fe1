"""Measure errors and time of SCFs that end early, and write benchmarks/scf_tolerance.json.

    python benchmarks/scf_tolerance.py [NAME ...]

Each system is solved to TIGHT and to each of TOLERANCES, eV per valence electron, from superposed atoms. The errors are
the largest differences in energy, forces and stress from the tight ones. Forces and stress are also given without their
correction for the residual of the SCF (`ase_nnxc.ks.derivatives`). Atoms are rattled and cells strained, so that no
force and no component of the stress vanishes; settings are the defaults, except for inexpensive meshes. Without names
the systems that are in the file are not calculated again.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.spacegroup import crystal
from ase.units import GPa, Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.units import BOHR

OUTPUT = Path(__file__).with_suffix(".json")
TIGHT = 1e-13
TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8)
STRAIN = np.array([[0.02, 0.01, 0.0], [0.01, -0.01, 0.005], [0.0, 0.005, 0.01]])


def magnet(symbol: str, moment: float, **cell: float | bool) -> Atoms:
    """Return a ferromagnet."""
    atoms = bulk(symbol, **cell)
    atoms.set_initial_magnetic_moments([moment] * len(atoms))
    return atoms


SYSTEMS: dict[str, Callable[[], Atoms]] = {
    "Al": lambda: bulk("Al", cubic=True),
    "Si": lambda: bulk("Si"),
    "MgO": lambda: bulk("MgO", "rocksalt", a=4.21),
    "CaF2": lambda: crystal(
        ["Ca", "F"], [(0, 0, 0), (0.25, 0.25, 0.25)], spacegroup=225, cellpar=[5.46] * 3 + [90] * 3, primitive_cell=True
    ),
    "graphene": lambda: graphene(),
    "H2O": lambda: molecule("H2O"),
    "Cu": lambda: bulk("Cu"),
    "Ni": lambda: magnet("Ni", 0.6),
    "Fe": lambda: magnet("Fe", 2.3, cubic=True),
}


def distorted(atoms: Atoms) -> Atoms:
    """Return the atoms rattled and, along periodic directions, strained."""
    atoms.rattle(0.03, seed=1)
    if atoms.pbc.any():
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + STRAIN * np.outer(atoms.pbc, atoms.pbc)), scale_atoms=True)
    return atoms


def solve(name: str, tolerance: float) -> tuple[GroundState, float]:
    """Return the ground state of a system and the CPU seconds of the SCF."""
    atoms = distorted(SYSTEMS[name]())
    calc = atoms.calc = NNXCCalculator(kpts={"density": 1.2, "gamma": True}, convergence={"energy": tolerance})
    clock = time.process_time()
    atoms.get_potential_energy()
    assert calc.held_state is not None
    return calc.held_state, time.process_time() - clock


def errors(state: GroundState, exact: GroundState) -> list[float]:
    """Return the largest errors of forces, Hartree/bohr, and stress, GPa."""
    differences = [float((a - b).abs().max()) for a, b in zip(state.derivatives(), exact.derivatives())]
    return [differences[0], differences[1] * Hartree / BOHR**3 / GPa]


def measure(name: str) -> dict[str, dict[str, float | list[float]]]:
    """Return the results of a system by tolerance."""
    exact, _ = solve(name, TIGHT)
    results: dict[str, dict[str, float | list[float]]] = {}
    for tolerance in TOLERANCES:
        state, seconds = solve(name, tolerance)
        results[f"{tolerance:g}"] = {
            "steps": len(state.history),
            "seconds": round(seconds, 2),
            "energy_Ha": state.energy - exact.energy,
            "corrected": errors(state, exact),
            "uncorrected": errors(replace(state, residual=torch.zeros_like(state.residual)), exact),
        }
        print(name, tolerance, results[f"{tolerance:g}"], flush=True)
    return results


def print_table(results: dict[str, dict[str, dict]]) -> None:
    """Print the table of docs/convergence.md: errors at the default tolerance, and its steps and time against 1e-8."""
    print("| system | steps | time | energy, Ha | forces, Ha/bohr | not corrected | stress, GPa | not corrected |")
    print("|" + " --- |" * 8)
    for name, by_tolerance in results.items():
        found, tight = by_tolerance["1e-06"], by_tolerance["1e-08"]
        errors = [abs(found["energy_Ha"]), *(x for pair in zip(found["corrected"], found["uncorrected"]) for x in pair)]
        columns = [name, f"{found['steps']} of {tight['steps']}", f"{found['seconds'] / tight['seconds']:.2f}"]
        print("| " + " | ".join([*columns, *(f"{x:.0e}" for x in errors)]) + " |")


def main() -> None:
    """Measure the systems that are missing or named."""
    results = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for name in sys.argv[1:] or [name for name in SYSTEMS if name not in results]:
        results[name] = measure(name)
        OUTPUT.write_text(json.dumps(results, indent=0) + "\n")
    print_table(results)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()

"""Measure cutoffs that converge a lattice constant to 0.1 %: the "measured" part of ase_nnxc/data/cutoffs.json.

    python benchmarks/measure_cutoffs.py [NAME ...]

For each crystal of CRYSTALS the lattice constant is computed with ase_nnxc at a converged cutoff and at a ladder of
cutoffs below it, downward until the error exceeds TOLERANCE, from five volumes within 4 %. Users may have the blow-up
of the kinetic energy on or off. Both are measured, and the larger of the two errors counts. The k-point meshes are
coarser than those of a typical calculation. This hardly changes the error with the blow-up, but increases the error
without it, where the steps of the plane-wave spheres average out over the k-points. The recommended cutoff is the
smallest one down to which all errors are within TOLERANCE, rounded up to 5 Ha, and at least MINIMUM of
estimate_cutoffs.py, because the lattice constants of soft tables converge before other properties do. The ladder is
printed and stored in benchmarks/cutoffs.json.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import estimate_cutoffs
import torch
from ase.build import bulk
from ase.units import Hartree

from ase_nnxc import NNXCCalculator, __version__
from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan

PATH = Path(__file__).parent / "cutoffs.json"
SOURCE = (
    f"Measured with ase_nnxc {__version__} by `python benchmarks/measure_cutoffs.py`, PBE. Cutoffs in Hartree, errors "
    "in per cent of the lattice constant at the converged cutoff: smooth with the blow-up of the kinetic energy, plain "
    "without."
)
TOLERANCE = 0.1  # per cent
STEP = 1.15  # from one cutoff of the ladder to the next
VOLUMES = (1.04, 1.02, 1.00, 0.98, 0.96)  # relative to the initial volume
NO_MINIMUM = 100.0  # per cent: the error of a curve without a minimum
MODES = {"smooth": True, "plain": False}


@dataclass(frozen=True)
class Crystal:
    """A crystal whose lattice constant determines the cutoff of one of its tables.

    Parameters
    ----------
    formula, structure
        As for `ase.build.bulk`.
    a
        Lattice constant around which to scan, in Angstrom.
    q
        Valence charge of the table by element. The first one needs the highest cutoff, which is measured.
    converged
        Cutoff of the reference, Hartree.
    kpts
        Divisions of the mesh along each axis.
    """

    formula: str
    structure: str
    a: float
    q: dict[str, int]
    converged: int
    kpts: int


CRYSTALS = {
    "Al-q3": Crystal("Al", "fcc", 4.04, {"Al": 3}, 45, 6),
    "Si-q4": Crystal("Si", "diamond", 5.47, {"Si": 4}, 45, 4),
    "C-q4": Crystal("C", "diamond", 3.57, {"C": 4}, 90, 4),
    "Mg-q2": Crystal("Mg", "fcc", 4.52, {"Mg": 2}, 40, 6),
    "Ag-q19": Crystal("Ag", "fcc", 4.16, {"Ag": 19}, 80, 6),
    "Pd-q18": Crystal("Pd", "fcc", 3.94, {"Pd": 18}, 80, 6),
    "Ca-q10": Crystal("Ca", "fcc", 5.53, {"Ca": 10}, 80, 6),
    "O-q6": Crystal("MgO", "rocksalt", 4.27, {"O": 6, "Mg": 2}, 150, 4),
    "Cu-q11": Crystal("Cu", "fcc", 3.65, {"Cu": 11}, 150, 6),
    "Ni-q18": Crystal("Ni", "fcc", 3.52, {"Ni": 18}, 180, 6),
    "Cu-q19": Crystal("Cu", "fcc", 3.63, {"Cu": 19}, 180, 6),
    "F-q7": Crystal("CaF2", "fluorite", 5.52, {"F": 7, "Ca": 10}, 150, 3),
    "Mg-q10": Crystal("MgO", "rocksalt", 4.25, {"Mg": 10, "O": 6}, 240, 2),
}


def lattice_constants(crystal: Crystal, ecut: float, calc: NNXCCalculator) -> dict[str, float]:
    """Compute the lattice constant by mode, Angstrom; the calculator starts from its last ground state."""
    calc.set(ecut=ecut * Hartree)
    volumes, energies = [], {mode: [] for mode in MODES}
    for scale in VOLUMES:
        atoms = bulk(crystal.formula, crystal.structure, a=crystal.a * scale ** (1 / 3))
        atoms.calc = calc
        volumes.append(atoms.get_volume())
        for mode, smooth_cutoff in MODES.items():
            calc.set(smooth_cutoff=smooth_cutoff)
            energies[mode].append(atoms.get_potential_energy(force_consistent=True))
    v = torch.tensor(volumes, dtype=torch.float64, device="cpu")
    a = {}
    for mode, values in energies.items():
        try:
            fit = fit_birch_murnaghan(v, torch.tensor(values, dtype=torch.float64, device="cpu"))
        except ValueError:  # far from convergence, without a minimum nearby
            a[mode] = math.inf
        else:
            a[mode] = crystal.a * (fit.volume.item() / volumes[VOLUMES.index(1.00)]) ** (1 / 3)
    return a


def measure(crystal: Crystal) -> dict[str, Any]:
    """Compute the reference and the errors on the ladder, in descending order of the cutoff."""
    calc = NNXCCalculator(
        "PBE",
        kpts={"size": [crystal.kpts] * 3, "gamma": True},
        pseudos={symbol: f"gth-pbe-q{q}" for symbol, q in crystal.q.items()},
        convergence={"energy": 1e-6},
    )
    reference = lattice_constants(crystal, crystal.converged, calc)["smooth"]
    print(f"{crystal.formula} {crystal.q}: {reference:.4f} Angstrom at {crystal.converged} Ha", flush=True)
    ladder: list[dict[str, float]] = []
    while not ladder or worst(ladder[-1]) <= TOLERANCE:
        ecut = round(crystal.converged / STEP ** (len(ladder) + 1), 1)
        constants = lattice_constants(crystal, ecut, calc)
        errors = {mode: round(min(100 * (a / reference - 1), NO_MINIMUM), 4) for mode, a in constants.items()}
        ladder.append({"ecut": ecut, **errors})
        print("  {ecut:5.1f} Ha   smooth {smooth:+.3f} %   plain {plain:+.3f} %".format(**ladder[-1]), flush=True)
    return {**asdict(crystal), "reference_a_A": reference, "errors": ladder}


def worst(rung: dict[str, float]) -> float:
    """Return the larger of the errors of both modes, per cent."""
    return max(abs(rung[mode]) for mode in MODES)


def recommended(record: dict[str, Any]) -> int:
    """Return the smallest cutoff within the tolerance, rounded up to 5 Ha, and at least MINIMUM of the estimates."""
    passed = [rung["ecut"] for rung in record["errors"] if worst(rung) <= TOLERANCE]
    return max(5 * math.ceil(min(passed, default=record["converged"]) / 5), round(estimate_cutoffs.MINIMUM))


def main() -> None:
    """Measure the tables named on the command line and store each result immediately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"tables out of {', '.join(CRYSTALS)}; default: all")
    for name in parser.parse_args().names or CRYSTALS:
        record = measure(CRYSTALS[name])
        records = json.loads(PATH.read_text())["tables"] if PATH.exists() else {}
        records[name] = record
        PATH.write_text(json.dumps({"source": SOURCE, "tables": records}, indent=1) + "\n")
        print(f"{name}: {recommended(record)} Ha recommended", flush=True)
        measured: estimate_cutoffs.Cutoffs = {}
        for table in CRYSTALS:
            if table in records:
                symbol, q = table.split("-")
                measured.setdefault(symbol, {})[f"gth-pbe-{q}"] = recommended(records[table])
        data = json.loads(estimate_cutoffs.OUTPUT.read_text())
        estimate_cutoffs.write(measured, data["estimated"])


if __name__ == "__main__":
    main()

"""Compare the times of relaxations of cell and positions by ase_nnxc and Quantum ESPRESSO.

    python benchmarks/relaxation.py [NAME ...]

Si, CaF2 and SrTiO3 are strained by 3 % along x, and their atoms are displaced. Both codes have meshes of
KPTS, otherwise our defaults (cutoff and smearing; generated pseudopotentials, which pw.x reads as UPF files), and two
cores, and end when no force is above FORCE and no component of the stress above STRESS: ase_nnxc by ASE's BFGS and
FrechetCellFilter, as `nnxc relax` does, pw.x by `vc-relax`, which adds an SCF with the plane waves of the final cell.
The times are those of the whole processes, written to benchmarks/relaxation.json. Nothing else should run on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, GPa, Hartree
from qe import run_qe
from results import read_results, write_results
from speed_cases import Case, fluorite, upf_files, with_defaults

OUTPUT = Path(__file__).with_suffix(".json")
FORCE = 0.5e-3  # Hartree/bohr, 1e-3 Ry/bohr as in pw.x
STRESS = 0.05  # GPa, 0.5 kbar as in pw.x
CORES = 2


def perovskite() -> Atoms:
    """Return cubic SrTiO3."""
    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms("SrTiO3", scaled_positions=positions, cell=[3.94] * 3, pbc=True)


CRYSTALS: dict[str, Callable[[], Atoms]] = {"Si": lambda: bulk("Si"), "CaF2": fluorite, "SrTiO3": perovskite}
KPTS = {"Si": 4, "CaF2": 3, "SrTiO3": 3}  # along each axis


def settings(name: str) -> Case:
    """Return the settings of both codes for a crystal."""
    return with_defaults(CRYSTALS[name](), kpts=(KPTS[name],) * 3)


def strained(name: str) -> Atoms:
    """Return a crystal that is strained along x, with displaced atoms."""
    atoms = CRYSTALS[name]()
    atoms.set_cell(atoms.cell.array * [1.03, 1, 1], scale_atoms=True)
    atoms.rattle(0.02, seed=1)
    return atoms


def worker(name: str) -> dict[str, Any]:
    """Relax a crystal by ase_nnxc in this process."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from ase_nnxc import NNXCCalculator

    atoms, steps = strained(name), 0
    atoms.calc = NNXCCalculator(**settings(name).ours)
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        for _ in optimizer.irun(fmax=0, steps=100):
            steps += 1
            force = np.abs(atoms.get_forces()).max() * Bohr / Hartree
            if force <= FORCE and np.abs(atoms.get_stress()).max() / GPa <= STRESS:
                break
    energy = atoms.get_potential_energy(force_consistent=True) / Hartree
    return {"geometries": steps, "energy_Ha": energy, "volume_A3": atoms.get_volume()}


def run_ours(name: str) -> dict[str, Any]:
    """Run the worker in a process of its own and time it."""
    command, start = [sys.executable, __file__, "--worker", name], time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"seconds": time.perf_counter() - start} | json.loads(out)


def run_pwx(name: str) -> dict[str, Any]:
    """Run vc-relax of pw.x."""
    case = settings(name)
    with tempfile.TemporaryDirectory() as folder:
        files = upf_files(case, Path(folder))
        result = run_qe(strained(name), **case.qe, files=files, conv_thr=1e-8, ranks=CORES, relax=True)
    return {
        "seconds": result["wall_s"],
        "geometries": result["geometries"],
        "energy_Ha": result["energy"],
        "volume_A3": result["volume"] * Bohr**3,
    }


def main() -> None:
    """Compare the codes on the crystals named on the command line, or on all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"crystals, from {', '.join(CRYSTALS)}")
    parser.add_argument("--worker", choices=CRYSTALS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(arguments.worker)))
        return
    results = read_results(OUTPUT)
    for name in arguments.names or CRYSTALS:
        ours, qe = run_ours(name), run_pwx(name)
        results[name] = {"ase_nnxc": ours, "QE": qe, "ratio": round(ours["seconds"] / qe["seconds"], 2)}
        write_results(OUTPUT, results)
        print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
    main()

"""Time ferromagnetic nickel on 1, 2 and 4 processes that share the k-points, and write benchmarks/ranks.json.

    python benchmarks/ranks.py [--kpts N] [--ecut EV] [--processes N ...] [--output FILE]

By default: PBE with generated pseudopotentials and the recommended cutoff, a = 3.52 Angstrom, 12x12x12 k-points. Each
process has one thread. The times are those of the SCF with forces and stress, without imports and pseudopotentials;
nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.units import Hartree
from results import write_results

from ase_nnxc import NNXCCalculator, __version__


def worker(kpts: int, ecut: float | None) -> None:
    """Calculate nickel on the processes that torchrun started; rank 0 prints the time and the free energy."""
    import ase_nnxc.ks.scf  # noqa: F401  all that the calculation needs

    atoms = bulk("Ni", "fcc", a=3.52)
    atoms.set_initial_magnetic_moments([0.6])
    atoms.calc = NNXCCalculator(kpts={"size": (kpts,) * 3, "gamma": True}, ecut=ecut, share_kpoints=True)
    atoms.calc.resolve(atoms)  # generates the pseudopotential
    clock = time.perf_counter()
    energy = atoms.get_potential_energy(force_consistent=True)
    atoms.get_forces()
    atoms.get_stress()
    seconds = time.perf_counter() - clock
    if atoms.calc.ranks.number == 0:
        steps, moment = len(atoms.calc.history), atoms.get_magnetic_moment()
        print(json.dumps({"seconds": seconds, "free_energy_Ha": energy / Hartree, "steps": steps, "moment": moment}))


def run(processes: int, arguments: list[str]) -> dict[str, Any]:
    """Run the worker on a number of processes with one thread each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, __file__, "--worker", *arguments]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    """Time each number of processes in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kpts", type=int, default=12)
    parser.add_argument("--ecut", type=float)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.kpts, args.ecut)
        return
    arguments = ["--kpts", str(args.kpts), *(["--ecut", str(args.ecut)] if args.ecut else [])]
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "version": __version__}
    results: dict[str, Any] = {"settings": {"kpts": args.kpts, "ecut_eV": args.ecut, **machine}}
    for processes in args.processes:
        results[str(processes)] = row = run(processes, arguments)
        print(f"{processes} processes: {row['seconds']:.1f} s, {row['free_energy_Ha']:.10f} Ha", flush=True)
        write_results(args.output, results)


if __name__ == "__main__":
    main()

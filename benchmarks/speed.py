"""Compare time, memory and SCF steps of ase_nnxc and Quantum ESPRESSO at equal accuracy.

    python benchmarks/speed.py [NAME ...] [--repeats N]
    python benchmarks/speed.py [NAME ...] [--repeats N] --against CHECKOUT

Cases are the crystals of `speed_cases.py`, with energy, forces and stress. For a single crystal the time of our
calculation excludes imports, and that of pw.x is the whole run. The scans (-eos) have seven volumes: one whole Python
process is compared with seven runs of pw.x. The time of al-start is that from the start of Python until the results of
aluminium are printed. Both codes use two cores (two threads; two MPI ranks with k-points divided between them; with one
k-point pw.x divides the plane waves).

For each code the script first finds the loosest convergence threshold that reaches ENERGY and FORCE with respect to the
converged result of the same code. The codes are then timed alternately with these thresholds, and every timed run is
checked again. The script prints medians and writes them, with a description of the machine, to benchmarks/speed.json,
with the share of forces and stress in our time. The memory of pw.x is that of its larger rank.
Without pw.x only ase_nnxc is timed. Nothing else should run on the machine.

With --against, ase_nnxc is compared with another checkout of itself, for instance the state before a change; both run
with the same threshold, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree
from qe import ENVIRONMENT, run_qe
from speed_cases import CASES, upf_files

OUTPUT = Path(__file__).parent / "speed.json"
ENERGY, FORCE = 1e-6, 1e-4  # largest errors allowed, Hartree and Hartree/bohr
QE_LADDER = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)  # conv_thr, Rydberg
OUR_LADDER = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)  # convergence energy, eV per electron
CONVERGED = 1e-10  # ours, eV per electron
CORES = 2


@dataclass(frozen=True)
class Run:
    """One timed calculation of a case: energies (ncrystals,) in Hartree, forces (natoms, 3) of each in Hartree/bohr."""

    seconds: float
    memory_MB: float
    steps: int
    energies: list[float]
    forces: list[list[list[float]]]
    derivatives_share: float = np.nan


def worker(name: str, threshold: float) -> Run:
    """Run ase_nnxc in this process with one calculator for all crystals of the case; imports are not timed."""
    # load torch and all that a calculation needs; ase_nnxc alone does not
    import ase_nnxc.ks.bands
    import ase_nnxc.ks.scf  # noqa: F401
    from ase_nnxc import NNXCCalculator

    case = CASES[name]()
    if "pseudos" not in case.ours:
        import scipy.interpolate  # noqa: F401  which generated pseudopotentials need
    start = time.perf_counter()
    calc = NNXCCalculator(**case.ours, convergence={"energy": threshold})
    energies, forces, steps, derivatives = [], [], 0, 0.0
    for atoms in case.crystals:
        atoms.calc = calc
        energies.append(atoms.get_potential_energy(force_consistent=True) / Hartree)
        clock = time.perf_counter()
        forces.append((atoms.get_forces() * Bohr / Hartree).tolist())
        atoms.get_stress()
        derivatives += time.perf_counter() - clock
        steps += len(calc.history)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(seconds, memory, steps, energies, forces, derivatives / seconds)


def run_ours(name: str, threshold: float, checkout: Path | None = None) -> Run:
    """Run ase_nnxc, of a checkout, in a separate process; the case says what is timed."""
    command = [sys.executable, __file__, "--worker", name, "--threshold", str(threshold)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout)
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline()
        started = time.perf_counter() - start
    whole = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result = json.loads(printed)
    seconds = {"calculation": result["seconds"], "start": started, "process": whole}[CASES[name]().timed]
    return Run(**{**result, "seconds": seconds})


def run_pwx(name: str, threshold: float) -> Run:
    """Run pw.x for each crystal; the time is the sum, the memory the largest of one rank."""
    case = CASES[name]()
    with tempfile.TemporaryDirectory() as folder:
        files = None if "pseudos" in case.ours else upf_files(case, Path(folder))
        results = [run_qe(atoms, **case.qe, files=files, conv_thr=threshold, ranks=CORES) for atoms in case.crystals]
    return Run(
        sum(r["wall_s"] for r in results),
        max(r["memory_MB"] for r in results),
        sum(r["scf_steps"] for r in results),
        [r["energy"] for r in results],
        [r["forces"] for r in results],
    )


def converged_pwx(name: str) -> Run:
    """Return the results of pw.x at conv_thr 1e-11 Ry, from the records if they have them."""
    if not (results := CASES[name]().records):
        return run_pwx(name, 1e-11)
    steps = sum(r["scf_steps"] for r in results)
    return Run(np.nan, np.nan, steps, [r["energy"] for r in results], [r["forces"] for r in results])


def errors(run: Run, converged: Run) -> tuple[float, float]:
    """Return the largest errors of the energies (Hartree) and of the forces (Hartree/bohr)."""
    energy = np.abs(np.subtract(run.energies, converged.energies)).max()
    force = max(np.abs(np.subtract(a, b)).max() for a, b in zip(run.forces, converged.forces))
    return float(energy), float(force)


def accurate(run: Run, converged: Run) -> bool:
    """Return whether a run reaches the required accuracy."""
    energy, force = errors(run, converged)
    return energy <= ENERGY and force <= FORCE


@dataclass(frozen=True)
class Code:
    """One of the codes and how to run it."""

    name: str
    run: Callable[[str, float], Run]
    ladder: Sequence[float]
    converged: Callable[[str], Run]


OURS = Code("ase_nnxc", run_ours, OUR_LADDER, lambda case: run_ours(case, CONVERGED))
QE = Code("QE", run_pwx, QE_LADDER, converged_pwx)


def of_checkout(name: str, path: Path, case: str) -> Code:
    """Return ase_nnxc of a checkout, at the threshold with which this one was timed last."""
    threshold = json.loads(OUTPUT.read_text())["cases"][case]["ase_nnxc"]["threshold"]
    run = partial(run_ours, checkout=path)
    return Code(name, run, [threshold], lambda case: run(case, CONVERGED))


def compare(case: str, codes: Sequence[Code], repeats: int) -> dict[str, dict[str, Any]]:
    """Return the medians of the timed runs of each code at the loosest threshold that is accurate."""
    converged = {code.name: code.converged(case) for code in codes}
    thresholds, runs = {}, {}
    for code in codes:
        passed = (t for t in code.ladder if accurate(code.run(case, t), converged[code.name]))
        thresholds[code.name] = next(passed)
        runs[code.name] = []
    for _ in range(repeats):
        for code in codes:
            runs[code.name].append(code.run(case, thresholds[code.name]))
    results = {}
    for name, timed in runs.items():
        if not all(accurate(run, converged[name]) for run in timed):
            raise RuntimeError(f"{case}: a timed run of {name} has lower accuracy than its earlier run")
        energy, force = np.max([errors(run, converged[name]) for run in timed], axis=0)
        results[name] = {
            "threshold": thresholds[name],
            "seconds": round(statistics.median(run.seconds for run in timed), 3),
            "all_seconds": [round(run.seconds, 3) for run in timed],
            "memory_MB": round(max(run.memory_MB for run in timed)),
            "steps": timed[0].steps,
            "energy_error_Ha": float(energy),
            "force_error_Ha_per_bohr": float(force),
        }
        if name == OURS.name:
            results[name]["derivatives_share"] = round(statistics.median(r.derivatives_share for r in timed), 3)
    return results


def machine() -> dict[str, Any]:
    """Return the processor and the versions of the programs."""
    import torch

    import ase_nnxc

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    facts = {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ase_nnxc": ase_nnxc.__version__,
    }
    if shutil.which("pw.x"):
        with tempfile.TemporaryDirectory() as folder:  # pw.x writes files to its working folder
            banner = subprocess.run(
                ["pw.x"], input="", env={**os.environ, **ENVIRONMENT}, cwd=folder, capture_output=True, text=True
            )
        version = re.search(r"PWSCF v\.(\S+)", banner.stdout)
        facts["pw.x"] = version[1] if version else "unknown"
    return facts


def row(case: str, results: dict[str, dict[str, Any]], names: tuple[str, str]) -> str:
    """Return a line of the table, with the ratio of the first code's time to that of the second."""
    cells = [f"{case:18s}"]
    for name in names:
        r = results.get(name)
        cells.append(
            f"{r['seconds']:8.2f} {r['memory_MB']:6d} {r['steps']:6d} {r['threshold']:8.0e}" if r else f"{'-':>31}"
        )
    first, second = (results.get(name, {"seconds": np.nan})["seconds"] for name in names)
    ratio = first / second
    return "  ".join(cells) + f"  {ratio:6.2f}"


def main() -> None:
    """Compare the codes on the cases named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases, from {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each code (default: %(default)s)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of ase_nnxc")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--threshold", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    if arguments.worker:
        print(json.dumps(asdict(worker(arguments.worker, arguments.threshold))), flush=True)
        return
    names = ("this", "other") if arguments.against else (OURS.name, QE.name)
    heading = f"{'time, s':>8} {'MB':>6} {'steps':>6} {'thresh.':>8}"
    print(f"{'':18s}  {names[0]:^31}  {names[1]:^31}\n{'case':18s}  {heading}  {heading}   ratio")
    kept = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"cases": {}}
    for case in arguments.names or CASES:
        if arguments.against:
            paths = Path(__file__).resolve().parents[1], arguments.against.resolve()
            codes = [of_checkout(name, path, case) for name, path in zip(names, paths)]
        else:
            codes = [OURS, QE] if shutil.which("pw.x") else [OURS]
        results = compare(case, codes, arguments.repeats)
        if not arguments.against:
            kept["cases"][case] = results
            OUTPUT.write_text(json.dumps({"machine": machine(), "cases": kept["cases"]}, indent=1) + "\n")
        print(row(case, results, names), flush=True)


if __name__ == "__main__":
    main()

"""Compare the cost of a functional in the SCF with that of its parent: ratios of times and numbers of steps.

    python benchmarks/neural_cost.py [pbe-clone r2scan-clone ...] [--runs 5] [--crystals NAME ...]
    python benchmarks/neural_cost.py nnxc-solids --runs 1 --crystals Al Si MgO Fe

The two functionals alternate on each crystal. Each calculation of a crystal of `speed_cases.py` runs in this process,
starts from the atomic density and computes the energy only; nothing else should run on the machine. Al, Si, MgO and Fe
are scans, `nnxc eos` with its defaults: the processor time of the whole process per volume, and the largest number of
steps of a volume. The parent of a functional that reads tau is r2SCAN, of any other PBE. The results are written to
benchmarks/neural_cost.json.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import read_results, write_results
from speed_cases import CASES

from ase_nnxc import NNXCCalculator, get_functional

CRYSTALS = ("al-eos-1.00", "si-rattled", "graphene-periodic", "si2", "si64")
SCANS = {
    "Al": ("Al",),
    "Si": ("Si",),
    "MgO": ("MgO", "--structure", "rocksalt"),
    "Fe": ("Fe", "--magmom", "2.2"),
}
OUTPUT = Path(__file__).with_suffix(".json")


def timed(name: str, xc: str) -> tuple[float, int]:
    """Return the time in seconds and the number of steps of an SCF from scratch, or of a scan."""
    if name in SCANS:
        return timed_scan(name, xc)
    case = CASES[name]()
    (atoms,) = case.crystals
    atoms.calc = NNXCCalculator(**case.ours | {"xc": xc})
    start = time.perf_counter()
    atoms.get_potential_energy()
    return time.perf_counter() - start, len(atoms.calc.history)


def timed_scan(name: str, xc: str) -> tuple[float, int]:
    """Return the processor time of `nnxc eos` in seconds per volume, and the largest number of steps of a volume."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ase_nnxc", "eos", *SCANS[name], "--xc", xc, "-o", f"{folder}/scan"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        steps = re.findall(r"converged in (\d+) steps", Path(f"{folder}/scan/log.txt").read_text())
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds / len(steps), max(map(int, steps))


def main() -> None:
    """Print a line for each crystal and functional."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functionals", nargs="*", metavar="XC", default=["pbe-clone", "r2scan-clone"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--crystals", nargs="+", choices=(*CRYSTALS, *SCANS), default=CRYSTALS)
    arguments = parser.parse_args()
    results = read_results(OUTPUT)
    print(f"{'':20s}{'functional':24s}{'s':>8s}{'parent':>8s}{'ratio':>8s}{'steps':>7s}{'parent':>7s}")
    for name in arguments.crystals:
        for xc in arguments.functionals:
            parent = "r2SCAN" if "tau" in get_functional(xc).features else "PBE"
            if name not in SCANS:
                timed(name, parent), timed(name, xc)  # load what both need
            pairs = [(timed(name, xc), timed(name, parent)) for _ in range(arguments.runs)]
            ratio = statistics.median(ours[0] / other[0] for ours, other in pairs)
            (ours, steps), (other, other_steps) = (min(side) for side in zip(*pairs))
            results[f"{name} {xc}"] = {
                "seconds": round(ours, 3),
                "parent_seconds": round(other, 3),
                "ratio": round(ratio, 3),
                "steps": [steps, other_steps],
            }
            write_results(OUTPUT, results)
            print(f"{name:20s}{xc:24s}{ours:8.2f}{other:8.2f}{ratio:8.2f}{steps:7d}{other_steps:7d}", flush=True)


if __name__ == "__main__":
    main()

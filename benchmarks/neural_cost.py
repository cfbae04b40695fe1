"""Compare the cost of a functional in the SCF with that of PBE: ratios of wall times and numbers of steps.

    python benchmarks/neural_cost.py pbe-clone [pbe-clone-mlp ...] [--runs 5]

The two functionals alternate on each crystal in the same process. Each calculation starts from the atomic density and
computes the energy only.
"""

from __future__ import annotations

import argparse
import statistics
import time

import records

CASES = {"al-eos-1.00": "al-eos-1.00", "si-rattled": "si-rattled", "graphene": "graphene-periodic"}


def timed(record: dict, xc: str) -> tuple[float, int]:
    """Return the wall time in seconds and the number of steps of an SCF from scratch."""
    atoms = records.structure(record)
    atoms.calc = records.calculator(record, "qe")
    atoms.calc.set(xc=xc)
    start = time.perf_counter()
    atoms.get_potential_energy()
    return time.perf_counter() - start, len(atoms.calc.history)


def main() -> None:
    """Print a line for each crystal and functional."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functionals", nargs="+", metavar="XC")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    known = records.load("qe")
    print(f"{'':14s}{'functional':24s}{'s':>8s}{'PBE s':>8s}{'ratio':>8s}{'steps':>7s}{'PBE':>5s}")
    for name, case in CASES.items():
        timed(known[case], "PBE")
        for xc in arguments.functionals:
            timed(known[case], xc)
            pairs = [(timed(known[case], xc), timed(known[case], "PBE")) for _ in range(arguments.runs)]
            ratio = statistics.median(ours[0] / pbe[0] for ours, pbe in pairs)
            (ours, steps), (pbe, pbe_steps) = (min(side) for side in zip(*pairs))
            print(f"{name:14s}{xc:24s}{ours:8.2f}{pbe:8.2f}{ratio:8.2f}{steps:7d}{pbe_steps:5d}", flush=True)


if __name__ == "__main__":
    main()

"""Compare SCFs at Gamma with real and with complex orbitals: processor time, steps and energies.

    python benchmarks/real_orbitals.py [NAME ...] [--repeats N]

Both kinds run in turn in one process on one thread, from superposed atoms to the default tolerance, with gth-pbe and
PBE. The times are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.total_energy import TotalEnergy


def silicon(*repeats: int) -> Atoms:
    """Return repeated cubic cells of silicon with rattled atoms."""
    atoms = bulk("Si", cubic=True) * repeats
    atoms.rattle(0.03, seed=3)
    return atoms


def water() -> Atoms:
    """Return a molecule of water in a periodic box."""
    atoms = molecule("H2O", cell=[8.0] * 3, pbc=True)
    atoms.center()
    return atoms


CASES: dict[str, tuple[Callable[[], Atoms], float]] = {  # with the cutoff, eV
    "Si8": (lambda: silicon(1, 1, 1), 300),
    "Si16": (lambda: silicon(1, 1, 2), 300),
    "Si64": (lambda: silicon(2, 2, 2), 250),
    "H2O": (water, 500),
}


def run(name: str, real: bool) -> tuple[float, int, float]:
    """Return processor time, number of steps and energy (Hartree) of an SCF with real or complex orbitals."""
    make, ecut = CASES[name]
    atoms = make()
    atoms.calc = NNXCCalculator("PBE", pseudos="gth-pbe", ecut=ecut, kpts=(1, 1, 1))
    start = time.process_time()
    if real:
        energy = atoms.get_potential_energy(force_consistent=True)
    else:
        with mock.patch.object(TotalEnergy, "is_real", False):
            energy = atoms.get_potential_energy(force_consistent=True)
    return time.process_time() - start, len(atoms.calc.history), energy / Hartree


def main() -> None:
    """Print a line for each case named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases, from {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CASES):
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    torch.set_num_threads(1)
    run("Si8", real=True)  # imports
    print(f"{'case':8s} {'real, s':>8} {'complex, s':>10} {'ratio':>6} {'steps':>7} {'energies differ, Ha':>20}")
    for name in arguments.names or CASES:
        runs = [[run(name, real) for real in (True, False)] for _ in range(arguments.repeats)]
        seconds = [statistics.median(r[kind][0] for r in runs) for kind in (0, 1)]
        (_, steps, energy), (_, other_steps, other) = runs[0]
        times = f"{seconds[0]:8.2f} {seconds[1]:10.2f} {seconds[0] / seconds[1]:6.2f}"
        print(f"{name:8s} {times} {f'{steps}, {other_steps}':>7} {abs(energy - other):20.1e}", flush=True)


if __name__ == "__main__":
    main()

"""Test energy conservation in molecular dynamics of silicon: the drift of F + E_kin in the NVE ensemble.

    python benchmarks/conservation.py [femtoseconds]

Two atoms start at 600 K and move in steps of 1 fs, with the calculator's default convergence. Energy is conserved at
any cutoff and mesh, so inexpensive ones are used.
"""

import sys

import numpy as np
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB

from ase_nnxc import NNXCCalculator


def total_energies(nsteps: int) -> np.ndarray:
    """Return F + E_kin, eV per atom, before and after each step of 1 fs."""
    atoms = bulk("Si", a=5.47)
    settings = {"ecut": 200, "kpts": {"size": (2, 2, 2), "gamma": True}, "convergence": {"energy": 1e-8}}
    atoms.calc = NNXCCalculator("PBE", pseudos="gth-pbe", **settings)
    momenta = np.random.default_rng(1).normal(size=(2, 3)) * np.sqrt(kB * 600 * atoms.get_masses()[:, None])
    atoms.set_momenta(momenta - momenta.mean(0))
    energies = []

    def note() -> None:
        energies.append((atoms.get_potential_energy(force_consistent=True) + atoms.get_kinetic_energy()) / len(atoms))

    dynamics = VelocityVerlet(atoms, timestep=1 * fs)
    dynamics.attach(note)
    dynamics.run(nsteps)
    return np.array(energies)


def main() -> None:
    """Print the drift, from a linear fit to all steps, and the scatter around it."""
    energies = 1000 * total_energies(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    time = np.arange(len(energies)) / 1000  # ps
    (slope, start), covariance = np.polyfit(time, energies, 1, cov=True)
    spread = (energies - start - slope * time).std()
    print(f"{time[-1]:.2f} ps: drift {slope:.4f} +- {covariance[0, 0] ** 0.5:.4f}, spread {spread:.4f} meV/atom (/ps)")


if __name__ == "__main__":
    main()

"""Print how the energies of meta-GGAs depend on the grid: the table of docs/convergence.md.

    python benchmarks/grid_errors.py [--generated] [NAME ...]

The density is that of an SCF with r2SCAN. Its exchange-correlation energy is evaluated on finer and finer grids, each
at several positions relative to the atoms. To first order these are the errors of total energies, because the energy is
stationary in the density. A line has the largest difference, in meV per cell, from the mean on the finest grid.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.basis import fft_box, make_basis
from ase_nnxc.ks.fields import Fields
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.symmetry import identity
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms.xc import ExchangeCorrelation
from ase_nnxc.registry import get_functional
from ase_nnxc.units import HARTREE

FACTORS = (1.0, 1.5, 2.0, 2.25, 3.0, 4.0)
POSITIONS = 4
CASES = {
    "Si": (bulk("Si", a=5.43), {"ecut": 300, "kpts": {"size": (2, 2, 2), "gamma": True}, "pseudos": "gth-pbe"}),
    "MgO": (bulk("MgO", "rocksalt", a=4.21), {"kpts": (1, 1, 1), "pseudos": {"Mg": "gth-pbe-q2", "O": "gth-pbe-q6"}}),
    "Cu": (bulk("Cu", a=3.6), {"kpts": (1, 1, 1), "pseudos": "gth-pbe-q19"}),
    "H2O": (molecule("H2O"), {"ecut": 300, "smearing": {"name": "gaussian", "width": 0.01}, "pseudos": "gth-pbe"}),
}


def ground_state(atoms: Atoms, parameters: dict) -> GroundState:
    """Return the ground state of r2SCAN."""
    return NNXCCalculator("r2SCAN", **parameters).ground_state(atoms)


def energies(state: GroundState, xc: str, factor: float) -> np.ndarray:
    """Return exchange-correlation energies (POSITIONS,), meV, of a state's fields on a grid at random positions."""
    crystal, ecut = state.crystal, state.basis.ecut
    box = fft_box(crystal.lattice, ecut, fineness=factor)
    gamma = torch.zeros(1, 3, dtype=torch.float64)
    basis = make_basis(crystal, ecut, gamma, identity(len(crystal.potentials)), box)
    rng, values = np.random.default_rng(0), []
    for number in range(POSITIONS):
        step = rng.random(3) / box if number else np.zeros(3)  # the first has atoms on points, if they are
        phases = torch.exp(-2j * math.pi * (basis.grid.miller.double() @ torch.from_numpy(step)))
        fields = Fields(basis.grid, crystal.nspin, fourier=state.fields * phases)
        moved = replace(crystal, positions=crystal.positions + torch.from_numpy(step))  # core densities move, too
        term = ExchangeCorrelation(System(moved, basis, get_functional(xc)))
        with torch.no_grad():
            values.append(1000 * HARTREE * float(term.energy(fields)))
    return np.array(values)


def main() -> None:
    """Print a line for each crystal and functional."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument(
        "--generated", action="store_true", help="generated pseudopotentials with their cutoffs instead of gth-pbe"
    )
    arguments = parser.parse_args()
    print(f"{'':14s}", *(f"{factor:9.2f}" for factor in FACTORS))
    for name in arguments.names or CASES:
        atoms, parameters = CASES[name]
        if arguments.generated:
            parameters = {key: value for key, value in parameters.items() if key not in ("ecut", "pseudos")}
        state = ground_state(atoms, parameters)
        for xc in ("PBE", "r2SCAN", "SCAN"):
            found = [energies(state, xc, factor) for factor in FACTORS]
            worst = [np.abs(values - found[-1].mean()).max() for values in found]
            print(f"{name:6s}{xc:8s}", *(f"{error:9.4f}" for error in worst), flush=True)


if __name__ == "__main__":
    main()

"""Measure the cost of gradients through the SCF relative to the SCF: ratios of CPU times in the same process.

    python benchmarks/response_cost.py [--threads 1]

dF/dtheta is the gradient of the free energy, and adjoint is that of a loss on the density. The relative error of the
latter is with respect to a response converged to 1e-9. The parameters are kappa and mu of PBE.
"""

from __future__ import annotations

import argparse
import math
import time

import records
import torch
from ase.build import bulk
from ase.units import Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.adjoint import differentiable
from ase_nnxc.xc import PBE


def timed(function):
    """Return the CPU time of a call in seconds, and its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    """Print a line for each crystal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    record = records.load("qe")["si-rattled"]
    mesh = {"kpts": {"size": (8, 8, 8), "gamma": True}, "ecut": 15 * Hartree, "pseudos": "gth-pbe"}
    mesh |= {"convergence": {"energy": 1e-8}}
    cases = {
        "si-rattled": (records.structure(record), records.calculator(record, "qe")),
        "Al 8x8x8": (bulk("Al", a=4.04), NNXCCalculator(**mesh)),
    }
    for name, (atoms, calculator) in cases.items():
        functional = PBE(trainable=("kappa", "mu"))
        calculator.set(xc=functional)
        parameters = list(functional.parameters())
        scf, state = timed(lambda calc=calculator, atoms=atoms: calc.ground_state(atoms))
        by_energy = min(
            timed(lambda: torch.autograd.grad(calculator.energy_tensor(atoms), parameters))[0] for _ in range(2)
        )

        def adjoint(tolerance: float | None) -> torch.Tensor:
            fields = differentiable(state, tolerance=tolerance).fields
            return torch.stack(torch.autograd.grad(fields.square().sum(), parameters))

        exact = adjoint(1e-9)
        default = 3 * math.sqrt(calculator.parameters["convergence"]["energy"] / Hartree)
        for tolerance in (1e-3, 1e-4, default):
            seconds, gradient = timed(lambda tolerance=tolerance: adjoint(tolerance))
            error = float((gradient - exact).norm() / exact.norm())
            print(
                f"{name:12s} SCF {scf:7.2f} s, dF/dtheta {by_energy / scf:6.3f}, adjoint to {tolerance:.1e} "
                f"{seconds / scf:5.2f} of it, error {error:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()

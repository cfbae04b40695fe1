"""Elastic constants of silicon as strain derivatives of the stress, and the dependence of C11 on kappa and mu.

`calc.differentiable` returns forces and stress as functions of positions and strain, so that each row of the matrix of
second derivatives is one call of autograd. Linear algebra includes the relaxation of the atoms under strain. Finally,
C11 is calculated from the stress of two strained cells, with its gradient with respect to kappa and mu.
"""

import numpy as np
import torch
from ase.build import bulk
from ase.units import GPa

from ase_nnxc import NNXCCalculator
from ase_nnxc.xc import PBE

functional = PBE(trainable=("kappa", "mu"))
calc = NNXCCalculator(functional, ecut=350, kpts={"size": (4, 4, 4), "gamma": True}, convergence={"energy": 1e-9})
atoms = bulk("Si", a=5.47)
# move the atoms off the points of the FFT box: where the density nearly vanishes at an atom, as without a core density,
# the second derivatives of PBE on such a point are noise
atoms.translate([0.13, 0.07, 0.04])
natoms = len(atoms)

VOIGT, HALF = torch.tensor([[0, 5, 4], [5, 1, 3], [4, 3, 2]]), 0.5 * (1 + torch.eye(3, dtype=torch.float64))
positions = torch.tensor(atoms.positions, requires_grad=True)
voigt = torch.zeros(6, dtype=torch.float64, requires_grad=True)
out = calc.differentiable(atoms, positions=positions, strain=voigt[VOIGT] * HALF)
numbers = torch.cat((out.stress, out.forces.flatten()))
rows = [torch.autograd.grad(number, (voigt, positions), retain_graph=True) for number in numbers]
by_strain = torch.stack([row[0] for row in rows]).numpy()
by_positions = torch.stack([row[1].flatten() for row in rows]).numpy()

# the forces stay zero: df = f_strain de + f_u du = 0; a pseudoinverse, because a common shift changes (nearly) nothing
follow = -np.linalg.pinv(by_positions[6:], rcond=1e-2) @ by_strain[6:]
clamped, relaxed = by_strain[:6] / GPa, (by_strain[:6] + by_positions[:6] @ follow) / GPa
for name, (i, j) in {"C11": (0, 0), "C12": (0, 1), "C44": (3, 3)}.items():
    print(f"{name} = {relaxed[i, j]:.1f} GPa, with clamped atoms {clamped[i, j]:.1f} GPa")


def stress_xx(x: float) -> torch.Tensor:
    """Return the stress component xx of the crystal stretched along x."""
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ np.diag([1 + x, 1.0, 1.0]), scale_atoms=True)
    return calc.differentiable(strained).stress[0]


h = 0.002
constant = (stress_xx(h) - stress_xx(-h)) / (2 * h) / GPa
constant.backward()
print(f"C11 from two strained cells: {constant.item():.1f} GPa")
print(f"dC11/dkappa = {functional.kappa.grad:.2f} GPa, dC11/dmu = {functional.mu.grad:.2f} GPa")

"""Hartree energy: the electron density's electrostatics with itself.

E_H = Omega/2 sum_{G != 0} 4 pi |n_G|^2 / G^2; G = 0 cancels against the local pseudopotential and Ewald's background.
"""

import math

import torch
from torch import Tensor

from ..basis import DensityGrid


def coulomb_kernel(grid: DensityGrid, reciprocal: Tensor) -> Tensor:
    """4 pi / G^2 (ng,), bohr^2, zero at G = 0; differentiable in the reciprocal lattice."""
    q2 = grid.wavevectors(reciprocal).square().sum(-1)
    origin = torch.zeros_like(q2, dtype=torch.bool)
    origin[0] = True
    return torch.where(origin, 0.0, 4 * math.pi / torch.where(origin, 1.0, q2))


def hartree_energy(density: Tensor, kernel: Tensor, grid: DensityGrid, volume: Tensor) -> Tensor:
    """Energy, Hartree, of the Fourier coefficients `density` (ng,), bohr^-3."""
    return 0.5 * volume * grid.inner(density, kernel * density)

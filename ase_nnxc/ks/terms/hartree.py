"""Hartree energy: the electron density's electrostatics with itself.

E_H = Omega/2 sum_G K(G) |n_G|^2, K the Coulomb interaction of the boundary condition (see `coulomb`).
"""

from torch import Tensor

from ..basis import DensityGrid


def hartree_energy(density: Tensor, kernel: Tensor, grid: DensityGrid, volume: Tensor) -> Tensor:
    """Energy, Hartree, of the Fourier coefficients `density` (ng,), bohr^-3."""
    return 0.5 * volume * grid.inner(density, kernel * density)

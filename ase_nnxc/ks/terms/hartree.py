"""Hartree energy: the electrostatic energy of the electron density.

E_H = Omega/2 sum_G K(G) |n_G|^2, where K is the Coulomb interaction of the boundary condition (see `coulomb`).
"""

import torch
from torch import Tensor

from ..fields import Fields
from .term import DensityTerm, Kernel


class Hartree(DensityTerm):
    """Electrostatic energy of the electrons with each other."""

    name = "hartree"

    def energy(self, fields: Fields) -> Tensor:
        """Return the energy, Hartree."""
        density = fields.density_fourier
        return 0.5 * self.system.crystal.volume * fields.grid.inner(density, self.system.coulomb * density)

    def potential(self, fields: Fields) -> tuple[float, Tensor]:
        """Return the energy, Hartree, and the potential: K n for the density, zero for all other fields."""
        return float(self.energy(fields)), self._potential(fields.fourier)

    def kernel(self, fields: Fields) -> Kernel:
        """Return the potential as a function of the density, in which it is linear."""
        return self._potential

    def _potential(self, fourier: Tensor) -> Tensor:
        grid = self.system.basis.grid
        potential = torch.zeros(len(fourier), *grid.shape, dtype=torch.float64, device=fourier.device)
        potential[0] = grid.to_real(self.system.coulomb * fourier[0])
        return potential

"""Hartree energy: the electron density's electrostatics with itself.

E_H = Omega/2 sum_G K(G) |n_G|^2, K the Coulomb interaction of the boundary condition (see `coulomb`).
"""

from functools import cached_property

import torch
from torch import Tensor

from ..coulomb import coulomb_kernel
from ..fields import Fields
from .term import DensityTerm, Kernel


class Hartree(DensityTerm):
    """Electrostatic energy of the electrons with each other."""

    name = "hartree"

    @cached_property
    def interaction(self) -> Tensor:
        """(ng,) K, bohr^2."""
        return coulomb_kernel(self.system.basis.grid, self.system.crystal)

    def energy(self, fields: Fields) -> Tensor:
        """Energy, Hartree."""
        density = fields.electrons
        return 0.5 * self.system.crystal.volume * fields.grid.inner(density, self.interaction * density)

    def potential(self, fields: Fields) -> tuple[float, Tensor]:
        """Energy, Hartree, and K n for the density, zero for all other fields."""
        return float(self.energy(fields)), self._potential(fields.fourier)

    def kernel(self, fields: Fields) -> Kernel:
        """The potential, which is linear in the density."""
        return self._potential

    def _potential(self, fourier: Tensor) -> Tensor:
        grid = self.system.basis.grid
        potential = torch.zeros(len(fourier), *grid.shape, dtype=torch.float64, device=fourier.device)
        potential[0] = grid.to_real(self.interaction * fourier[0])
        return potential

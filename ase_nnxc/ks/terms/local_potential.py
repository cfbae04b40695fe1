"""Local pseudopotential: the potential of Gaussian charges of the ions, and a short-ranged part.

V(G) = 1/Omega sum_a exp(-i G R_a) [ -Z_a exp(-G^2 r_a^2 / 2) K(G) + short_a(|G|) ], including the mean at G = 0.
"""

from functools import cached_property

import torch
from torch import Tensor

from ...pseudopotentials.protocol import Pseudopotential
from ..coulomb import of_gaussian
from ..fields import Fields
from ..superposition import superposition
from .term import DensityTerm


class LocalPotential(DensityTerm):
    """Energy of the electrons in the local part of the pseudopotentials."""

    name = "local"

    @cached_property
    def fourier(self) -> Tensor:
        """(ng,) Fourier coefficients V(G), Hartree."""
        crystal, grid = self.system.crystal, self.system.basis.grid
        interaction = self.system.coulomb

        def form_factor(table: Pseudopotential, q2: Tensor) -> Tensor:
            return table.short(q2) - table.valence * of_gaussian(interaction, q2, table.rloc**2 / 2, crystal.pbc)

        return superposition(crystal, grid, form_factor)

    @cached_property
    def real(self) -> Tensor:
        """(n1, n2, n3) values V(r), Hartree."""
        return self.system.basis.grid.to_real(self.fourier)

    def energy(self, fields: Fields) -> Tensor:
        """Return Omega sum_G n_G* V_G, Hartree."""
        return self.system.crystal.volume * fields.grid.inner(fields.density_fourier, self.fourier)

    def potential(self, fields: Fields) -> tuple[float, Tensor]:
        """Return the energy, Hartree, and the potential: V for the density, zero for all other fields."""
        potential = torch.zeros_like(fields.real)
        potential[0] = self.real
        return float(self.energy(fields)), potential

    def kernel(self, fields: Fields) -> None:
        """Return None, as the potential does not depend on the fields."""

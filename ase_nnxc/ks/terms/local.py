"""Local pseudopotential: the potential of the ions' Gaussian charges, and a short-ranged rest.

V(G) = 1/Omega sum_a exp(-i G R_a) [ -Z_a exp(-G^2 r_a^2 / 2) K(G) + short_a(|G|) ], its mean at G = 0 included.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...pseudopotentials.protocol import Pseudopotential
from ..basis import DensityGrid
from ..crystal import Crystal
from .coulomb import of_gaussian


def structure_factors(grid: DensityGrid, positions: Tensor) -> Tensor:
    """sum_a exp(-i G R_a) over the atoms at fractional `positions` (natoms, 3): complex (ng,)."""
    phase = -2 * math.pi * (grid.miller.to(positions.dtype) @ positions.mT)
    return torch.complex(torch.cos(phase), torch.sin(phase)).sum(-1)


def superposition(
    crystal: Crystal,
    grid: DensityGrid,
    form_factor: Callable[[Pseudopotential, Tensor], Tensor],
    scale: Tensor | None = None,
) -> Tensor:
    """Fourier coefficients (ng,) of a sum of atomic fields.

    Parameters
    ----------
    crystal : Crystal
        The cell.
    grid : DensityGrid
        Its grid.
    form_factor : callable
        Fourier transform of one atom's field, of its pseudopotential and |G|^2 (ng,).
    scale : Tensor, optional
        (natoms,) a factor for each atom.
    """
    q2 = grid.wavevectors(crystal.reciprocal).square().sum(-1)
    total = torch.zeros(len(q2), dtype=torch.complex128, device=q2.device)
    for potential, atoms in crystal.species.items():
        form = form_factor(potential, q2)
        if scale is None:
            total = total + form * structure_factors(grid, crystal.positions[atoms])
        else:
            for atom in atoms:
                total = total + scale[atom] * form * structure_factors(grid, crystal.positions[[atom]])
    return total / crystal.volume


def local_potential(crystal: Crystal, grid: DensityGrid, kernel: Tensor) -> Tensor:
    """Fourier coefficients (ng,) of the local pseudopotential, Hartree, differentiable in cell and positions.

    `kernel` is that of `coulomb_kernel`.
    """

    def form_factor(table: Pseudopotential, q2: Tensor) -> Tensor:
        return table.short(q2) - table.valence * of_gaussian(kernel, q2, table.rloc**2 / 2, crystal.pbc)

    return superposition(crystal, grid, form_factor)

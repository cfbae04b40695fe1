"""Sums of atomic fields, in Fourier space."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential
from .basis import DensityGrid
from .crystal import Crystal


def structure_factors(grid: DensityGrid, positions: Tensor) -> Tensor:
    """Return sum_a exp(-i G R_a), complex (ng,), over atoms at fractional `positions` (natoms, 3)."""
    phase = -2 * math.pi * (grid.miller.to(positions.dtype) @ positions.mT)
    return torch.complex(torch.cos(phase), torch.sin(phase)).sum(-1)


def superposition(
    crystal: Crystal,
    grid: DensityGrid,
    form_factor: Callable[[Pseudopotential, Tensor], Tensor],
    scale: Tensor | None = None,
) -> Tensor:
    """Return the Fourier coefficients of a sum of atomic fields.

    Parameters
    ----------
    crystal : Crystal
        Cell and atoms.
    grid : DensityGrid
        Grid of the crystal.
    form_factor : callable
        Function of a pseudopotential and |G|^2 (ng,), bohr^-2; returns the Fourier transform (ng,) of an atom's field.
    scale : Tensor, optional
        (natoms,) factors of the atoms; default: 1.

    Returns
    -------
    Tensor
        (ng,) complex128.
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

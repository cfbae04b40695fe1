"""The Coulomb interaction for each boundary condition, as the factor K(G) of a charge density's Fourier coefficients.

Along periodic directions charges interact by 1/r with all images. Along the other directions the interaction is cut off
so that charges which extend over less than half of the cell interact only with each other, not with their images.

- Three periodic directions: K = 4 pi / G^2, and zero at G = 0 (a neutralising background).
- Two periodic directions, with z the third: 1/r where |z| < L/2,
      K = 4 pi / G^2 (1 - exp(-G_xy L/2) cos(G_z L/2)),   K(0) = -2 pi (L/2)^2,
  C. A. Rozzi, D. Varsano, A. Marini, E. K. U. Gross and A. Rubio, Phys. Rev. B 73, 205119 (2006); S. Ismail-Beigi,
  Phys. Rev. B 73, 233103 (2006). The potential of a neutral layer goes to zero far from it.
- No periodic direction: 1/r of the nearest image, in the cell around each charge (R. Sundararaman and T. A. Arias,
  Phys. Rev. B 87, 165122 (2013)),
      1/r = erfc(a r) / r + erf(a r) / r,   K = 4 pi / G^2 (1 - exp(-G^2 / 4 a^2)) + FFT of the second term.
"""

import math

import torch
from torch import Tensor

from .basis import DensityGrid
from .crystal import Crystal

# a times half of the shortest length of an isolated cell. The first term is reduced by erfc(SPLIT) = 2e-12 at the cell
# boundary, and the grid resolves the second term for cutoffs above about (10 SPLIT / length)^2 / 2
SPLIT = 5.0


def coulomb_kernel(grid: DensityGrid, crystal: Crystal) -> Tensor:
    """Return K (ng,), bohr^2, on the grid of the density, differentiable in a strain along periodic directions.

    Raises
    ------
    ValueError
        If exactly one direction is periodic.
    """
    if not any(crystal.pbc):
        return _nearest_image(grid, crystal)
    return lattice_kernel(grid.miller, crystal.lattice, crystal.pbc)


def lattice_kernel(miller: Tensor, lattice: Tensor, pbc: tuple[bool, bool, bool]) -> Tensor:
    """Return K for reciprocal lattice vectors, with two or three periodic directions.

    Parameters
    ----------
    miller : Tensor
        (n, 3) integer indices of G.
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr. A vector that is not periodic is perpendicular to the others.
    pbc : tuple of bool
        Which directions are periodic: three or two.

    Returns
    -------
    Tensor
        (n,), bohr^2.

    Raises
    ------
    ValueError
        If fewer than two directions are periodic.
    """
    if sum(pbc) < 2:
        raise ValueError(f"no Coulomb interaction for pbc={pbc}: expected two or three periodic directions")
    reciprocal = 2 * math.pi * torch.linalg.inv(lattice).mT
    g2 = (miller.to(lattice.dtype) @ reciprocal).square().sum(-1)
    origin = (miller == 0).all(-1)
    kernel = torch.where(origin, 0.0, 4 * math.pi / torch.where(origin, 1.0, g2))
    if all(pbc):
        return kernel
    z = pbc.index(False)
    half = 0.5 * torch.linalg.vector_norm(lattice[z])
    in_plane = miller.to(lattice.dtype, copy=True)
    in_plane[:, z] = 0.0
    g2 = (in_plane @ reciprocal).square().sum(-1)
    above = (in_plane == 0).all(-1)
    decay = torch.exp(-half * torch.where(above, 1.0, g2).sqrt()).where(~above, 1.0)
    sign = 1 - 2 * (miller[:, z] % 2)  # cos(G_z L/2)
    return torch.where(origin, -2 * math.pi * half.square(), kernel * (1 - sign * decay))


def of_gaussian(kernel: Tensor, g2: Tensor, variance: float, pbc: tuple[bool, bool, bool]) -> Tensor:
    """Return the potential of a unit Gaussian charge exp(-variance G^2).

    With three periodic directions the coefficient of G = 0 is the limit of the difference from a point charge,
    4 pi / G^2 (exp(-variance G^2) - 1) = -4 pi variance.

    Parameters
    ----------
    kernel : Tensor
        (n,) K, bohr^2.
    g2 : Tensor
        (n,) |G|^2, bohr^-2.
    variance : float
        Coefficient of G^2 in the exponent, bohr^2.
    pbc : tuple of bool
        Which directions are periodic.

    Returns
    -------
    Tensor
        (n,), bohr^2.
    """
    potential = kernel * torch.exp(-variance * g2)
    return torch.where(g2 == 0, -4 * math.pi * variance, potential) if all(pbc) else potential


def _nearest_image(grid: DensityGrid, crystal: Crystal) -> Tensor:
    """Return K (ng,), bohr^2, of an isolated system in a cell with right angles."""
    lattice = crystal.lattice.detach()
    lengths = torch.linalg.vector_norm(lattice, dim=1)
    a = 2 * SPLIT / float(lengths.min())
    axes = []
    for points, length in zip(grid.shape, lengths):
        step = torch.arange(points, dtype=lengths.dtype, device=lengths.device) / points
        axes.append(((step - step.round()) * length).square())
    r = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).sqrt()
    smooth = torch.erf(a * r) / r
    smooth[0, 0, 0] = 2 * a / math.sqrt(math.pi)
    g2 = grid.wavevectors(2 * math.pi * torch.linalg.inv(lattice).mT).square().sum(-1)
    short = -4 * math.pi * torch.expm1(-g2 / (4 * a**2)) / g2
    short[0] = math.pi / a**2
    return short + lengths.prod() * grid.to_fourier(smooth).real

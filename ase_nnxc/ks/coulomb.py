"""The Coulomb interaction of a boundary condition, as the factor K(G) on each Fourier coefficient of a charge density.

Between periodic directions it is 1/r of all images. Along the others it is cut off where the images begin: charges
that extend over less than half of the cell there interact as isolated ones, and only with each other.

- three periodic directions: K = 4 pi / G^2, zero at G = 0 (a neutralising background).
- two, the third being z: 1/r where |z| < L/2,
      K = 4 pi / G^2 (1 - exp(-G_xy L/2) cos(G_z L/2)),   K(0) = -2 pi (L/2)^2,
  C. A. Rozzi, D. Varsano, A. Marini, E. K. U. Gross and A. Rubio, Phys. Rev. B 73, 205119 (2006); S. Ismail-Beigi,
  Phys. Rev. B 73, 233103 (2006). The potential of a neutral layer goes to zero far from it.
- none: 1/r in the cell around each charge, that is, of the nearest image (R. Sundararaman and T. A. Arias, Phys. Rev. B
  87, 165122 (2013)),
      1/r = erfc(a r) / r + erf(a r) / r,   K = 4 pi / G^2 (1 - exp(-G^2 / 4 a^2)) + FFT of the second.
"""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .basis import DensityGrid
from .crystal import Crystal

# a times half of the shortest length of an isolated cell: erfc(SPLIT) = 2e-12 of the first part is left there, and the
# grid holds the second for cutoffs above some (10 SPLIT / length)^2 / 2
SPLIT = 5.0


_kernels: "WeakKeyDictionary[Crystal, tuple[DensityGrid, Tensor]]" = WeakKeyDictionary()


def coulomb_kernel(grid: DensityGrid, crystal: Crystal) -> Tensor:
    """K (ng,), bohr^2, on the density's grid; differentiable in a strain of periodic directions.

    It is computed once for a crystal, whose terms share it.

    Raises
    ------
    ValueError
        If one direction alone is periodic.
    """
    known = _kernels.get(crystal)
    if known is None or known[0] is not grid:
        nearest = not any(crystal.pbc)
        kernel = _nearest_image(grid, crystal) if nearest else lattice_kernel(grid.miller, crystal.lattice, crystal.pbc)
        known = _kernels[crystal] = grid, kernel
    return known[1]


def lattice_kernel(miller: Tensor, lattice: Tensor, pbc: tuple[bool, bool, bool]) -> Tensor:
    """K of reciprocal lattice vectors.

    Parameters
    ----------
    miller : Tensor
        (n, 3) integers.
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr; one that is not periodic is perpendicular to the others.
    pbc : tuple of bool
        Which directions are periodic: three or two.

    Returns
    -------
    Tensor
        (n,) bohr^2.

    Raises
    ------
    ValueError
        If fewer directions are periodic.
    """
    if sum(pbc) < 2:
        raise ValueError(f"no Coulomb interaction on a lattice is known for pbc={pbc}")
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
    """Potential (n,), bohr^2, of a unit charge exp(-variance G^2) at wave vectors of these squares (n,), bohr^-2.

    With three periodic directions its mean is what the Gaussian lacks of a point: 4 pi / G^2 (exp(-variance G^2) - 1)
    at G = 0.
    """
    potential = kernel * torch.exp(-variance * g2)
    return torch.where(g2 == 0, -4 * math.pi * variance, potential) if all(pbc) else potential


def _nearest_image(grid: DensityGrid, crystal: Crystal) -> Tensor:
    """K of an isolated system in a right-angled cell."""
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

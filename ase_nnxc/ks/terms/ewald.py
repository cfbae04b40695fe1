"""Ewald energy: the electrostatic energy of the ions, with the Coulomb interaction K(G) of `coulomb`.

E = 1/2 sum'_{abR} Z_a Z_b erfc(eta r_abR) / r_abR        (sum': without r = 0; R: lattice vectors)
  + 1 / 2 Omega sum_G K(G) exp(-G^2 / 4 eta^2) |S(G)|^2     S(G) = sum_a Z_a exp(-i G.R_a)
  - eta / sqrt(pi) sum_a Z_a^2

P. P. Ewald, Ann. Phys. 369, 253 (1921). With three periodic directions the term at G = 0,
-pi / (2 Omega eta^2) (sum_a Z_a)^2, comes from the background that neutralises the ions.
"""

import math

import torch
from torch import Tensor

from ..coulomb import lattice_kernel, of_gaussian
from .term import IonTerm

# both sums are truncated where their Gaussian is exp(-EXPONENT) = 1e-18 of its largest value
EXPONENT = 41.0


class Ewald(IonTerm):
    """Electrostatic energy of the ions."""

    name = "ewald"

    def energy(self) -> Tensor:
        """Return the energy, Hartree."""
        crystal = self.system.crystal
        return ewald_energy(crystal.lattice, crystal.positions, crystal.charges, pbc=crystal.pbc)


def ewald_energy(
    lattice: Tensor,
    positions: Tensor,
    charges: Tensor,
    pbc: tuple[bool, bool, bool] = (True, True, True),
) -> Tensor:
    """Return the electrostatic energy of the ions of one cell, differentiable in lattice, positions and charges.

    Parameters
    ----------
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr.
    positions : Tensor
        (natoms, 3), fractional; along periodic directions they may lie in any cell.
    charges : Tensor
        (natoms,) charges, elementary charges.
    pbc : tuple of bool
        Which directions are periodic: all, two, or none.

    Returns
    -------
    Tensor
        Scalar, Hartree.

    Raises
    ------
    ValueError
        If exactly one direction is periodic, or if the ions of a layer extend over half of the cell or more along the
        direction that is not periodic.
    """
    if not any(pbc):
        first, second = torch.triu_indices(len(positions), len(positions), 1, device=positions.device)
        distance = torch.linalg.vector_norm((positions[second] - positions[first]) @ lattice, dim=-1)
        return (charges[first] * charges[second] / distance).sum()
    volume = torch.linalg.det(lattice).abs()
    eta = splitting(lattice.detach(), positions.detach(), pbc)
    self_energy = eta / math.sqrt(math.pi) * charges.square().sum()
    near = _real_space_sum(lattice, positions, charges, eta, pbc)
    return near + _reciprocal_sum(lattice, positions, charges, eta, pbc) / volume - self_energy


def splitting(lattice: Tensor, positions: Tensor, pbc: tuple[bool, bool, bool]) -> float:
    """Return the splitting parameter eta of the two sums, bohr^-1. The energy does not depend on it.

    The cost of the pairs is ~ natoms^2 / (eta^3 Omega), and the cost of the phases ~ natoms eta^3 Omega. The total cost
    is smallest where both are equal.
    """
    volume = float(torch.linalg.det(lattice).abs())
    cheapest = (2 * math.pi**3 * len(positions) / volume**2) ** (1 / 6)
    return max(cheapest, _narrowest(lattice, positions, pbc))


def _narrowest(lattice: Tensor, positions: Tensor, pbc: tuple[bool, bool, bool]) -> float:
    """Return the smallest eta, bohr^-1, at which a truncated interaction covers the Gaussians of all ions."""
    least = 0.0
    for axis in (i for i, periodic in enumerate(pbc) if not periodic):
        extent = float(positions[:, axis].max() - positions[:, axis].min())
        if extent >= 0.5:
            raise ValueError(
                f"the ions extend over {extent:.2f} of the cell along axis {axis}, which is not periodic; "
                "expected less than 0.5"
            )
        least = math.sqrt(EXPONENT) / ((0.5 - extent) * float(torch.linalg.vector_norm(lattice[axis])))
    return least


def _real_space_sum(
    lattice: Tensor, positions: Tensor, charges: Tensor, eta: float, pbc: tuple[bool, bool, bool]
) -> Tensor:
    first, second, shift = _pairs_within(lattice.detach(), positions.detach(), math.sqrt(EXPONENT) / eta, pbc)
    distance = torch.linalg.vector_norm((positions[second] - positions[first] + shift) @ lattice, dim=-1)
    return (charges[first] * charges[second] * torch.erfc(eta * distance) / distance).sum()


def _reciprocal_sum(
    lattice: Tensor, positions: Tensor, charges: Tensor, eta: float, pbc: tuple[bool, bool, bool]
) -> Tensor:
    """Return 1/2 sum_G K(G) exp(-G^2 / 4 eta^2) |S(G)|^2, Hartree bohr^3."""
    cutoff = 2 * eta * math.sqrt(EXPONENT)
    reciprocal = 2 * math.pi * torch.linalg.inv(lattice).mT
    lengths = torch.linalg.vector_norm(lattice.detach(), dim=-1)
    index = _integers(cutoff * lengths / (2 * math.pi))  # |m_i| = |G.a_i| / 2 pi <= |G| |a_i| / 2 pi
    index = torch.cat((torch.zeros_like(index[:1]), index[_is_positive(index)]))
    index = index[torch.linalg.vector_norm(index @ reciprocal.detach(), dim=-1) <= cutoff]
    g2 = (index @ reciprocal).square().sum(-1)
    kernel = of_gaussian(lattice_kernel(index, lattice, pbc), g2, 1 / (4 * eta**2), pbc)
    phase = 2 * math.pi * (index @ positions.mT)  # G.R
    structure = (phase.cos() @ charges).square() + (phase.sin() @ charges).square()  # |S(G)|^2
    terms = kernel * structure
    return 0.5 * terms[0] + terms[1:].sum()  # each G also represents -G


def _pairs_within(
    lattice: Tensor, positions: Tensor, cutoff: float, pbc: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pair of ions within `cutoff` once: two atoms (npairs,) and the cell of the second (npairs, 3)."""
    natoms, periodic = len(positions), torch.tensor(pbc, dtype=lattice.dtype, device=lattice.device)
    first, second = torch.triu_indices(natoms, natoms, device=positions.device)
    difference = positions[second] - positions[first]
    wrap = -difference.round() * periodic
    difference = difference + wrap  # within half a cell
    heights = 1 / torch.linalg.vector_norm(torch.linalg.inv(lattice), dim=0)  # distances between lattice planes
    cells = _integers((cutoff / heights + 0.5) * periodic)
    reach = cutoff + torch.linalg.vector_norm(difference @ lattice, dim=-1).max()
    cells = cells[torch.linalg.vector_norm(cells @ lattice, dim=-1) <= reach]
    distance = torch.linalg.vector_norm((difference[:, None] + cells) @ lattice, dim=-1)
    # of the images of an ion itself only half are counted, as the others give the same pairs
    counted = (first != second)[:, None] | _is_positive(cells)
    pair, cell = torch.nonzero((distance <= cutoff) & counted, as_tuple=True)
    return first[pair], second[pair], wrap[pair] + cells[cell]


def _integers(bounds: Tensor) -> Tensor:
    """Return all integer vectors (n, 3) with |n_i| <= bounds[i], as floating-point numbers."""
    axes = [torch.arange(-int(b), int(b) + 1, dtype=bounds.dtype, device=bounds.device) for b in bounds]
    return torch.cartesian_prod(*axes)


def _is_positive(vectors: Tensor) -> Tensor:
    """Whether the first nonzero component is positive, (n,) bool: true for one of v and -v, false for 0."""
    x, y, z = vectors.unbind(-1)
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))

"""A crystal, layer or molecule: its cell, atoms, their pseudopotentials and the moments to start from."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential

SHORTER, LONGER = 1.0, 6.0  # bohr, of the cell along a direction that is not periodic; see `open_cell`


@dataclass(frozen=True, eq=False)
class Crystal:
    """Lattice, positions and pseudopotentials of one unit cell.

    Along a direction that is not periodic the lattice vector is perpendicular to the others, and at least twice as long
    as the density extends (see `open_cell`).

    Attributes
    ----------
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr.
    positions : Tensor
        (natoms, 3), fractional.
    potentials : tuple of Pseudopotential
        One pseudopotential for each atom.
    magmoms : Tensor or None
        (natoms,) collinear moments to start from, Bohr magnetons; None: spin-paired.
    charge : float
        Of the cell, elementary charges; with three periods a uniform background neutralises it.
    fixed_moment : float or None
        Total moment that is held, Bohr magnetons: both spins then have Fermi levels of their own.
    pbc : tuple of bool
        Which of the lattice vectors are periods.
    """

    lattice: Tensor
    positions: Tensor
    potentials: tuple[Pseudopotential, ...]
    magmoms: Tensor | None = None
    charge: float = 0.0
    fixed_moment: float | None = None
    pbc: tuple[bool, bool, bool] = (True, True, True)

    @property
    def nspin(self) -> int:
        """Number of spin channels, 1 or 2."""
        return 1 if self.magmoms is None else 2

    @property
    def nelectrons(self) -> float:
        """Number of valence electrons."""
        return sum(p.valence for p in self.potentials) - self.charge

    @property
    def reservoirs(self) -> list[tuple[slice, float]]:
        """The spin channels that share a Fermi level, and the number of their electrons."""
        if self.fixed_moment is None:
            return [(slice(None), self.nelectrons)]
        return [(slice(s, s + 1), 0.5 * (self.nelectrons + (1 - 2 * s) * self.fixed_moment)) for s in (0, 1)]

    @cached_property
    def charges(self) -> Tensor:
        """(natoms,) charges of the ion cores, electrons."""
        return torch.tensor([p.valence for p in self.potentials], dtype=torch.float64, device=self.device)

    @cached_property
    def volume(self) -> Tensor:
        """Cell volume, bohr^3, a scalar tensor."""
        return torch.linalg.det(self.lattice).abs()

    @cached_property
    def reciprocal(self) -> Tensor:
        """(3, 3), rows are reciprocal lattice vectors, bohr^-1."""
        return 2 * math.pi * torch.linalg.inv(self.lattice).mT

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.lattice.device

    def to(self, device: torch.device) -> "Crystal":
        """The same crystal on a device."""
        moments = None if self.magmoms is None else self.magmoms.to(device)
        return replace(self, lattice=self.lattice.to(device), positions=self.positions.to(device), magmoms=moments)

    @cached_property
    def species(self) -> dict[Pseudopotential, list[int]]:
        """The distinct pseudopotentials, each with the atoms that carry it."""
        atoms: dict[Pseudopotential, list[int]] = {}
        for atom, potential in enumerate(self.potentials):
            atoms.setdefault(potential, []).append(atom)
        return atoms

    @cached_property
    def _open(self) -> Tensor:
        """(3, 3) projector on the directions that are not periodic, which are perpendicular to each other."""
        rows = self.lattice[[not periodic for periodic in self.pbc]]
        unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return unit.mT @ unit

    def along_periods(self, tensor: Tensor) -> Tensor:
        """Components of a Cartesian tensor (3, 3), a strain or a stress, along periodic directions; else zero."""
        if all(self.pbc):
            return tensor
        periodic = torch.eye(3, dtype=tensor.dtype, device=tensor.device) - self._open
        return periodic @ tensor @ periodic

    def deformed(self, strain: Tensor, displacements: Tensor) -> "Crystal":
        """The crystal under a strain and Cartesian displacements (before the strain), differentiable in both.

        Directions that are not periodic have no strain, and an origin that moves with the atoms: displacing all of them
        changes nothing.

        Parameters
        ----------
        strain : Tensor
            (3, 3), symmetric, without unit: r -> (1 + strain) r.
        displacements : Tensor
            (natoms, 3), bohr.
        """
        strain = self.along_periods(strain)
        displacements = displacements - displacements.mean(0) @ self._open
        fractional = self.positions + displacements @ torch.linalg.inv(self.lattice)
        return replace(self, lattice=self.lattice + self.lattice @ strain, positions=fractional)


def open_cell(
    cell: Tensor, positions: Tensor, radii: Tensor, pbc: tuple[bool, bool, bool], held: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A cell for atoms that are not periodic in all directions, and their places in it.

    A vector that is no period is made perpendicular to the others (of a molecule: along x, y, z), and its origin is the
    mean of the positions. It is as long as the given one, or at least twice the extent of the density, as the truncated
    interaction needs (see `terms.coulomb`), rounded up to whole bohr. So that moving atoms stay in one cell, a held
    length is kept if it is at most `SHORTER` and `LONGER` than needed.

    Parameters
    ----------
    cell : Tensor
        (3, 3), bohr; vectors that are not periodic may be zero.
    positions : Tensor
        (natoms, 3) Cartesian, bohr.
    radii : Tensor
        (natoms,) radii of the atoms' densities, bohr.
    pbc : tuple of bool
        Which vectors are periods: none, or two.
    held : Tensor, optional
        (3,) lengths for the same atoms before, bohr.

    Returns
    -------
    lattice : Tensor
        (3, 3), bohr.
    fractional : Tensor
        (natoms, 3).
    """
    lattice, open_ = cell.clone(), [not periodic for periodic in pbc]
    for axis in (i for i in range(3) if open_[i]):
        if any(pbc):
            unit = torch.linalg.cross(cell[axis - 2], cell[axis - 1])  # a right-handed lattice
            unit = unit / torch.linalg.vector_norm(unit)
        else:
            unit = torch.eye(3, dtype=cell.dtype, device=cell.device)[axis]
        height = positions @ unit
        needed = 2 * float((height + radii).max() - (height - radii).min())
        length = float((cell[axis] @ unit).abs())
        if length < needed:
            before = 0.0 if held is None else float(held[axis])
            fits = needed - SHORTER <= before <= needed + LONGER
            length = before if fits else math.ceil(needed - 1e-6)
        lattice[axis] = length * unit
    vectors = lattice[open_]
    fractional = positions @ torch.linalg.inv(lattice)
    fractional[:, open_] -= positions.mean(0) @ vectors.mT / vectors.square().sum(1)
    return lattice, fractional

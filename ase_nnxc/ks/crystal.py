"""A crystal: lattice, atoms, their pseudopotentials and the moments to start from."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .pseudo import Pseudopotential


@dataclass(frozen=True, eq=False)
class Crystal:
    """Lattice, positions and pseudopotentials of one unit cell.

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
        Of the cell, elementary charges; a uniform background neutralises it.
    fixed_moment : float or None
        Total moment that is held, Bohr magnetons: both spins then have Fermi levels of their own.
    """

    lattice: Tensor
    positions: Tensor
    potentials: tuple[Pseudopotential, ...]
    magmoms: Tensor | None = None
    charge: float = 0.0
    fixed_moment: float | None = None

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

    def deformed(self, strain: Tensor, displacements: Tensor) -> "Crystal":
        """The crystal under a strain and Cartesian displacements (before the strain), differentiable in both.

        Parameters
        ----------
        strain : Tensor
            (3, 3), symmetric, without unit: r -> (1 + strain) r.
        displacements : Tensor
            (natoms, 3), bohr.
        """
        fractional = self.positions + displacements @ torch.linalg.inv(self.lattice)
        return replace(self, lattice=self.lattice + self.lattice @ strain, positions=fractional)

"""A crystal, layer or molecule: cell, atoms, pseudopotentials and initial magnetic moments."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential

SHORTER, LONGER = 1.0, 6.0  # bohr: how much shorter or longer than needed a previous cell may be; see `open_cell`


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
        (natoms,) initial collinear moments, Bohr magnetons. None: the calculation is spin-paired.
    charge : float
        Charge of the cell, elementary charges. With three periodic directions a uniform background neutralises it.
    fixed_moment : float or None
        Fixed total moment, Bohr magnetons. Each spin channel then has its own Fermi level.
    pbc : tuple of bool
        Which of the lattice vectors are periodic.
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
        """Spin channels that share a Fermi level, with the number of their electrons, for each Fermi level."""
        if self.fixed_moment is None:
            return [(slice(None), self.nelectrons)]
        return [(slice(s, s + 1), 0.5 * (self.nelectrons + (1 - 2 * s) * self.fixed_moment)) for s in (0, 1)]

    @cached_property
    def charges(self) -> Tensor:
        """(natoms,) charges of the ion cores, elementary charges."""
        return torch.tensor([p.valence for p in self.potentials], dtype=torch.float64, device=self.device)

    @cached_property
    def volume(self) -> Tensor:
        """Cell volume, a scalar tensor, bohr^3."""
        return torch.linalg.det(self.lattice).abs()

    @cached_property
    def reciprocal(self) -> Tensor:
        """(3, 3) reciprocal lattice vectors in rows, bohr^-1."""
        return 2 * math.pi * torch.linalg.inv(self.lattice).mT

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.lattice.device

    def to(self, device: torch.device) -> "Crystal":
        """Return the same crystal on another device."""
        moments = None if self.magmoms is None else self.magmoms.to(device)
        return replace(self, lattice=self.lattice.to(device), positions=self.positions.to(device), magmoms=moments)

    @cached_property
    def species(self) -> dict[Pseudopotential, list[int]]:
        """Distinct pseudopotentials, each with the indices of its atoms."""
        atoms: dict[Pseudopotential, list[int]] = {}
        for atom, potential in enumerate(self.potentials):
            atoms.setdefault(potential, []).append(atom)
        return atoms

    @cached_property
    def _open(self) -> Tensor:
        """(3, 3) projector on the directions that are not periodic; these are perpendicular to each other."""
        rows = self.lattice[[not periodic for periodic in self.pbc]]
        unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return unit.mT @ unit

    def along_periods(self, tensor: Tensor) -> Tensor:
        """Return a Cartesian tensor (3, 3), such as a strain, with zeros along directions that are not periodic."""
        if all(self.pbc):
            return tensor
        periodic = torch.eye(3, dtype=tensor.dtype, device=tensor.device) - self._open
        return periodic @ tensor @ periodic

    def deformed(self, strain: Tensor, displacements: Tensor) -> "Crystal":
        """Return the crystal after Cartesian displacements and a strain, differentiable in both.

        The displacements are applied first. Along directions that are not periodic the strain is ignored, and the
        origin moves with the atoms: a displacement of all atoms changes nothing.

        Parameters
        ----------
        strain : Tensor
            (3, 3), symmetric, dimensionless: r -> (1 + strain) r.
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
    """Return a cell for atoms that are not periodic in all directions, and the positions in this cell.

    A vector that is not periodic becomes perpendicular to the others; those of a molecule point along x, y and z. The
    mean of the positions becomes the origin along this vector. The truncated Coulomb interaction (see `coulomb`) needs
    a length of at least twice the extent of the density. A longer vector keeps its length; a shorter one is extended
    to the needed length, rounded up to whole bohr. The length in `held` is used instead if it is at most `SHORTER`
    shorter and at most `LONGER` longer than needed, so that the cell does not change with every move of the atoms.

    Parameters
    ----------
    cell : Tensor
        (3, 3), bohr; vectors that are not periodic may be zero.
    positions : Tensor
        (natoms, 3) Cartesian, bohr.
    radii : Tensor
        (natoms,) radii of the atoms' densities, bohr.
    pbc : tuple of bool
        Which vectors are periodic: none, or two.
    held : Tensor, optional
        (3,) lengths of the previous cell of the same atoms, bohr.

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
            unit = torch.linalg.cross(cell[axis - 2], cell[axis - 1])  # keeps the lattice right-handed
            unit = unit / torch.linalg.vector_norm(unit)
        else:
            unit = torch.eye(3, dtype=cell.dtype, device=cell.device)[axis]
        height = positions @ unit
        needed = 2 * float((height + radii).max() - (height - radii).min())
        length = float((cell[axis] @ unit).abs())
        if length < needed:
            previous = 0.0 if held is None else float(held[axis])
            fits = needed - SHORTER <= previous <= needed + LONGER
            length = previous if fits else math.ceil(needed - 1e-6)
        lattice[axis] = length * unit
    vectors = lattice[open_]
    fractional = positions @ torch.linalg.inv(lattice)
    fractional[:, open_] -= positions.mean(0) @ vectors.mT / vectors.square().sum(1)
    return lattice, fractional

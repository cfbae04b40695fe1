"""K-points in ASE's forms: meshes of the Brillouin zone, and paths through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError, kpts2sizeandoffsets
from torch import Tensor

from .parameters import are_counts, are_points, check_mesh, plain

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath

LARGEST_STRAIN = 0.1  # a mesh is kept while the principal stretches of the cell differ from one by less than this
LARGEST_STEP = 0.5  # and while no atom moves, relative to the strained cell, by more than this, Angstrom


@dataclass(frozen=True)
class Mesh:
    """K-points that were chosen for one cell and are kept while this cell is strained a little.

    Attributes
    ----------
    points : Tensor
        (nk, 3), all points of the mesh, fractional.
    kpts : dict or list
        Value of the parameter `kpts` that gives this mesh in any cell.
    atoms : Atoms
        The atoms that the mesh was chosen for, in the cell of the calculation.
    """

    points: Tensor
    kpts: Any
    atoms: Atoms

    def suits(self, atoms: Atoms) -> bool:
        """Whether these are the atoms that the mesh was chosen for, after a small strain and small displacements.

        Only then is the mesh kept. For another structure of the same elements the mesh depends on this structure alone,
        and not on what was calculated before.
        """
        if not self.has_elements_of(atoms) or not np.array_equal(atoms.pbc, self.atoms.pbc):
            return False
        # a_i -> a_i F with a stretch F F^T; its principal stretches are those of the metric tensors of the periods
        earlier, now = (cell.array[atoms.pbc] for cell in (self.atoms.cell, atoms.cell))
        squares = np.linalg.eigvals(np.linalg.solve(earlier @ earlier.T, now @ now.T)).real
        if len(squares) and np.abs(np.sqrt(np.abs(squares)) - 1).max() > LARGEST_STRAIN:
            return False
        moved = atoms.get_scaled_positions(wrap=False) - self.atoms.get_scaled_positions(wrap=False)
        moved[:, atoms.pbc] -= np.round(moved[:, atoms.pbc])
        moved = moved[:, atoms.pbc] @ now
        moved -= moved.mean(axis=0)
        return bool(np.linalg.norm(moved, axis=1).max() <= LARGEST_STEP)

    def has_elements_of(self, atoms: Atoms) -> bool:
        """Whether these atoms are of the same elements, in the same order."""
        return np.array_equal(atoms.numbers, self.atoms.numbers)


def make_mesh(kpts: Any, atoms: Atoms) -> Mesh:
    """Return the mesh that a value of the parameter `kpts` means for these atoms.

    Raises
    ------
    InputError
        If a point has a component along a direction that is not periodic.
    """
    if are_counts(kpts):
        kpts = {"size": kpts}
    if isinstance(kpts, dict):
        size, offsets = kpts2sizeandoffsets(atoms=atoms, **kpts)
        check_mesh(size)
        indices = np.indices(size).reshape(3, -1).T
        points = (indices + 0.5) / size - 0.5 + offsets  # H. J. Monkhorst and J. D. Pack, Phys. Rev. B 13, 5188 (1976)
        gamma = {} if kpts.get("gamma") is None else {"gamma": kpts["gamma"]}
        kpts = {"size": tuple(int(n) for n in size)} | gamma
    else:
        points = np.array(kpts)
    if points[:, ~atoms.pbc].any():
        raise InputError(
            f"kpts={kpts!r}: along directions that are not periodic (pbc={atoms.pbc.tolist()}) k-points must be zero"
        )
    return Mesh(torch.as_tensor(points, dtype=torch.float64, device="cpu"), kpts, atoms)


def band_path(path: Any, atoms: Atoms) -> BandPath:
    """Return a path in the Brillouin zone of the atoms.

    Parameters
    ----------
    path : BandPath, str, dict, array or None
        A path of ASE, its special points by name, keywords of `Cell.bandpath`, scaled coordinates (nk, 3), or None for
        the path that ASE recommends for the lattice.
    atoms : Atoms
        The atoms, periodic in at least two directions.

    Raises
    ------
    InputError
        If the path is not one of this cell, or if the atoms are a molecule.
    """
    from ase.dft.kpoints import BandPath  # loads scipy
    from ase.lattice import celldiff

    if not atoms.pbc.any():
        raise InputError("a molecule has no bands; its levels are those at Gamma")
    if isinstance(path, BandPath):
        if celldiff(path.cell, atoms.cell.uncomplete(atoms.pbc)) > 1e-6:  # as ASE's calculate_band_structure
            raise InputError("the path belongs to another cell: make it with the cell of these atoms")
        return path
    try:
        if path is None or isinstance(path, str):
            return atoms.cell.bandpath(path, pbc=atoms.pbc)
        if isinstance(path, Mapping):
            return atoms.cell.bandpath(**{"pbc": atoms.pbc, **path})
    except (KeyError, TypeError, ValueError) as error:
        points = ", ".join(atoms.cell.bandpath(pbc=atoms.pbc, npoints=0).special_points)
        raise InputError(f"{path!r} is not a path of this lattice: {error}; its points are {points}") from error
    if not are_points(plain(path)):
        raise InputError(f"kpts={path!r}: expected a path or scaled coordinates (nk, 3)")
    return BandPath(atoms.cell, np.asarray(path, dtype=float))

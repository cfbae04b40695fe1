"""Symmetry: operations of the crystal, irreducible k-points, and averages over the operations.

An operation (W, w) maps the fractional position x to W x + w, a k-point k to W^-T k, an atom and the force on it to an
equivalent atom, and a point of a commensurate FFT box to another point of the box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm, prod

import numpy as np
import torch
from torch import Tensor

from .space_group import SymmetrySearchError, search_space_group

# fractions that occur in the translations of space groups in a suitable cell
_FRACTIONS = sorted({i / n for n in (1, 2, 3, 4, 6) for i in range(n)})
# k-points are compared after rounding to multiples of 1 / _K_RESOLUTION; no point p / q of a mesh with q < 2048 lies in
# the middle between two multiples
_K_RESOLUTION = 2**10 * 3**3 * 5**2
# largest error of a fractional translation, in grid spacings
_GRID_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class GridOrbits:
    """Sets of FFT grid points that are equivalent by symmetry.

    Attributes
    ----------
    labels : Tensor
        (ngrid,) int64, index of the orbit of each point of the flattened box.
    representatives : Tensor
        (norbits,) int64, index of one point of each orbit.
    counts : Tensor
        (norbits,) float64, number of points in each orbit.
    """

    labels: Tensor
    representatives: Tensor
    counts: Tensor

    def to(self, device: torch.device | str) -> "GridOrbits":
        """Return the same orbits on another device."""
        return GridOrbits(*(t.to(device) for t in (self.labels, self.representatives, self.counts)))

    def symmetrize(self, field: Tensor) -> Tensor:
        """Return a field (..., n1, n2, n3) with each value replaced by the mean over its orbit; differentiable."""
        sums = field.new_zeros((*field.shape[:-3], len(self.counts)))
        sums.index_add_(-1, self.labels, field.flatten(-3))
        return (sums / self.counts).index_select(-1, self.labels).view(field.shape)


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A group of symmetry operations of a crystal, with tensors on the CPU.

    Attributes
    ----------
    rotations : Tensor
        (nsym, 3, 3) int64, W.
    translations : Tensor
        (nsym, 3) float64, w, fractional, in [0, 1).
    atom_maps : Tensor
        (nsym, natoms) int64: operation s maps atom a to atom_maps[s, a].
    time_reversal : bool
        Whether k and -k are equivalent, which is true without spin-orbit coupling.
    """

    rotations: Tensor
    translations: Tensor
    atom_maps: Tensor
    time_reversal: bool

    def __len__(self) -> int:
        return len(self.rotations)

    def preserving_box(self, fft_shape: Sequence[int]) -> "Symmetry":
        """Return the subgroup of the operations that map the points of the FFT box to points of the box."""
        n = torch.tensor(fft_shape, dtype=torch.int64, device="cpu")
        steps = self.rotations * n[:, None]  # p' = n W (p / n) + n w: W_ij n_i / n_j and w_i n_i must be integers
        shifts = self.translations * n
        kept = (steps % n == 0).all((1, 2)) & ((shifts - shifts.round()).abs() < _GRID_TOLERANCE).all(1)
        return self._subgroup(kept)

    def preserving_mesh(self, kpts: Tensor) -> "Symmetry":
        """Return the subgroup of the operations that map a set of k-points (nk, 3) to itself.

        With `time_reversal` k and -k count as the same point.
        """
        labels = np.sort(self._star_labels(kpts), axis=1)
        identity = np.sort(_k_label(kpts.numpy(), self.time_reversal))
        return self._subgroup(torch.from_numpy((labels == identity).all(axis=1)))

    def irreducible_kpoints(self, kpts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return one k-point of each set of equivalent k-points.

        Parameters
        ----------
        kpts : Tensor
            (nk, 3) the complete mesh, fractional, on the CPU.

        Returns
        -------
        irreducible : Tensor
            (nirr, 3), fractional, in the order of their first occurrence in `kpts`.
        weights : Tensor
            (nirr,) float64, fraction of the mesh that each point represents; the weights add up to one.
        mapping : Tensor
            (nk,) int64, index of the irreducible point of each point of the mesh.
        """
        # the operations are a group, so the smallest label among the images of a point identifies its orbit
        orbit = self._star_labels(kpts).min(axis=0)
        _, first, inverse, counts = np.unique(orbit, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        mapping = np.argsort(order)[inverse.reshape(-1)]
        weights = torch.from_numpy(counts[order] / len(kpts))
        return kpts[torch.from_numpy(first[order])].to(torch.float64), weights, torch.from_numpy(mapping)

    def grid_orbits(self, fft_shape: Sequence[int]) -> GridOrbits:
        """Return the orbits of the points of an FFT box.

        Raises
        ------
        ValueError
            If an operation does not map the box to itself; see `preserving_box`.
        """
        if len(self.preserving_box(fft_shape)) < len(self):
            raise ValueError(f"some symmetry operations do not map an FFT box of {tuple(fft_shape)} points to itself")
        n = torch.tensor(fft_shape, dtype=torch.int64, device="cpu")
        steps = self.rotations * n[:, None] // n
        shifts = (self.translations * n).round().to(torch.int64)
        return _orbits(steps.numpy().tobytes(), shifts.numpy().tobytes(), tuple(fft_shape))

    def symmetrize_forces(self, forces: Tensor, lattice: Tensor) -> Tensor:
        """Return the mean over the operations of Cartesian forces (natoms, 3), in a cell with rows `lattice` (3, 3)."""
        reduced = forces @ lattice.mT  # -dE/dx
        w = self.rotations.to(forces)
        moved = reduced[self.atom_maps.to(forces.device)]  # (nsym, natoms, 3)
        mean = torch.einsum("sji,saj->ai", w, moved) / len(self)  # F_a = W^T F_(image of a)
        return mean @ torch.linalg.inv(lattice).mT

    def symmetrize_stress(self, stress: Tensor, lattice: Tensor) -> Tensor:
        """Return the mean over the operations of a Cartesian stress (3, 3), in a cell with rows `lattice` (3, 3)."""
        w = self.rotations.to(stress)
        cartesian = lattice.mT @ w @ torch.linalg.inv(lattice).mT
        return (cartesian @ stress @ cartesian.mT).mean(0)

    def box_multiples(self) -> tuple[int, int, int]:
        """Return numbers whose multiples are the sizes of FFT boxes in which the translations map points to points.

        Translations of n/2, n/3, n/4 and n/6 are considered.
        """
        x, y, z = (lcm(*map(_denominator, axis)) for axis in self.translations.mT.tolist())
        return x, y, z

    def _subgroup(self, kept: Tensor) -> "Symmetry":
        maps = self.atom_maps[kept]
        return replace(self, rotations=self.rotations[kept], translations=self.translations[kept], atom_maps=maps)

    def _star_labels(self, kpts: Tensor) -> np.ndarray:
        """Return the labels (nsym, nk) of the images of k-points."""
        inverse = np.linalg.inv(self.rotations.numpy()).round()
        return _k_label(kpts.numpy() @ inverse, self.time_reversal)  # k' = W^-T k


def identity(natoms: int, time_reversal: bool = False) -> Symmetry:
    """Return the group that contains only the identity, and optionally time reversal."""
    return Symmetry(
        rotations=torch.eye(3, dtype=torch.int64, device="cpu")[None],
        translations=torch.zeros((1, 3), dtype=torch.float64, device="cpu"),
        atom_maps=torch.arange(natoms, device="cpu")[None],
        time_reversal=time_reversal,
    )


def find_symmetry(
    lattice: Tensor,
    positions: Tensor,
    kinds: Sequence[int],
    magmoms: Tensor | None = None,
    tolerance: float = 1e-5,
    pbc: tuple[bool, bool, bool] = (True, True, True),
) -> Symmetry:
    """Return the verified operations of the space group of a crystal, with time reversal.

    Operations that flip spins are excluded, so that the sublattices of an antiferromagnet stay distinct. Operations
    that translate along a direction that is not periodic, or mix it with a periodic one, are also excluded. For a
    molecule with moments only those operations are kept that map each cell vector to itself or its opposite, because
    whole electrons in an open shell break the others. If the search for the space group fails, only the identity and
    time reversal are returned.

    Parameters
    ----------
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr.
    positions : Tensor
        (natoms, 3), fractional.
    kinds : sequence of int
        (natoms,) integers that are equal for atoms of the same species and pseudopotential.
    magmoms : Tensor, optional
        (natoms,) collinear moments, Bohr magnetons.
    tolerance : float
        Largest distance between the image of an atom and the equivalent atom, bohr, and largest difference between
        equal moments, Bohr magnetons.
    pbc : tuple of bool
        Which lattice vectors are periodic.
    """
    cell = lattice.detach().cpu().numpy()
    x = positions.detach().cpu().numpy()
    sites = _distinct_sites(np.asarray(kinds), magmoms, tolerance)
    only_identity = replace(identity(len(x)), time_reversal=True)
    try:
        group = search_space_group(cell, x, sites, tolerance)
    except SymmetrySearchError:
        return only_identity
    rotations = group.rotations.astype(np.int64)
    translations = _snap(group.translations, tolerance / np.linalg.norm(cell, axis=1))
    periodic, operations = np.array(pbc), []
    for w, t in zip(rotations, translations):
        if t[~periodic].any() or w[np.ix_(periodic, ~periodic)].any() or w[np.ix_(~periodic, periodic)].any():
            continue
        if magmoms is not None and not any(pbc) and (w != np.diag(w.diagonal())).any():
            continue
        atom_map = _atom_map(w, t, cell, x, sites, 2 * tolerance)
        if atom_map is not None:
            operations.append((w, t, atom_map))
    if not operations:
        return only_identity
    matrices, shifts, maps = (torch.from_numpy(np.stack(part)) for part in zip(*operations))
    return _largest_group(Symmetry(matrices, shifts, maps, time_reversal=True))


def _k_label(kpts: np.ndarray, time_reversal: bool) -> np.ndarray:
    """Return integer labels (...) that identify k-points (..., 3) modulo the reciprocal lattice.

    With `time_reversal` k and -k have the same label.
    """
    n = _K_RESOLUTION
    numerators = np.rint(kpts * n).astype(np.int64)
    places = np.array([n * n, n, 1])
    label = numerators % n @ places
    return np.minimum(label, -numerators % n @ places) if time_reversal else label


@lru_cache(maxsize=4)
def _orbits(steps: bytes, shifts: bytes, shape: tuple[int, ...]) -> GridOrbits:
    """Return the orbits of points p of a box under p' = steps p + shifts, int64; scans ask for the same ones again."""
    matrices = np.frombuffer(steps, dtype=np.int64).reshape(-1, 3, 3).tolist()
    vectors = np.frombuffer(shifts, dtype=np.int64).reshape(-1, 3).tolist()
    points = [torch.arange(size, dtype=torch.int32, device="cpu") for size in shape]
    smallest = torch.arange(prod(shape), dtype=torch.int32, device="cpu")
    for step, shift in zip(matrices, vectors):
        smallest = torch.minimum(smallest, _image_of_box(step, shift, points))
    # the operations are a group, so the smallest index among the images of a point identifies its orbit
    representatives, labels, counts = torch.unique(smallest, return_inverse=True, return_counts=True)
    return GridOrbits(labels, representatives.to(torch.int64), counts.to(torch.float64))


def _image_of_box(steps: list[list[int]], shifts: list[int], points: Sequence[Tensor]) -> Tensor:
    """Return the flattened index (ngrid,) int32 of each point's image p' = steps p + shifts, modulo the box."""
    image = torch.zeros((1, 1, 1), dtype=torch.int32, device="cpu")
    for step, shift, axis in zip(steps, shifts, points):
        n = len(axis)
        x, y, z = (a * p % n for a, p in zip(step, points))
        image = image * n + (x[:, None, None] + y[:, None] + z + shift) % n
    return image.flatten()


def _distinct_sites(kinds: np.ndarray, magmoms: Tensor | None, tolerance: float) -> np.ndarray:
    """Return (natoms,) integers that are equal for atoms with the same kind and moment."""
    moments = np.zeros(len(kinds)) if magmoms is None else magmoms.detach().cpu().numpy()
    order = np.argsort(moments)
    level = np.empty(len(kinds), dtype=np.int64)
    level[order] = np.cumsum(np.diff(moments[order], prepend=moments[order[0]]) > tolerance)
    return np.unique(np.stack([kinds, level]), axis=1, return_inverse=True)[1].reshape(-1)


def _snap(translations: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Return translations (nsym, 3) modulo 1, rounded to simple fractions that are within `tolerance` (3,)."""
    w = translations % 1.0
    fractions = np.array([*_FRACTIONS, 1.0])
    nearest = fractions[np.abs(w[..., None] - fractions).argmin(-1)]
    return np.where(np.abs(w - nearest) <= tolerance, nearest, w) % 1.0


def _denominator(fraction: float) -> int:
    return next((n for n in (1, 2, 3, 4, 6) if abs(fraction * n - round(fraction * n)) < 1e-8), 1)


def _atom_map(
    w: np.ndarray, t: np.ndarray, cell: np.ndarray, x: np.ndarray, sites: np.ndarray, tolerance: float
) -> np.ndarray | None:
    """Return the image of each atom, (natoms,), or None if the operation does not map the crystal to itself."""
    metric = cell @ cell.T
    if np.abs(w.T @ metric @ w - metric).max() > 2 * tolerance * np.sqrt(metric.diagonal().max()):
        return None
    miss = (x @ w.T + t)[:, None] - x
    distance = np.linalg.norm((miss - miss.round()) @ cell, axis=-1)
    distance[sites[:, None] != sites] = np.inf
    image = distance.argmin(1)
    if distance.min(1).max() > tolerance or len(set(image.tolist())) < len(x):
        return None
    return image


def _largest_group(symmetry: Symmetry) -> Symmetry:
    """Return all operations if they form a group, otherwise a group to which operations are added in turn."""
    table = _multiplication_table(symmetry)
    if (table >= 0).all():
        return symmetry
    unit = (symmetry.rotations == torch.eye(3, dtype=torch.int64, device="cpu")).all((1, 2)).numpy()
    unit &= (symmetry.atom_maps[:, 0] == 0).numpy()
    group = np.flatnonzero(unit)
    for operation in range(len(symmetry)):
        grown, new = group, np.union1d(group, operation)
        while len(new) > len(grown) and new[0] >= 0:  # -1: a product is missing
            grown, new = new, np.union1d(new, table[np.ix_(new, new)])
        if new[0] >= 0:
            group = new
    kept = torch.zeros(len(symmetry), dtype=torch.bool, device="cpu")
    kept[torch.from_numpy(group)] = True
    return symmetry._subgroup(kept)


def _multiplication_table(symmetry: Symmetry) -> np.ndarray:
    """Return the index (nsym, nsym) of the product of two operations, the second applied first; -1 if it is missing.

    An operation is identified by its rotation and the image of the first atom.
    """
    maps = symmetry.atom_maps.numpy()
    rotations, which = np.unique(symmetry.rotations.numpy().reshape(-1, 9), axis=0, return_inverse=True)
    which = which.reshape(-1)
    matrices = rotations.reshape(-1, 3, 3)
    products = (matrices[:, None] @ matrices).reshape(len(rotations), len(rotations), 1, 9)
    equal = (products == rotations).all(-1)
    product = np.where(equal.any(-1), equal.argmax(-1), -1)[which[:, None], which]
    operation = np.full((len(rotations), maps.shape[1]), -1)
    operation[which, maps[:, 0]] = np.arange(len(maps))
    return np.where(product >= 0, operation[product, maps[:, maps[:, 0]]], -1)

"""Symmetry: operations of the crystal, irreducible k-points, and averages over them.

An operation (W, w) takes the fractional position x to W x + w. It takes a k-point to W^-T k, a force on atom a to one
on the atom it is moved to, and the point p of a commensurate FFT box to another point.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
import torch
from torch import Tensor

from .space_group import SymmetrySearchError, search_space_group

# fractions that translations of the space groups have in a suitable cell
_FRACTIONS = sorted({i / n for n in (1, 2, 3, 4, 6) for i in range(n)})
# k-points are told apart after rounding to multiples of 1 / this; no point p / q of a mesh, q < 2048, falls between two
_K_RESOLUTION = 2**10 * 3**3 * 5**2
# error of a fractional translation in grid spacings
_GRID_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class GridOrbits:
    """The sets of FFT grid points that the symmetry operations take into each other.

    Attributes
    ----------
    labels : Tensor
        (ngrid,) int64, the orbit of each point of the flattened box.
    representatives : Tensor
        (norbits,) int64, one point of each orbit.
    counts : Tensor
        (norbits,) float64, points in each orbit.
    """

    labels: Tensor
    representatives: Tensor
    counts: Tensor

    def to(self, device: torch.device | str) -> "GridOrbits":
        """The same orbits on another device."""
        return GridOrbits(*(t.to(device) for t in (self.labels, self.representatives, self.counts)))

    def symmetrize(self, field: Tensor) -> Tensor:
        """Mean over each orbit of a field (..., n1, n2, n3) on the grid, shaped as the field; differentiable."""
        sums = field.new_zeros((*field.shape[:-3], len(self.counts)))
        sums.index_add_(-1, self.labels, field.flatten(-3))
        return (sums / self.counts).index_select(-1, self.labels).view(field.shape)


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A group of symmetry operations of a crystal; tensors on the CPU.

    Attributes
    ----------
    rotations : Tensor
        (nsym, 3, 3) int64, W.
    translations : Tensor
        (nsym, 3) float64, w, fractional, in [0, 1).
    atom_maps : Tensor
        (nsym, natoms) int64: operation s takes atom a to atom_maps[s, a].
    time_reversal : bool
        Whether k and -k are equivalent, as they are without spin-orbit coupling.
    """

    rotations: Tensor
    translations: Tensor
    atom_maps: Tensor
    time_reversal: bool

    def __len__(self) -> int:
        return len(self.rotations)

    def preserving_box(self, fft_shape: Sequence[int]) -> "Symmetry":
        """Subgroup of the operations that take points of the FFT box to points of it."""
        n = torch.tensor(fft_shape, dtype=torch.int64, device="cpu")
        steps = self.rotations * n[:, None]  # p' = n W (p / n) + n w: W_ij n_i / n_j and w_i n_i must be integers
        shifts = self.translations * n
        kept = (steps % n == 0).all((1, 2)) & ((shifts - shifts.round()).abs() < _GRID_TOLERANCE).all(1)
        return self._subgroup(kept)

    def preserving_mesh(self, kpts: Tensor) -> "Symmetry":
        """Subgroup of the operations that take a set of k-points (nk, 3) to itself, with time reversal if it holds."""
        labels = np.sort(self._star_labels(kpts), axis=1)
        identity = np.sort(_k_label(kpts.numpy(), self.time_reversal))
        return self._subgroup(torch.from_numpy((labels == identity).all(axis=1)))

    def irreducible_kpoints(self, kpts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One k-point of each set of equivalent ones.

        Parameters
        ----------
        kpts : Tensor
            (nk, 3) the whole mesh, fractional, on the CPU.

        Returns
        -------
        irreducible : Tensor
            (nirr, 3), in the order in which they occur in `kpts`.
        weights : Tensor
            (nirr,) float64, share of the mesh that each stands for, adding up to one.
        mapping : Tensor
            (nk,) int64, the irreducible point of each point of the mesh.
        """
        # the smallest label among the images is common to an orbit, and to no two: the operations are a group
        orbit = self._star_labels(kpts).min(axis=0)
        _, first, inverse, counts = np.unique(orbit, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        mapping = np.argsort(order)[inverse.reshape(-1)]
        weights = torch.from_numpy(counts[order] / len(kpts))
        return kpts[torch.from_numpy(first[order])].to(torch.float64), weights, torch.from_numpy(mapping)

    def grid_orbits(self, fft_shape: Sequence[int]) -> GridOrbits:
        """Orbits of the points of an FFT box.

        Raises
        ------
        ValueError
            If an operation does not map the box to itself; see `preserving_box`.
        """
        if len(self.preserving_box(fft_shape)) < len(self):
            raise ValueError(f"some operations do not map a box of {tuple(fft_shape)} points to itself")
        n = torch.tensor(fft_shape, dtype=torch.int64, device="cpu")
        steps = (self.rotations * n[:, None] // n).to(torch.int32)
        shifts = (self.translations * n).round().to(torch.int32)
        points = [torch.arange(size, dtype=torch.int32, device="cpu") for size in fft_shape]
        smallest = torch.arange(int(n.prod()), dtype=torch.int32, device="cpu")
        for step, shift in zip(steps, shifts):
            smallest = torch.minimum(smallest, _image_of_box(step, shift, points))
        # the smallest index among the images of a point belongs to its orbit: the operations are a group
        representatives, labels, counts = torch.unique(smallest, return_inverse=True, return_counts=True)
        return GridOrbits(labels, representatives.to(torch.int64), counts.to(torch.float64))

    def symmetrize_forces(self, forces: Tensor, lattice: Tensor) -> Tensor:
        """Mean over the operations of Cartesian forces (natoms, 3), in a cell with the rows of `lattice` (3, 3)."""
        reduced = forces @ lattice.mT  # -dE/dx
        w = self.rotations.to(forces)
        moved = reduced[self.atom_maps.to(forces.device)]  # (nsym, natoms, 3)
        mean = torch.einsum("sji,saj->ai", w, moved) / len(self)  # F_a = W^T F_(a's image)
        return mean @ torch.linalg.inv(lattice).mT

    def symmetrize_stress(self, stress: Tensor, lattice: Tensor) -> Tensor:
        """Mean over the operations of a Cartesian stress (3, 3), in a cell with the rows of `lattice` (3, 3)."""
        w = self.rotations.to(stress)
        cartesian = lattice.mT @ w @ torch.linalg.inv(lattice).mT
        return (cartesian @ stress @ cartesian.mT).mean(0)

    def box_multiples(self) -> tuple[int, int, int]:
        """What each size of the FFT box must be a multiple of for fractions n/2, n/3, n/4, n/6 to be grid points."""
        x, y, z = (lcm(*map(_denominator, axis)) for axis in self.translations.mT.tolist())
        return x, y, z

    def _subgroup(self, kept: Tensor) -> "Symmetry":
        maps = self.atom_maps[kept]
        return replace(self, rotations=self.rotations[kept], translations=self.translations[kept], atom_maps=maps)

    def _star_labels(self, kpts: Tensor) -> np.ndarray:
        """Labels (nsym, nk) of the images of k-points."""
        inverse = np.linalg.inv(self.rotations.numpy()).round()
        return _k_label(kpts.numpy() @ inverse, self.time_reversal)  # k' = W^-T k


def identity(natoms: int, time_reversal: bool = False) -> Symmetry:
    """No symmetry at all, but time reversal if that is asked for."""
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
    """Space group of a crystal, each operation verified, and time reversal.

    Operations that flip spins are left out, so that the sublattices of an antiferromagnet stay distinct, and those that
    translate along a direction that is not periodic or mix it with one that is. Of a molecule with moments those stay
    that take each vector of its cell to itself or its opposite: whole electrons in an open shell keep no more.

    Parameters
    ----------
    lattice : Tensor
        (3, 3), rows are lattice vectors, bohr.
    positions : Tensor
        (natoms, 3), fractional.
    kinds : sequence of int
        (natoms,) what distinguishes the atoms: species, pseudopotential.
    magmoms : Tensor, optional
        (natoms,) collinear moments, Bohr magnetons.
    tolerance : float
        Distance by which atoms may miss their places, bohr, and difference of moments that are the same.
    pbc : tuple of bool
        Which lattice vectors are periods.
    """
    cell = lattice.detach().cpu().numpy()
    x = positions.detach().cpu().numpy()
    sites = _distinct_sites(np.asarray(kinds), magmoms, tolerance)
    none = replace(identity(len(x)), time_reversal=True)
    try:
        group = search_space_group(cell, x, sites, tolerance)
    except SymmetrySearchError:
        return none
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
        return none
    matrices, shifts, maps = (torch.from_numpy(np.stack(part)) for part in zip(*operations))
    return _largest_group(Symmetry(matrices, shifts, maps, time_reversal=True))


def monkhorst_pack(size: Sequence[int], gamma: bool) -> Tensor:
    """Uniform mesh of k-points.

    Parameters
    ----------
    size : sequence of int
        Points along each reciprocal lattice vector.
    gamma : bool
        Whether the mesh contains Gamma; else it is Monkhorst and Pack's, which misses Gamma along an even size
        (Phys. Rev. B 13, 5188 (1976), eq. 3).

    Returns
    -------
    Tensor
        (nk, 3) float64, fractional, in (-1/2, 1/2], the last index running fastest.

    Raises
    ------
    ValueError
        Unless there are three positive integers.
    """
    if len(size) != 3 or any(int(n) != n or n < 1 for n in size):
        raise ValueError(f"a mesh of k-points has three positive integers, not {size}")
    axes = []
    for n in map(int, size):
        numerators = (
            2 * torch.arange(n, dtype=torch.int64, device="cpu") - n + 1
        )  # u = (2 r - n + 1) / 2 n, r = 0 ... n - 1
        if gamma and n % 2 == 0:
            numerators += 1
        axes.append(numerators.to(torch.float64) / (2 * n))
    return torch.cartesian_prod(*axes)


def _k_label(kpts: np.ndarray, time_reversal: bool) -> np.ndarray:
    """Integers (...) that tell k-points (..., 3) apart modulo the reciprocal lattice, and modulo sign if asked for."""
    n = _K_RESOLUTION
    numerators = np.rint(kpts * n).astype(np.int64)
    places = np.array([n * n, n, 1])
    label = numerators % n @ places
    return np.minimum(label, -numerators % n @ places) if time_reversal else label


def _image_of_box(steps: Tensor, shifts: Tensor, points: Sequence[Tensor]) -> Tensor:
    """Flattened index (ngrid,) int32 of the image of each point of a box: p' = steps p + shifts, modulo the box."""
    image = torch.zeros((1, 1, 1), dtype=torch.int32, device="cpu")
    for step, shift, axis in zip(steps, shifts, points):
        n = len(axis)
        x, y, z = (a * p % n for a, p in zip(step, points))
        image = image * n + (x[:, None, None] + y[:, None] + z + shift) % n
    return image.flatten()


def _distinct_sites(kinds: np.ndarray, magmoms: Tensor | None, tolerance: float) -> np.ndarray:
    """(natoms,) integers that are equal where kind and moment are."""
    moments = np.zeros(len(kinds)) if magmoms is None else magmoms.detach().cpu().numpy()
    order = np.argsort(moments)
    level = np.empty(len(kinds), dtype=np.int64)
    level[order] = np.cumsum(np.diff(moments[order], prepend=moments[order[0]]) > tolerance)
    return np.unique(np.stack([kinds, level]), axis=1, return_inverse=True)[1].reshape(-1)


def _snap(translations: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Translations (nsym, 3) modulo 1, as exact fractions where they are within `tolerance` (3,) of one."""
    w = translations % 1.0
    fractions = np.array([*_FRACTIONS, 1.0])
    nearest = fractions[np.abs(w[..., None] - fractions).argmin(-1)]
    return np.where(np.abs(w - nearest) <= tolerance, nearest, w) % 1.0


def _denominator(fraction: float) -> int:
    return next((n for n in (1, 2, 3, 4, 6) if abs(fraction * n - round(fraction * n)) < 1e-8), 1)


def _atom_map(
    w: np.ndarray, t: np.ndarray, cell: np.ndarray, x: np.ndarray, sites: np.ndarray, tolerance: float
) -> np.ndarray | None:
    """Where an operation takes each atom, (natoms,); None if it does not map the crystal to itself."""
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
    """The operations, or if their products leave the set, as many as fit together, taken in turn."""
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
    """(nsym, nsym): which operation is the first after the second; -1 if none.

    Rotation and image of the first atom tell operations apart.
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

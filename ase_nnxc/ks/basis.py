"""Plane waves: spheres |k+G|^2 / 2 <= ecut, the FFT box that holds them, and the grid of the density.

The whole core uses this normalisation. An orbital is psi(r) = Omega^(-1/2) sum_G c_G exp(i (k+G) r) with
sum_G |c_G|^2 = 1; on the FFT box Omega^(1/2) psi = sum_G c_G exp(i G r), without the phase exp(i k r), has mean square
one. A density or a potential is f(r) = sum_G f_G exp(i G r). Real fields store the half of their coefficients that
torch's rfftn returns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .crystal import Crystal
from .symmetry import GridOrbits, Symmetry


def smooth_size(minimum: int, multiple: int = 1) -> int:
    """Return the smallest multiple of `multiple` that is at least `minimum` and has no prime factor above 7."""
    n = math.ceil(minimum / multiple) * multiple
    while not _is_smooth(n):
        n += multiple
    return n


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def sphere_extents(lattice: Tensor, ecut: float) -> list[float]:
    """Return the largest values of the three indices of G in the density's sphere |G| <= 2 sqrt(2 ecut), as floats."""
    lengths = torch.linalg.vector_norm(lattice, dim=1).tolist()
    return [2 * math.sqrt(2 * ecut) * a / (2 * math.pi) for a in lengths]


def fft_box(
    lattice: Tensor, ecut: float, multiples: Sequence[int] = (1, 1, 1), fineness: float = 1.0
) -> tuple[int, int, int]:
    """Return the smallest FFT box that holds products of two orbitals without aliasing, or a finer one.

    Parameters
    ----------
    lattice : Tensor
        (3, 3), bohr.
    ecut : float
        Cutoff of the orbitals, Hartree.
    multiples : sequence of int
        Each size is a multiple of the respective number; see `Symmetry.box_multiples`.
    fineness : float
        The box holds waves of this many times the largest wave vector.
    """
    extents = [fineness * g for g in sphere_extents(lattice, ecut)]
    sizes = [smooth_size(2 * math.floor(g + 1e-9) + 1, m) for g, m in zip(extents, multiples)]
    return sizes[0], sizes[1], sizes[2]


def box_holds_sphere(shape: Sequence[int], lattice: Tensor, ecut: float) -> bool:
    """Whether the FFT box `shape` holds the density's sphere of the cutoff `ecut` (Hartree)."""
    return all(n >= 2 * math.floor(g + 1e-9) + 1 for n, g in zip(shape, sphere_extents(lattice, ecut)))


def _integers_in_sphere(reciprocal: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Return all integer triples (n, 3) with |(triple + centre) @ reciprocal| <= radius."""
    lengths = torch.linalg.vector_norm(torch.linalg.inv(reciprocal), dim=0)  # |a_i| / 2 pi
    bounds = [(radius * a, c) for a, c in zip(lengths.tolist(), centre.tolist())]
    axes = [
        torch.arange(
            math.ceil(-b - c - 1e-9), math.floor(b - c + 1e-9) + 1, dtype=torch.int64, device=reciprocal.device
        )
        for b, c in bounds
    ]
    triples = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    q2 = ((triples.to(reciprocal.dtype) + centre) @ reciprocal).square().sum(-1)
    return triples[q2 <= radius**2 * (1 + 1e-12)]


@dataclass(frozen=True, eq=False)
class Sphere:
    """The plane waves of one k-point, or of several with a leading axis, see `stack_spheres`.

    Attributes
    ----------
    kpoint : Tensor
        (..., 3), fractional.
    weight : float
        Weight of the k-points in an average over the Brillouin zone. All weights add up to one.
    miller : Tensor
        (..., npw, 3) int64, integer indices of the G of each plane wave, in lexicographic order.
    index : Tensor
        (..., npw) int64, index of each G in the flattened FFT box.
    padding : Tensor or None
        (..., npw) bool: which of these are no plane waves and have zero coefficients.
    """

    kpoint: Tensor
    weight: float
    miller: Tensor
    index: Tensor
    padding: Tensor | None = None

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return self.miller.shape[-2]

    @cached_property
    def is_real(self) -> bool:
        """Whether the k-point is its own inverse, so that each plane wave k+G has its opposite -k-G; of one k-point."""
        return bool((self.miller + self.miller.flip(0) == -2 * self.kpoint).all())

    @cached_property
    def is_gamma(self) -> bool:
        """Whether k is zero, of all k-points."""
        return not bool(self.kpoint.any())

    @cached_property
    def opposite(self) -> Tensor:
        """(..., npw) int64, index of -k-G for each k+G, that in reverse order; requires `is_real` of each k-point."""
        order = torch.arange(self.npw, device=self.miller.device)
        if self.padding is None:
            return order.flip(0).expand(self.index.shape)
        reverse = (~self.padding).sum(-1, keepdim=True) - 1 - order
        return torch.where(self.padding, order, reverse)

    @cached_property
    def reach(self) -> tuple[int, int, int]:
        """Largest absolute values (h1, h2, h3) of the indices of the plane waves."""
        h1, h2, h3 = self.miller.abs().flatten(0, -2).amax(0).tolist()
        return h1, h2, h3

    @cached_property
    def inner_index(self) -> Tensor:
        """(..., npw) int64, index of each plane wave in a flattened box of 0, 1, ... h, -1, ... -h along each axis."""
        i, j, k = (torch.where(g < 0, h - g, g) for g, h in zip(self.miller.unbind(-1), self.reach))
        return (i * (2 * self.reach[1] + 1) + j) * (2 * self.reach[2] + 1) + k

    def in_box(self, shape: Sequence[int]) -> "Sphere":
        """Return the same plane waves with their indices in an FFT box of another shape."""
        return replace(self, index=_box_index(self.miller, shape))

    def wavevectors(self, reciprocal: Tensor) -> Tensor:
        """Return k+G (..., npw, 3), bohr^-1, differentiable in the reciprocal lattice."""
        return (self.miller.to(reciprocal.dtype) + self.kpoint[..., None, :]) @ reciprocal

    def half_squares(self, reciprocal: Tensor) -> Tensor:
        """Return |k+G|^2 / 2 (..., npw), Hartree, differentiable in the reciprocal lattice."""
        return 0.5 * self.wavevectors(reciprocal).square().sum(-1)

    def phases(self, positions: Tensor) -> Tensor:
        """Return exp(-i (k+G) R) (..., natoms, npw) for fractional `positions` (natoms, 3), differentiable."""
        angle = -2 * math.pi * (positions @ (self.miller.to(positions.dtype) + self.kpoint[..., None, :]).mT)
        return torch.complex(torch.cos(angle), torch.sin(angle))


def padded(tensors: Sequence[Tensor], npw: int) -> Tensor:
    """Return tensors (..., npw of each) as one tensor (ntensors, ..., npw), with zeros at the end of each."""
    stack = tensors[0].new_zeros(len(tensors), *tensors[0].shape[:-1], npw)
    for row, tensor in zip(stack, tensors):
        row[..., : tensor.shape[-1]] = tensor
    return stack


def stack_spheres(spheres: Sequence[Sphere]) -> Sphere:
    """Return the plane waves of several k-points, padded to a common number."""
    numbers = [sphere.npw for sphere in spheres]
    npw = max(numbers)
    index = padded([sphere.index for sphere in spheres], npw)  # the padding is at G = 0, to which it adds zeros
    padding = torch.arange(npw, device=index.device) >= torch.tensor(numbers, device=index.device)[:, None]
    return Sphere(
        kpoint=torch.stack([sphere.kpoint for sphere in spheres]),
        weight=sum(sphere.weight for sphere in spheres),
        miller=padded([sphere.miller.mT for sphere in spheres], npw).mT,
        index=index,
        padding=padding if min(numbers) < npw else None,
    )


@dataclass(frozen=True, eq=False)
class DensityGrid:
    """The FFT box and the half-sphere |G| <= 2 sqrt(2 ecut) of the density's Fourier coefficients.

    Attributes
    ----------
    shape : tuple of int
        FFT box (n1, n2, n3).
    miller : Tensor
        (ng, 3) int64, integer indices of each G; the first is G = 0.
    index : Tensor
        (ng,) int64, index of each G in the flattened half box (n1, n2, n3 // 2 + 1) of torch's rfftn.
    multiplicity : Tensor
        (ng,) float64, 2 for a coefficient that also represents -G, which is not stored; otherwise 1.
    """

    shape: tuple[int, int, int]
    miller: Tensor
    index: Tensor
    multiplicity: Tensor

    @property
    def size(self) -> int:
        """Number of points of the FFT box."""
        return math.prod(self.shape)

    def wavevectors(self, reciprocal: Tensor) -> Tensor:
        """Return G (ng, 3), bohr^-1, differentiable in the reciprocal lattice."""
        return self.miller.to(reciprocal.dtype) @ reciprocal

    def to_real(self, coefficients: Tensor) -> Tensor:
        """Return the real field (..., n1, n2, n3) of Fourier coefficients (..., ng)."""
        n1, n2, n3 = self.shape
        lead = coefficients.shape[:-1]
        half = coefficients.new_zeros((*lead, n1 * n2 * (n3 // 2 + 1)))
        half = half.index_copy(-1, self.index, coefficients)
        return torch.fft.irfftn(half.view(*lead, n1, n2, n3 // 2 + 1), s=self.shape, dim=(-3, -2, -1), norm="forward")

    def to_fourier(self, field: Tensor) -> Tensor:
        """Return the Fourier coefficients (..., ng) of a real field (..., n1, n2, n3)."""
        half = torch.fft.rfftn(field, dim=(-3, -2, -1), norm="forward")
        return half.flatten(-3).index_select(-1, self.index)

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum over all G of conj(a_G) b_G, real (...), for the coefficients (..., ng) of two real fields."""
        return ((a.real * b.real + a.imag * b.imag) * self.multiplicity).sum(-1)


@dataclass(frozen=True, eq=False)
class Basis:
    """The plane waves, k-points and density grid of one cell.

    Attributes
    ----------
    ecut : float
        Cutoff energy, Hartree.
    spheres : tuple of Sphere
        Plane waves of each irreducible k-point.
    grid : DensityGrid
        FFT box and Fourier coefficients of the density. The box holds products of two orbitals without aliasing, and is
        no finer than necessary.
    fine : DensityGrid
        The same Fourier coefficients on the points at which functionals are evaluated and densities are returned.
    symmetry : Symmetry
        Symmetry operations that map the mesh of k-points and both boxes onto themselves.
    smooth_cutoff : bool
        Whether the kinetic energy rises to infinity at the cutoff; see `terms.kinetic`.
    """

    ecut: float
    spheres: tuple[Sphere, ...]
    grid: DensityGrid
    fine: DensityGrid
    symmetry: Symmetry
    smooth_cutoff: bool = False

    @cached_property
    def orbits(self) -> GridOrbits:
        """Sets of points of `grid` that are equivalent by symmetry."""
        return self.symmetry.grid_orbits(self.grid.shape).to(self.grid.index.device)

    @cached_property
    def fine_orbits(self) -> GridOrbits:
        """Sets of points of `fine` that are equivalent by symmetry."""
        if self.fine is self.grid:
            return self.orbits
        return self.symmetry.grid_orbits(self.fine.shape).to(self.fine.index.device)

    def to_fine(self, fields: Tensor) -> Tensor:
        """Return fields (..., n1, n2, n3) of `grid` at the points of `fine`; differentiable."""
        return fields if self.fine is self.grid else self.fine.to_real(self.grid.to_fourier(fields))

    @property
    def fewest_waves(self) -> int:
        """Smallest number of plane waves of any k-point."""
        return min(sphere.npw for sphere in self.spheres)

    @property
    def most_waves(self) -> int:
        """Largest number of plane waves of any k-point."""
        return max(sphere.npw for sphere in self.spheres)


def make_basis(
    crystal: Crystal,
    ecut: float,
    kpoints: Tensor,
    symmetry: Symmetry,
    fft_shape: tuple[int, int, int],
    smooth_cutoff: bool = False,
) -> Basis:
    """Return the plane waves and the grid of a crystal.

    Parameters
    ----------
    crystal : Crystal
        Cell and atoms.
    ecut : float
        Cutoff energy, Hartree.
    kpoints : Tensor
        (nk, 3) the complete mesh, fractional.
    symmetry : Symmetry
        Operations of the crystal. Those that do not map the mesh and the box onto themselves are removed.
    fft_shape : tuple of int
        Points (n1, n2, n3) at which functionals are evaluated. Orbitals are transformed in the smallest suitable box.
    smooth_cutoff : bool
        Whether the kinetic energy rises to infinity at the cutoff.

    Raises
    ------
    ValueError
        If the FFT box cannot hold the density.
    """
    if not box_holds_sphere(fft_shape, crystal.lattice, ecut):
        needed = fft_box(crystal.lattice, ecut)
        raise ValueError(f"an FFT box of {fft_shape} points cannot hold the density; at least {needed} are needed")
    symmetry = symmetry.preserving_box(fft_shape).preserving_mesh(kpoints)
    box = min(fft_shape, fft_box(crystal.lattice, ecut, symmetry.box_multiples()), key=math.prod)
    symmetry = symmetry.preserving_box(box)
    irreducible, weights, _ = symmetry.irreducible_kpoints(kpoints)
    spheres = tuple(
        make_sphere(crystal, ecut, k, w, box) for k, w in zip(irreducible.to(crystal.device), weights.tolist())
    )
    grid = _make_grid(crystal, ecut, box)
    fine = grid if box == fft_shape else _make_grid(crystal, ecut, fft_shape)
    return Basis(ecut, spheres, grid, fine, symmetry, smooth_cutoff)


def make_sphere(crystal: Crystal, ecut: float, kpoint: Tensor, weight: float, shape: Sequence[int]) -> Sphere:
    """Return the plane waves up to `ecut` (Hartree) of a k-point (3,), with their indices in an FFT box `shape`."""
    miller = _integers_in_sphere(crystal.reciprocal, kpoint, math.sqrt(2 * ecut))
    return Sphere(kpoint, weight, miller, _box_index(miller, shape))


def _make_grid(crystal: Crystal, ecut: float, shape: tuple[int, int, int]) -> DensityGrid:
    zero = torch.zeros(3, dtype=crystal.lattice.dtype, device=crystal.device)
    miller = _integers_in_sphere(crystal.reciprocal.detach(), zero, 2 * math.sqrt(2 * ecut))
    miller = miller[miller[:, 2] >= 0]
    order = (miller != 0).any(-1).to(torch.int8).argsort(stable=True)  # G = 0 first
    miller = miller[order]
    i, j, k = miller[:, 0] % shape[0], miller[:, 1] % shape[1], miller[:, 2]
    index = (i * shape[1] + j) * (shape[2] // 2 + 1) + k
    multiplicity = torch.where(k == 0, 1.0, 2.0).to(torch.float64)
    return DensityGrid(shape, miller, index, multiplicity)


def finer_grid(crystal: Crystal, basis: Basis, fineness: float) -> DensityGrid:
    """Return the coefficients of the density on the points of a box that is finer along each axis by a factor."""
    return _make_grid(
        crystal, basis.ecut, fft_box(crystal.lattice.detach(), basis.ecut, basis.symmetry.box_multiples(), fineness)
    )


def finest_grid(crystal: Crystal, basis: Basis) -> DensityGrid:
    """Return the points of `basis.fine` with the Fourier coefficients of the largest sphere that its box holds.

    If `fine` is no finer than the grid of the density, the sphere is that of the density.
    """
    fine = basis.fine
    if fine is basis.grid:
        return fine
    reach = min((n - 1) // 2 / g for n, g in zip(fine.shape, sphere_extents(crystal.lattice, basis.ecut)))
    return _make_grid(crystal, reach**2 * basis.ecut, fine.shape)


def shared_waves(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices in `old` (nold, 3) and in `new` (nnew, 3) of the triples in both: two tensors (nshared,)."""
    reach = int(max(old.abs().max(), new.abs().max()))
    shape = (2 * reach + 1,) * 3
    index_in_old = torch.full((math.prod(shape),), -1, dtype=torch.int64, device=new.device)
    index_in_old[_box_index(old, shape)] = torch.arange(len(old), device=new.device)
    index = index_in_old[_box_index(new, shape)]
    shared = (index >= 0).nonzero().squeeze(-1)
    return index[shared], shared


def _box_index(miller: Tensor, shape: Sequence[int]) -> Tensor:
    i, j, k = (miller[:, axis] % n for axis, n in enumerate(shape))
    return (i * shape[1] + j) * shape[2] + k

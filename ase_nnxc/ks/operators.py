"""Hermitian operators on orbitals, from which H is built: of one spin channel and k-point, or of several k-points.

The tensors of an operator on several k-points have a leading axis, and its plane waves are padded to a common number.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .basis import Sphere, padded, stack_spheres
from .real_orbitals import pack, unpack
from .transforms import chunk_size, from_box, to_box

REAL = 1e-10  # the largest relative difference from a real operator that is due to rounding

Same = TypeVar("Same", bound="Operator")


class Operator(ABC):
    """An operator on the plane waves of one k-point, or of several ones, or on the functions of `real_orbitals`."""

    @abstractmethod
    def add_to(self, result: Tensor, psi: Tensor) -> None:
        """Add the operator times the orbitals `psi` (..., nbands, npw) to `result` of the same shape, in place."""

    @abstractmethod
    def to(self: Same, dtype: torch.dtype) -> Same:
        """Return the same operator in complex64 or complex128, or, if `is_real`, for orbitals in float32 or float64."""

    @property
    def is_real(self) -> bool:
        """Whether the operator makes real functions of real ones, at one k-point that is its own inverse."""
        return False

    @classmethod
    @abstractmethod
    def stack(cls: type[Same], operators: Sequence[Same], npw: int) -> Same:
        """Return the operators of a term at several k-points of one spin channel as one, padded to `npw` waves."""

    def matrix(self, waves: Tensor) -> Tensor:
        """Return <G|O|G'> (n, n), complex128, for the plane waves of one k-point with indices `waves` (n,)."""
        npw = self.npw
        unit = torch.zeros(len(waves), npw, dtype=torch.complex128, device=waves.device)
        unit[torch.arange(len(waves), device=waves.device), waves] = 1.0
        image = torch.zeros_like(unit)
        self.add_to(image, unit)
        return image[:, waves].mT

    @property
    @abstractmethod
    def npw(self) -> int:
        """Number of plane waves."""


@dataclass(frozen=True, eq=False)
class Diagonal(Operator):
    """An operator that is diagonal in plane waves.

    Attributes
    ----------
    values : Tensor
        (..., npw) real, Hartree.
    """

    values: Tensor

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return self.values.shape[-1]

    @property
    def is_real(self) -> bool:
        """Whether opposite plane waves have the same value."""
        return torch.allclose(self.values, self.values.flip(-1), rtol=REAL, atol=0)

    def to(self, dtype: torch.dtype) -> "Diagonal":
        """Return the same operator in the precision of `dtype`."""
        return Diagonal(self.values.to(dtype.to_real()))

    @classmethod
    def stack(cls, operators: Sequence["Diagonal"], npw: int) -> "Diagonal":
        """Return the operators of several k-points as one, padded to `npw` waves."""
        return Diagonal(padded([operator.values for operator in operators], npw))

    def add_to(self, result: Tensor, psi: Tensor) -> None:
        """Compute result += d psi."""
        result.addcmul_(psi, self.values[..., None, :].to(psi.dtype))

    def matrix(self, waves: Tensor) -> Tensor:
        """Return diag(d)."""
        return torch.diag(self.values[waves]).to(torch.complex128)


@dataclass(frozen=True, eq=False)
class Separable(Operator):
    """A separable operator, sum_ij |p_i> D_ij <p_j|.

    Attributes
    ----------
    projectors : Tensor
        (..., nproj, npw) complex, <k+G|p>, or real.
    coupling : Tensor
        (..., nproj, nproj), D, Hartree, of the same dtype.
    """

    projectors: Tensor
    coupling: Tensor

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return self.projectors.shape[-1]

    @property
    def is_real(self) -> bool:
        """Whether projectors are real functions, and their coupling is real."""
        p, d = self.projectors, self.coupling
        limit = REAL * float(p.abs().max()) if p.numel() else 0.0
        return torch.allclose(p, p.flip(-1).conj(), rtol=0, atol=limit) and torch.equal(d, d.conj())

    def to(self, dtype: torch.dtype) -> "Separable":
        """Return the same operator in `dtype`."""
        p, d = self.projectors, self.coupling
        if p.is_complex() and not dtype.is_complex:
            p, d = p.real - p.imag, d.real
        return Separable(p.to(dtype), d.to(dtype))

    @classmethod
    def stack(cls, operators: Sequence["Separable"], npw: int) -> "Separable":
        """Return the operators of several k-points as one, padded to `npw` waves."""
        projectors = padded([operator.projectors for operator in operators], npw)
        return Separable(projectors, torch.stack([operator.coupling for operator in operators]))

    def add_to(self, result: Tensor, psi: Tensor) -> None:
        """Compute result += sum_ij |p_i> D_ij <p_j|psi> with matrix products."""
        if self.projectors.shape[-2]:
            result += (psi.conj() @ self.projectors.mT).conj() @ self.coupling @ self.projectors

    def matrix(self, waves: Tensor) -> Tensor:
        """Return P D P^H for these plane waves."""
        projectors = self.projectors[:, waves]
        return projectors.mT @ self.coupling @ projectors.conj()


@dataclass(frozen=True, eq=False)
class GridPotential(Operator):
    """Potentials on the FFT box: V(r) psi - 1/2 div(v(r) grad psi).

    The second part is present if the energy depends on the kinetic energy density tau; v = dE/dtau (J. Neumann,
    R. H. Nobes and N. C. Handy, Mol. Phys. 87, 1 (1996)). The product rule reduces the transforms of each orbital from
    three to two:

        -1/2 div(v grad psi) = 1/2 (T v psi + v T psi) + 1/4 (lap v) psi,   T = |k+G|^2 / 2.

    The FFT box holds all of these products exactly.

    Attributes
    ----------
    sphere : Sphere
        Plane waves of one k-point, or of several ones.
    local : Tensor
        (n1, n2, n3), Hartree: V, or V + 1/4 lap v with `tau`.
    tau : Tensor or None
        (n1, n2, n3), v, dimensionless.
    half_squares : Tensor or None
        (..., npw) T, Hartree, without smoothing at the cutoff; required with `tau`.
    """

    sphere: Sphere
    local: Tensor
    tau: Tensor | None = None
    half_squares: Tensor | None = None

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return self.sphere.npw

    def to(self, dtype: torch.dtype) -> "GridPotential":
        """Return the same operator in the precision of `dtype`."""
        real = dtype.to_real()
        tau, half_squares = (None if x is None else x.to(real) for x in (self.tau, self.half_squares))
        return GridPotential(self.sphere, self.local.to(real), tau, half_squares)

    @classmethod
    def stack(cls, operators: Sequence["GridPotential"], npw: int) -> "GridPotential":
        """Return the operators of several k-points, which share their potentials, as one."""
        half_squares = [operator.half_squares for operator in operators if operator.half_squares is not None]
        return replace(
            operators[0],
            sphere=stack_spheres([operator.sphere for operator in operators]),
            half_squares=padded(half_squares, npw) if half_squares else None,
        )

    def add_to(self, result: Tensor, psi: Tensor) -> None:
        """Apply the potentials on the grid, a few bands at a time, with two real ones in each box."""
        step = max(1, chunk_size(self.local.numel(), psi.device) // math.prod(psi.shape[:-2]))
        if not psi.is_complex():
            step *= 2
        for start in range(0, psi.shape[-2], step):
            bands = slice(start, start + step)
            result[..., bands, :] += self._apply(psi[..., bands, :])

    def _apply(self, psi: Tensor) -> Tensor:
        if not psi.is_complex():
            return unpack(self._apply(pack(psi, self.sphere)), self.sphere, psi.shape[-2])
        n1, n2, n3 = self.local.shape
        if self.tau is None or self.half_squares is None:
            box = to_box(psi, self.sphere, (n1, n2, n3))
            return from_box(box.mul_(self.local), self.sphere)
        half = 0.5 * self.half_squares[..., None, :]
        box = to_box(torch.cat((psi, half * psi), dim=-2), self.sphere, (n1, n2, n3))
        of_psi, of_half = box.chunk(2, dim=-4)
        of_half.mul_(self.tau).addcmul_(of_psi, self.local)  # 1/2 v T psi + V psi
        of_psi.mul_(self.tau)
        of_psi, of_half = from_box(box, self.sphere).chunk(2, dim=-2)
        return torch.addcmul(of_half, of_psi, half)

    def matrix(self, waves: Tensor) -> Tensor:
        """Return V(G - G') + 1/2 (T + T') v(G - G')."""
        miller, shape = self.sphere.miller[waves], self.local.shape
        i, j, k = ((miller[:, None, axis] - miller[None, :, axis]) % n for axis, n in enumerate(shape))
        index = (i * shape[1] + j) * shape[2] + k
        matrix = torch.fft.fftn(self.local, norm="forward").flatten()[index]
        if self.tau is not None and self.half_squares is not None:
            half = 0.5 * self.half_squares[waves]
            matrix += torch.fft.fftn(self.tau, norm="forward").flatten()[index] * (half[:, None] + half)
        return matrix

"""Direct minimisation of the energy of orbitals that hold whole electrons, where mixing densities does not converge.

The energy E of orthonormal orbitals C that hold fixed numbers of electrons f has the gradient f (H C - C (C+ H C)) (M.
C. Payne et al., Rev. Mod. Phys. 64, 1045 (1992), section V). The limited-memory BFGS method with the eigensolver's
preconditioner minimises it (J. Nocedal and S. J. Wright, Numerical Optimization, algorithm 7.5). Each step lowers the
energy; no mixing of densities guarantees that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .eigensolver import in_double, norms, precondition, real_parts, residual_weights
from .kpoints import Block
from .total_energy import TotalEnergy

MEMORY = 8  # number of secants
TRIALS = 10  # the largest number of trial points on a line
DECREASE = 1e-4  # a step must lower the energy by this fraction of what its slope promises
ROUNDING = 1e-13  # relative error of an energy
FEW = 5  # number of steps
CURVED = 1e-8  # a secant is kept if s . y is larger than this fraction of |s| |y|


@dataclass(frozen=True, eq=False)
class Point:
    """Orbitals, their energy and its gradient.

    Attributes
    ----------
    orbitals : list of Tensor
        (nbands, npw) of each block. Those that hold electrons come first and are orthonormal.
    fields : Tensor
        (nfields, ng) of these orbitals.
    energy : float
        Energy, Hartree.
    gradient : list of Tensor
        (nfilled, npw) of each block: H C - C (C+ H C).
    residual : float
        Largest norm of an orbital's gradient, Hartree, with `residual_weights`.
    """

    orbitals: list[Tensor]
    fields: Tensor
    energy: float
    gradient: list[Tensor]
    residual: float


class Secant(NamedTuple):
    """The last change s of the orbitals and y of the gradient, (nfilled, npw) of each block, and 1 / s . y."""

    s: list[Tensor]
    y: list[Tensor]
    rho: float


class EnergyOfOrbitals:
    """The energy as a function of orbitals that hold fixed numbers of electrons.

    Parameters
    ----------
    energy : TotalEnergy
        Terms of the energy.
    electrons : Tensor
        (nspin, nk, nbands) electrons in each orbital times the weight of its k-point: the same for the lowest orbitals
        of a block, zero for the others.

    Attributes
    ----------
    applications : int
        Products of H with an orbital that have been made.
    """

    def __init__(self, energy: TotalEnergy, electrons: Tensor):
        self.energy, self.electrons, self.kpoints = energy, electrons, energy.system.kpoints
        self.kinetic = self.kpoints.map(energy.kinetic)
        self.applications = 0

    def at(self, orbitals: Sequence[Tensor]) -> Point:
        """Return energy and gradient at orbitals (nbands, npw) of each block, which are orthonormalised first.

        They are real or complex, see `real_orbitals`.
        """
        energy = self.energy
        orbitals = self.kpoints.map(self._orthonormal, orbitals)
        energy.prepare(self.kpoints, orbitals, self.electrons)
        fields = energy.fields_of(orbitals, self.electrons)
        potential = energy.potential(fields).values

        def gradient(block: Block, psi: Tensor) -> Tensor:
            psi = psi[: self._filled(block)]
            hamiltonian = energy.hamiltonian(block, potential[block.spin], psi.dtype)
            return _tangent(hamiltonian.apply(psi), psi)

        slopes = self.kpoints.map(gradient, orbitals)
        self.applications += int((self.electrons != 0).sum())
        largest = self.kpoints.gather(self.kpoints.map(self._largest, slopes, self.kinetic))
        waves = energy.to_plane_waves(orbitals)
        total = sum(energy.components(waves, self.electrons, fields, 0.0).values())
        return Point(orbitals, fields, total, slopes, float(largest.max()))

    def moved(self, point: Point, direction: Sequence[Tensor], length: float) -> Point:
        """Return the point at C + length D, orthonormalised."""

        def move(block: Block, psi: Tensor, step: Tensor) -> Tensor:
            return torch.cat((psi[: len(step)] + length * step, psi[len(step) :]))

        return self.at(self.kpoints.map(move, point.orbitals, direction))

    def inner(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        """Return 2 sum f Re <a|b>, the derivative of the energy along b if a is its gradient."""

        def of_block(block: Block, x: Tensor, y: Tensor) -> Tensor:
            electrons = self.electrons[block.spin, block.k, : len(x)]
            return 2 * electrons @ (real_parts(x) * real_parts(y)).sum(1)

        return float(self.kpoints.sum(of_block, a, b))

    def preconditioned(self, vectors: Sequence[Tensor], point: Point) -> list[Tensor]:
        """Return vectors (nfilled, npw) of each block with the preconditioner, which stands for the inverse Hessian."""

        def of_block(block: Block, x: Tensor, psi: Tensor, kinetic: Tensor) -> Tensor:
            psi = psi[: len(x)]
            return _tangent(precondition(x, psi, kinetic), psi)

        return self.kpoints.map(of_block, vectors, point.orbitals, self.kinetic)

    def tangents(self, vectors: Sequence[Tensor], point: Point) -> list[Tensor]:
        """Return vectors (nfilled, npw) of each block orthogonal to the filled orbitals of a point."""
        return self.kpoints.map(lambda block, x, psi: _tangent(x, psi[: len(x)]), vectors, point.orbitals)

    def _largest(self, block: Block, gradient: Tensor, kinetic: Tensor) -> Tensor:
        sizes = norms(gradient * residual_weights(kinetic, self.energy.system.basis.ecut))
        return sizes.max() if len(sizes) else sizes.sum()  # a spin channel may have no electrons

    def _filled(self, block: Block) -> int:
        return int((self.electrons[block.spin, block.k] != 0).sum())

    def _orthonormal(self, block: Block, psi: Tensor) -> Tensor:
        """Return orbitals (nbands, npw) with the closest orthonormal ones, S^(-1/2) C, in place of the filled ones."""
        filled, empty = in_double(psi).tensor_split([self._filled(block)])
        weights, vectors = torch.linalg.eigh(filled @ filled.mH)
        return torch.cat(((vectors * weights.rsqrt()) @ (vectors.mH @ filled), empty))


def minimise(
    function: EnergyOfOrbitals, orbitals: Sequence[Tensor], residual: float, decrease: float
) -> Iterator[Point]:
    """Minimise the energy and yield the point of each step, until residuals or decreases of the energy are small.

    Parameters
    ----------
    function : EnergyOfOrbitals
        What to minimise.
    orbitals : sequence of Tensor
        (nbands, npw) of each block, where the search starts. Those that hold electrons come first.
    residual : float
        Residual (see `Point`) at the end, Hartree.
    decrease : float
        Decrease of the energy in the last `FEW` steps, at the end, Hartree.
    """
    point: Point | None = function.at(orbitals)
    secants: list[Secant] = []
    energies = [math.inf] * FEW
    while point is not None:
        yield point
        energies = [*energies[1:], point.energy]
        if point.residual <= residual or energies[0] - energies[-1] <= decrease + ROUNDING * abs(point.energy):
            return
        direction = _direction(function, point, secants)
        if function.inner(point.gradient, direction) >= 0:
            secants, direction = [], _direction(function, point, [])
        last, (point, length) = point, _search(function, point, direction)
        if point is not None:
            secants = _updated(function, secants, last, point, [length * d for d in direction])


def _direction(function: EnergyOfOrbitals, point: Point, secants: Sequence[Secant]) -> list[Tensor]:
    """Return -B^-1 g in two loops: each secant makes B^-1 (1 - rho s y+) B^-1 (1 - rho y s+) + rho s s+."""
    q, factors = point.gradient, []
    for s, y, rho in reversed(secants):
        factors.append(rho * function.inner(s, q))
        q = _sum(q, y, -factors[-1])
    q = function.preconditioned(q, point)
    for (s, y, rho), factor in zip(secants, reversed(factors)):
        q = _sum(q, s, factor - rho * function.inner(y, q))
    return [-x for x in q]


def _search(function: EnergyOfOrbitals, start: Point, direction: Sequence[Tensor]) -> tuple[Point | None, float]:
    """Return a point of lower energy along a direction, with its distance; None if there is none but for rounding."""
    slope, length = function.inner(start.gradient, direction), 1.0
    for _ in range(TRIALS):
        trial = function.moved(start, direction, length)
        if trial.energy <= start.energy + DECREASE * length * slope + ROUNDING * abs(start.energy):
            return trial, length
        end = function.inner(trial.gradient, direction)
        length *= min(max(slope / (slope - end), 0.1), 0.5) if end > slope else 0.5  # secant of the slopes
    return None, 0.0


def _updated(
    function: EnergyOfOrbitals, secants: Sequence[Secant], last: Point, point: Point, step: Sequence[Tensor]
) -> list[Secant]:
    """Return the last secants and that of a step, in the tangent space of its end."""
    change = _sum(point.gradient, function.tangents(last.gradient, point), -1)
    moved = [(function.tangents(old.s, point), function.tangents(old.y, point)) for old in secants]
    updated = []
    for s, y in [*moved, (function.tangents(step, point), change)][-MEMORY:]:
        curvature = function.inner(s, y)
        if curvature > CURVED * (function.inner(s, s) * function.inner(y, y)) ** 0.5:
            updated.append(Secant(s, y, 1 / curvature))
    return updated


def _sum(a: Sequence[Tensor], b: Sequence[Tensor], factor: float) -> list[Tensor]:
    """Return a + factor b of each block."""
    return [torch.add(x, y, alpha=factor) for x, y in zip(a, b)]


def _tangent(vectors: Tensor, psi: Tensor) -> Tensor:
    """Return vectors (n, npw) without their components along orthonormal orbitals (m, npw)."""
    return vectors - (vectors @ psi.mH) @ psi

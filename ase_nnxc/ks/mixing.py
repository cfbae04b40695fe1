"""Density mixing: Anderson acceleration of preconditioned residuals.

In this module a density is the Fourier coefficients (nfields, ng) of all fields: total density, magnetisation, and
kinetic energy densities.
Anderson, J. ACM 12, 547 (1965); Kerker, Phys. Rev. B 23, 3082 (1981).

Kerker's preconditioner G^2 / (G^2 + k^2) undoes the screening by electrons at the Fermi level. In Thomas and Fermi's
approximation k^2 = 4 pi D / Omega, with their density of states D. Nothing is screened where there are none.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from .basis import DensityGrid
from .coulomb import lattice_kernel
from .system import System

# Weight of the squared residual of tau relative to that of the magnetisation. Ferromagnetic Ni with r2SCAN (80 Ha,
# 3x3x3) needs more than 60, 32, 31, 23, 30 steps with 1, 0.1, 0.01, 1e-3, 1e-4. With a weight of zero the SCF can end
# before tau has converged.
TAU_WEIGHT = 1e-3
SCREENING = 0.8  # Kerker's largest wave vector, bohr^-1, for systems with periodic directions
DAMPING = 0.8  # initial fraction of the preconditioned residual that is added
HISTORY = 8  # initial number of steps in the history
KEPT = 4  # the largest number of secants for the next SCF; more do not help
# The number of steps in which the squared residual must be halved. Otherwise the mixer restarts with more damping and
# half the history, because old steps are misleading where the map is far from linear: simple cubic Mn does not converge
# with a history of eight steps, but does with four.
PATIENCE = 15
MORE_DAMPING = 0.4  # factor of the damping at a restart
SETTLED = 1e-6  # relative to the first squared residual; below it a stall is due to rounding, and no restart is made


class Mixer(Protocol):
    """Interface of a density mixer; see `AndersonMixer`."""

    def error(self, residual: Tensor, volume: Tensor) -> float:
        """Return the estimated error of the energy, Hartree, for a residual (nfields, ng)."""

    def step(self, density: Tensor, residual: Tensor, states: float) -> Tensor:
        """Return the next input fields (nfields, ng), from input fields and their `residual` = output - input.

        `states` is the density of states at the Fermi level per volume, Hartree^-1 bohr^-3.
        """

    def change_map(self) -> None:
        """Prepare for residuals of another potential: only differences between the steps so far remain meaningful."""

    def secants(self, density: Tensor, residual: Tensor) -> Tensor:
        """Return changes of fields and residuals (n, 2, nfields, ng), n >= 0, for the SCF of a similar system."""


class AndersonMixer:
    """A mixer that proposes the next density from the history of densities and residuals.

    Parameters
    ----------
    grid : DensityGrid
        Grid of the densities.
    kernel : Tensor
        (ng,) 4 pi / G^2, bohr^2. The metric of the residuals is their electrostatic energy.
    nspin : int
        Number of spin channels, 1 or 2: the first `nspin` fields are density and magnetisation, the others are those of
        tau.
    screening : float
        Kerker's largest wave vector, bohr^-1.
    secants : Tensor, optional
        Result of the method `secants` at the end of a similar SCF.
    """

    def __init__(
        self,
        grid: DensityGrid,
        kernel: Tensor,
        nspin: int,
        screening: float = SCREENING,
        secants: Tensor | None = None,
    ):
        self.grid, self.damping, self.history = grid, DAMPING, HISTORY
        self._kernel, self._screening = kernel, screening
        # the other fields have no electrostatic energy: the magnetisation is weighted as a density at |G| = 1 bohr^-1
        others = [*(nspin - 1) * [4 * torch.pi], *nspin * [4 * torch.pi * TAU_WEIGHT]]
        self.metric = grid.multiplicity * torch.stack([kernel, *(torch.full_like(kernel, w) for w in others)])
        self._steps: list[Tensor] = []  # (2, nfields, ng): density and residual
        self._least, self._idle = math.inf, 0  # squared residual, and number of steps since it was halved
        self._first: tuple[Tensor, float] | None = None  # the first density with its residual, and the squared residual
        self._secants = secants

    def error(self, residual: Tensor, volume: Tensor) -> float:
        """Return the estimated error of the energy, Hartree: the electrostatic energy of a residual (nfields, ng)."""
        return 0.5 * float(volume * self._inner(residual[None], residual[None]))

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner products (na, nb) of residuals (na, nfields, ng) and (nb, nfields, ng)."""
        weighted = self.metric[: a.shape[1], :, None] * torch.view_as_real(a)
        return weighted.flatten(1) @ torch.view_as_real(b).flatten(1).mT

    def kerker(self, states: float) -> Tensor:
        """Return Kerker's preconditioner (ng,) for a density of states at the Fermi level, Hartree^-1 bohr^-3."""
        # G^2 / (G^2 + k^2) = 1 / (1 + k^2 kernel / 4 pi); the residual at G = 0 is zero
        return 1 / (1 + min(states, self._screening**2 / (4 * math.pi)) * self._kernel)

    def step(self, density: Tensor, residual: Tensor, states: float) -> Tensor:
        """Return the next density (nfields, ng); the parameters are those of `Mixer.step`."""
        best = current = self._without_stalling(torch.stack((density, residual)))
        if self._secants is not None:  # a history in which these changes led to the current step
            self._steps, self._secants = list(current - self._secants), None
        if self._steps:
            changes = current - torch.stack(self._steps)
            products = self._inner(changes[:, 1], torch.cat((changes[:, 1], current[1:])))
            gram = products.cpu()  # a small matrix, and CUDA does not support the driver gelsd
            scale = gram.diagonal().rsqrt()  # differences span many orders of magnitude
            gram *= scale[:, None]
            solved = torch.linalg.lstsq(gram[:, :-1] * scale, gram[:, -1:], rcond=1e-10, driver="gelsd")
            best = current - torch.tensordot((scale * solved.solution[:, 0]).to(changes), changes, dims=1)
        self._steps = [*self._steps, current][-self.history :]
        best, change = best[0], self.damping * best[1]
        change[0] *= self.kerker(states)
        return best + change

    def change_map(self) -> None:
        """Keep the differences of the last steps as secants of the next one."""
        if len(self._steps) > 1:
            *earlier, last = self._steps
            self._secants = last - torch.stack(earlier)
        self._steps, self._first, self._least, self._idle = [], None, math.inf, 0

    def _without_stalling(self, current: Tensor) -> Tensor:
        """Return the current step; after `PATIENCE` steps without progress, clear the history and return the first."""
        size = float(self._inner(current[1:], current[1:]))
        self._idle += 1
        if size < 0.5 * self._least:
            self._least, self._idle = size, 0
        if self._first is None:
            self._first = current, size
        first, first_size = self._first
        if self._idle < PATIENCE or self._least < SETTLED * first_size:
            return current
        self.damping *= MORE_DAMPING
        self.history = (self.history + 1) // 2
        self._steps, self._least, self._idle = [], math.inf, 0
        return first

    def secants(self, density: Tensor, residual: Tensor) -> Tensor:
        """Return the differences of density and residual from those of the last steps.

        Returns
        -------
        Tensor
            (n, 2, nfields, ng) complex64, n up to `KEPT`.
        """
        if self._secants is not None:
            few = self._secants.dtype == torch.complex64 and len(self._secants) <= KEPT
            return self._secants if few else self._secants[-KEPT:].to(torch.complex64)
        current = torch.stack((density, residual))
        previous = torch.stack([current, *self._steps[-KEPT:]])[1:]
        return (current - previous).to(torch.complex64)


def default_mixer(system: System, secants: Tensor | None) -> AndersonMixer:
    """Return an Anderson mixer, with Kerker's preconditioner if there are periodic directions.

    The metric of the residuals is 4 pi / G^2, which is never negative; a truncated interaction can be negative. Charge
    sloshing does not occur in molecules: without screening H2O, CO and Si need 9 steps instead of 17.
    """
    crystal, grid = system.crystal, system.basis.grid
    metric = lattice_kernel(grid.miller, crystal.lattice, (True, True, True))
    screening = SCREENING if any(crystal.pbc) else 0.0
    return AndersonMixer(grid, metric, crystal.nspin, screening=screening, secants=secants)

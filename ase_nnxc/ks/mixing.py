"""Density mixing: Anderson acceleration of preconditioned residuals.

Densities are Fourier coefficients (nfields, ng) of the total density and the fields that go with it: the magnetisation,
kinetic energy densities.
Anderson, J. ACM 12, 547 (1965); Kerker, Phys. Rev. B 23, 3082 (1981).
"""

import math

import torch
from torch import Tensor

from .basis import DensityGrid

# Of the squared residual of tau beside that of the magnetisation. Steps of ferromagnetic Ni with r2SCAN (80 Ha, 3x3x3):
# more than 60, 32, 31, 23, 30 with 1, 0.1, 0.01, 1e-3, 1e-4; without it the SCF may end before tau has converged.
TAU_WEIGHT = 1e-3
DAMPING = 0.8  # share of the preconditioned residual that is added at first
HISTORY = 8  # steps that are remembered at first
KEPT = 4  # secants for the next SCF; more do not help
# Steps in which the squared residual should be halved; else a mixer begins anew with more damping and half the memory,
# which holds what is no longer true where the map is far from linear: simple cubic Mn wanders with eight steps in mind,
# and converges with four.
PATIENCE = 15
MORE_DAMPING = 0.4
SETTLED = 1e-6  # of the first squared residual; below it a stall is rounding, which damping does not mend


class AndersonMixer:
    """Proposes the next density from the history of densities and residuals.

    Parameters
    ----------
    grid : DensityGrid
        Where the densities live.
    kernel : Tensor
        (ng,) 4 pi / G^2: the metric of the residuals is their electrostatic energy.
    nspin : int
        1 or 2: how many of the fields are densities; the rest are kinetic energy densities.
    screening : float
        Kerker's wave vector, bohr^-1.
    secants : Tensor, optional
        What `secants` gave at the end of a similar SCF.
    """

    def __init__(
        self,
        grid: DensityGrid,
        kernel: Tensor,
        nspin: int,
        screening: float = 0.8,
        secants: Tensor | None = None,
    ):
        self.grid, self.damping, self.history = grid, DAMPING, HISTORY
        # Kerker: G^2 / (G^2 + k^2) = 1 / (1 + k^2 kernel / 4 pi); G = 0 holds the number of electrons
        self.kerker = 1 / (1 + screening**2 * kernel / (4 * torch.pi))
        # the other fields have no electrostatics: weigh the magnetisation as a density wave of 1 bohr^-1
        self.metric = [kernel, *(nspin - 1) * [4 * torch.pi], *nspin * [4 * torch.pi * TAU_WEIGHT]]
        self._steps: list[Tensor] = []  # (2, nfields, ng): density and residual
        self._least, self._idle = math.inf, 0  # squared residual, and steps since it was halved
        self._begin: tuple[Tensor, float] | None = None  # the first density and its residual, and the square of this
        self._secants = secants

    def error(self, residual: Tensor, volume: Tensor) -> float:
        """Estimate of the energy's error, Hartree: the electrostatic energy of a residual (nfields, ng)."""
        return 0.5 * float(volume * self._inner(residual, residual))

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([self.grid.inner(x, weight * y) for x, y, weight in zip(a, b, self.metric)]).sum()

    def step(self, density: Tensor, residual: Tensor) -> Tensor:
        """The next density (nfields, ng) after `density` gave `residual` = output - input."""
        best = here = self._without_stalling(torch.stack((density, residual)))
        if self._secants is not None:  # as if these changes had led here
            self._steps, self._secants = list(here - self._secants), None
        if self._steps:
            changes = [here - there for there in self._steps]
            dr = [change[1] for change in changes]
            gram = torch.stack([torch.stack([self._inner(a, b) for b in dr]) for a in dr])
            right = torch.stack([self._inner(a, here[1]) for a in dr])
            gram, right = gram.cpu(), right.cpu()  # a few numbers, and a driver that CUDA does not have
            scale = gram.diagonal().rsqrt()  # differences span many orders of magnitude
            c = scale * torch.linalg.lstsq(
                gram * scale[:, None] * scale, (right * scale)[:, None], rcond=1e-10, driver="gelsd"
            ).solution.squeeze(-1)
            for weight, change in zip(c.tolist(), changes):
                best = best - weight * change
        self._steps = [*self._steps, here][-self.history :]
        best, change = best[0], self.damping * best[1]
        change[0] *= self.kerker
        return best + change

    def _without_stalling(self, here: Tensor) -> Tensor:
        """Where to go on from: here, or after `PATIENCE` steps without progress where it all began."""
        size = float(self._inner(here[1], here[1]))
        self._idle += 1
        if size < 0.5 * self._least:
            self._least, self._idle = size, 0
        if self._begin is None:
            self._begin = here, size
        begin, first = self._begin
        if self._idle < PATIENCE or self._least < SETTLED * first:
            return here
        self.damping *= MORE_DAMPING
        self.history = (self.history + 1) // 2
        self._steps, self._least, self._idle = [], math.inf, 0
        return begin

    def secants(self, density: Tensor, residual: Tensor) -> Tensor:
        """Changes of density and residual that led to the last ones, (n, 2, nfields, ng) complex64, n up to `KEPT`."""
        if self._secants is not None:
            return self._secants
        here = torch.stack((density, residual))
        known = torch.stack([here, *self._steps[-KEPT:]])[1:]
        return (here - known).to(torch.complex64)

"""Density mixing: Anderson acceleration of preconditioned residuals.

Densities are Fourier coefficients (nspin, ng) of the total density and, with spin, the magnetisation.
Anderson, J. ACM 12, 547 (1965); Kerker, Phys. Rev. B 23, 3082 (1981).
"""

import torch
from torch import Tensor

from .basis import DensityGrid


class AndersonMixer:
    """Proposes the next density from the history of densities and residuals.

    Parameters
    ----------
    grid : DensityGrid
        Where the densities live.
    kernel : Tensor
        (ng,) 4 pi / G^2: the metric of the residuals is their electrostatic energy.
    damping : float
        Share of the (preconditioned) residual that is added.
    screening : float
        Kerker's wave vector, bohr^-1.
    history : int
        How many steps are remembered.
    """

    def __init__(
        self, grid: DensityGrid, kernel: Tensor, damping: float = 0.8, screening: float = 0.8, history: int = 8
    ):
        self.grid, self.damping, self.history = grid, damping, history
        # Kerker: G^2 / (G^2 + k^2) = 1 / (1 + k^2 kernel / 4 pi); G = 0 holds the number of electrons
        self.kerker = 1 / (1 + screening**2 * kernel / (4 * torch.pi))
        self.metric = kernel
        self.densities: list[Tensor] = []
        self.residuals: list[Tensor] = []

    def error(self, residual: Tensor, volume: Tensor) -> float:
        """Estimate of the energy's error, Hartree: the electrostatic energy of a residual (nspin, ng)."""
        return 0.5 * float(volume * self._inner(residual, residual))

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        value = self.grid.inner(a[0], self.metric * b[0])
        if len(a) == 2:  # the magnetisation has no electrostatics: weigh it as a wave of 1 bohr^-1
            value = value + 4 * torch.pi * self.grid.inner(a[1], b[1])
        return value

    def step(self, density: Tensor, residual: Tensor) -> Tensor:
        """The next density (nspin, ng) after `density` gave `residual` = output - input."""
        best, rest = density, residual
        if self.densities:
            dr = [residual - r for r in self.residuals]
            gram = torch.stack([torch.stack([self._inner(a, b) for b in dr]) for a in dr])
            right = torch.stack([self._inner(a, residual) for a in dr])
            gram, right = gram.cpu(), right.cpu()  # a few numbers, and a driver that CUDA does not have
            scale = gram.diagonal().rsqrt()  # differences span many orders of magnitude
            c = scale * torch.linalg.lstsq(
                gram * scale[:, None] * scale, (right * scale)[:, None], rcond=1e-10, driver="gelsd"
            ).solution.squeeze(-1)
            for weight, d, r in zip(c.tolist(), self.densities, self.residuals):
                best = best - weight * (density - d)
                rest = rest - weight * (residual - r)
        self.densities = [*self.densities, density][-self.history :]
        self.residuals = [*self.residuals, residual][-self.history :]
        change = self.damping * rest
        change[0] *= self.kerker
        return best + change

"""The spherical pseudo-atom, which provides initial densities and orbitals.

The neutral atom has the configuration of its pseudopotential table. Its orbitals are expanded in even-tempered
Gaussians r^l exp(-a r^2), and its exchange energy is that of the uniform electron gas. If the table contains a density,
it replaces the computed one. An accuracy of some milli-Hartree is sufficient for an initial guess.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential

Array = NDArray[np.float64]

EXPONENTS = 0.04 * 1.9 ** np.arange(13)  # bohr^-2, up to 88
_X = (np.arange(500) + 0.5) / 500
RADII = 14.0 * _X**2  # bohr
WEIGHTS = 28.0 * _X / 500  # weights of integrals over r, bohr
TAIL = 0.03  # number of electrons outside of the radius of an atom
WAVE_NUMBERS = np.linspace(0.0, 40.0, 401)  # bohr^-1; initial densities are zero beyond


@dataclass(frozen=True)
class Shell:
    """An occupied level: angular momentum, number of electrons, coefficients (nexponents,) of r^l exp(-a r^2) Y_lm."""

    l: int  # noqa: E741
    electrons: float
    coefficients: Array


@dataclass(frozen=True, eq=False)
class PseudoAtom:
    """The solution of a pseudo-atom.

    Attributes
    ----------
    shells : tuple of Shell
        Occupied levels.
    spline : CubicSpline
        Fourier transforms of the density, electrons, and of the kinetic energy density, Hartree, as functions of the
        wave number, bohr^-1.
    radius : float
        Radius of the sphere outside of which there are `TAIL` electrons, bohr.
    """

    shells: tuple[Shell, ...]
    spline: CubicSpline
    radius: float

    def density(self, q2: Tensor) -> Tensor:
        """Return the Fourier transform of the density, electrons, at squared wave numbers `q2` (any shape), bohr^-2."""
        return self._transforms(q2)[..., 0]

    def tau(self, q2: Tensor) -> Tensor:
        """Return the Fourier transform of tau, Hartree, at squared wave numbers `q2` (any shape), bohr^-2."""
        return self._transforms(q2)[..., 1]

    @np.errstate(under="ignore")
    def _transforms(self, q2: Tensor) -> Tensor:
        q = q2.detach().sqrt().clamp(max=float(WAVE_NUMBERS[-1])).cpu().numpy()
        return torch.as_tensor(self.spline(q), dtype=q2.dtype, device=q2.device)

    def orbital(self, shell: Shell, q2: Tensor) -> Tensor:
        """Return the radial Fourier transform of a shell divided by q^l, with the shape of `q2` (bohr^-2).

        r^l exp(-a r^2) Y_lm -> (-i)^l (pi/a)^(3/2) (q / 2a)^l exp(-q^2 / 4a) Y_lm, here without the phase (-i)^l.
        """
        total = torch.zeros_like(q2)
        for c, a in zip(shell.coefficients.tolist(), EXPONENTS.tolist()):
            total += c * (math.pi / a) ** 1.5 / (2 * a) ** shell.l * torch.exp(-q2 / (4 * a))
        return total


@lru_cache(maxsize=256)
@np.errstate(under="ignore")  # Gaussians far from the atom; the user may have told NumPy to raise
def pseudo_atom(table: Pseudopotential) -> PseudoAtom:
    """Solve the pseudo-atom of a table; the result is kept for later calls."""
    local = table.local_in_space(RADII)
    core = np.zeros_like(RADII) if table.core is None else table.core.in_space(RADII)
    fixed = [_basis_and_ion(table, angular) for angular in range(len(table.configuration))]
    density = table.valence * np.exp(-(RADII**2)) / math.pi**1.5
    potential = _screening(density, core)
    for _ in range(100):
        density, shells = np.zeros_like(RADII), []
        for angular, (waves, overlap, ion) in enumerate(fixed):
            hamiltonian = ion + (waves * ((local + potential) * WEIGHTS)) @ waves.T
            filled = _filling(table.configuration[angular], angular)
            vectors = scipy.linalg.eigh(hamiltonian, overlap)[1][:, : len(filled)].T
            for f, c in zip(filled, vectors):
                shells.append(Shell(angular, f, c))
                density += f * (c @ waves) ** 2 / (4 * math.pi * RADII**2)
        change = _screening(density, core) - potential
        potential = potential + 0.4 * change
        if 4 * math.pi * (np.abs(change) * density * RADII**2) @ WEIGHTS < 1e-2 * table.valence:
            break
    qr = WAVE_NUMBERS[:, None] * RADII
    fields = np.stack((density, sum(_kinetic(shell) for shell in shells)), axis=-1)
    transforms = np.sinc(qr / math.pi) @ (4 * math.pi * (RADII**2 * WEIGHTS)[:, None] * fields)
    if table.density is not None:
        transforms[:, 0] = table.density(torch.from_numpy(WAVE_NUMBERS**2)).numpy()
    transforms[:, 0] *= table.valence / transforms[0, 0]
    inside = np.cumsum(4 * math.pi * RADII**2 * WEIGHTS * density)
    radius = float(RADII[np.searchsorted(inside, inside[-1] - TAIL)])
    return PseudoAtom(tuple(shells), CubicSpline(WAVE_NUMBERS, transforms), radius)


def _kinetic(shell: Shell) -> Array:
    """Return tau of a shell on RADII, Hartree bohr^-3: f / 4 pi * 1/2 (R'^2 + l (l + 1) R^2 / r^2)."""
    a = EXPONENTS[:, None]
    waves = RADII**shell.l * np.exp(-a * RADII**2)
    value, slope = shell.coefficients @ waves, shell.coefficients @ (waves * (shell.l / RADII - 2 * a * RADII))
    return shell.electrons / (8 * math.pi) * (slope**2 + shell.l * (shell.l + 1) * (value / RADII) ** 2)


def _basis_and_ion(table: Pseudopotential, angular: int) -> tuple[Array, Array, Array]:
    """Return r times the Gaussians (n, nr), their overlap (n, n), and kinetic plus nonlocal energy (n, n), Hartree."""
    a = EXPONENTS[:, None]
    waves = RADII ** (angular + 1) * np.exp(-a * RADII**2)
    slopes = waves * ((angular + 1) / RADII - 2 * a * RADII)
    ion = 0.5 * ((slopes * WEIGHTS) @ slopes.T + angular * (angular + 1) * (waves * WEIGHTS / RADII**2) @ waves.T)
    for channel in (c for c in table.channels if c.l == angular):
        projectors = [RADII * channel.in_space(i, RADII) for i in range(len(channel.h))]
        b = (waves * WEIGHTS) @ np.array(projectors).T
        ion = ion + b @ np.array(channel.h) @ b.T
    return waves, (waves * WEIGHTS) @ waves.T, ion


def _filling(electrons: float, angular: int) -> list[float]:
    """Return the number of electrons in each level of one angular momentum, lowest level first."""
    full = 2 * (2 * angular + 1)
    return [min(full, electrons - start) for start in range(0, math.ceil(electrons), full)]


def _screening(density: Array, core: Array) -> Array:
    """Return the Hartree potential of the density plus the exchange potential of density and core, on RADII."""
    shells = 4 * math.pi * RADII**2 * density * WEIGHTS
    inside = np.cumsum(shells) - 0.5 * shells
    outside = np.cumsum((shells / RADII)[::-1])[::-1] - 0.5 * shells / RADII
    return inside / RADII + outside - np.cbrt(3 * (density + core) / math.pi)

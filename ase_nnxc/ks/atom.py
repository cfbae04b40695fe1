"""The spherical pseudo-atom, which provides initial densities and orbitals.

The neutral atom has the configuration of its pseudopotential table. Its orbitals are expanded in even-tempered
Gaussians r^l exp(-a r^2), and its exchange energy is that of the uniform electron gas. If the table contains a density,
it replaces the computed one. An accuracy of some milli-Hartree is sufficient for an initial guess.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential, RadialFunction
from ..pseudopotentials.radial import RadialMesh, TabulatedFunction

Array = NDArray[np.float64]

EXPONENTS = 0.04 * 1.9 ** np.arange(13)  # bohr^-2, up to 88
_X = (np.arange(500) + 0.5) / 500
RADII = 14.0 * _X**2  # bohr
WEIGHTS = 28.0 * _X / 500  # weights of integrals over r, bohr
MESH = RadialMesh(RADII, WEIGHTS)
TAIL = 0.03  # number of electrons outside of the radius of an atom


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
    valence_density, kinetic_density : RadialFunction
        Density, in arbitrary units, and kinetic energy density, Hartree bohr^-3.
    scale : float
        Factor of `valence_density` that makes it hold all electrons, bohr^-3.
    radius : float
        Radius of the sphere outside of which there are `TAIL` electrons, bohr.
    """

    shells: tuple[Shell, ...]
    valence_density: RadialFunction
    kinetic_density: RadialFunction
    scale: float
    radius: float

    def density(self, q2: Tensor) -> Tensor:
        """Return the Fourier transform of the density, electrons, at squared wave numbers `q2` (any shape), bohr^-2."""
        return self.scale * self.valence_density(q2)

    def tau(self, q2: Tensor) -> Tensor:
        """Return the Fourier transform of tau, Hartree, at squared wave numbers `q2` (any shape), bohr^-2."""
        return self.kinetic_density(q2)

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
        for angular, (waves, orthonormal, ion) in enumerate(fixed):
            hamiltonian = ion + (waves * ((local + potential) * WEIGHTS)) @ waves.T
            filled = _filling(table.configuration[angular], angular)
            vectors = (orthonormal @ np.linalg.eigh(orthonormal.T @ hamiltonian @ orthonormal)[1])[:, : len(filled)].T
            for f, c in zip(filled, vectors):
                shells.append(Shell(angular, f, c))
                density += f * (c @ waves) ** 2 / (4 * math.pi * RADII**2)
        change = _screening(density, core) - potential
        potential = potential + 0.4 * change
        if 4 * math.pi * (np.abs(change) * density * RADII**2) @ WEIGHTS < 1e-2 * table.valence:
            break
    tau = sum(_kinetic(shell) for shell in shells)
    own = TabulatedFunction(0, MESH, RADII * density) if table.density is None else table.density
    scale = table.valence / float(own(torch.zeros(1, dtype=torch.float64, device="cpu")))
    inside = np.cumsum(4 * math.pi * RADII**2 * WEIGHTS * density)
    radius = float(RADII[np.searchsorted(inside, inside[-1] - TAIL)])
    return PseudoAtom(tuple(shells), own, TabulatedFunction(0, MESH, RADII * tau), scale, radius)


def _kinetic(shell: Shell) -> Array:
    """Return tau of a shell on RADII, Hartree bohr^-3: f / 4 pi * 1/2 (R'^2 + l (l + 1) R^2 / r^2)."""
    a = EXPONENTS[:, None]
    waves = RADII**shell.l * np.exp(-a * RADII**2)
    value, slope = shell.coefficients @ waves, shell.coefficients @ (waves * (shell.l / RADII - 2 * a * RADII))
    return shell.electrons / (8 * math.pi) * (slope**2 + shell.l * (shell.l + 1) * (value / RADII) ** 2)


def _basis_and_ion(table: Pseudopotential, angular: int) -> tuple[Array, Array, Array]:
    """Return Gaussians and the ion's part of H.

    They are r times the Gaussians (n, nr), the matrix (n, n) whose columns are orthonormal combinations of them, and
    kinetic plus nonlocal energy (n, n), Hartree.
    """
    a = EXPONENTS[:, None]
    waves = RADII ** (angular + 1) * np.exp(-a * RADII**2)
    slopes = waves * ((angular + 1) / RADII - 2 * a * RADII)
    ion = 0.5 * ((slopes * WEIGHTS) @ slopes.T + angular * (angular + 1) * (waves * WEIGHTS / RADII**2) @ waves.T)
    for channel in (c for c in table.channels if c.l == angular):
        projectors = [RADII * channel.in_space(i, RADII) for i in range(len(channel.h))]
        b = (waves * WEIGHTS) @ np.array(projectors).T
        ion = ion + b @ np.array(channel.h) @ b.T
    orthonormal = np.linalg.inv(np.linalg.cholesky((waves * WEIGHTS) @ waves.T)).T
    return waves, orthonormal, ion


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

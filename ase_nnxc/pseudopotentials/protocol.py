"""What the core asks of a norm-conserving pseudopotential, whatever it is made of.

Fourier transforms are of one atom at the origin, v(q) = integral v(r) exp(-i q r) d3r; dividing by the cell volume is
the business of the caller.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


class RadialFunction(Protocol):
    """A function of the distance from an atom, known by its Fourier transform."""

    def __call__(self, q2: Tensor) -> Tensor:
        """Fourier transform divided by q^l at squared wave numbers, bohr^-2, any shape; differentiable."""

    def in_space(self, radii: Array) -> Array:
        """Values at radii (nr,), bohr."""


class SeparablePart(Protocol):
    """One angular momentum of a separable pseudopotential; see `gth.Channel`."""

    @property
    def l(self) -> int:  # noqa: E743
        """Angular momentum, 0 to 3."""

    @property
    def h(self) -> tuple[tuple[float, ...], ...]:
        """Symmetric matrix (n, n) of couplings, Hartree."""

    def projector(self, i: int, q2: Tensor) -> Tensor:
        """Fourier transform of radial projector `i` divided by q^l, shaped as `q2`, bohr^(3/2 + l)."""

    def in_space(self, i: int, radii: Array) -> Array:
        """Radial projector `i` at radii (nr,), bohr^(-3/2)."""


class Pseudopotential(Protocol):
    """What the core asks of a norm-conserving pseudopotential: `gth.GTH`, or `tabulated.Tabulated`."""

    def __hash__(self) -> int: ...

    @property
    def symbol(self) -> str:
        """Element."""

    @property
    def number(self) -> int:
        """Atomic number."""

    @property
    def valence(self) -> int:
        """Charge Z of the ion core, electrons."""

    @property
    def rloc(self) -> float:
        """Width of the Gaussian charge that stands for the ion core, bohr."""

    @property
    def channels(self) -> Sequence[SeparablePart]:
        """Separable part."""

    @property
    def configuration(self) -> tuple[int, ...]:
        """Valence electrons of the atom in s, p, d, f."""

    @property
    def name(self) -> str:
        """For logs, and to find it again."""

    @property
    def core(self) -> RadialFunction | None:
        """Density of the core that the exchange-correlation energy sees, bohr^-3; None without core correction."""

    @property
    def density(self) -> RadialFunction | None:
        """Density of the valence of the atom, bohr^-3, if it is known."""

    def short(self, q2: Tensor) -> Tensor:
        """Fourier transform of the local part less the potential of the Gaussian charge, Hartree bohr^3."""

    def local_in_space(self, radii: Array) -> Array:
        """Local part at radii (nr,), Hartree."""


def coulomb_in_space(valence: int, width: float, radii: Array) -> Array:
    """Potential of a Gaussian charge of some width, bohr, at radii (nr,), Hartree."""
    from scipy.special import erf  # takes longer to load than all else that finds a table

    return -valence / radii * erf(radii / (math.sqrt(2) * width))

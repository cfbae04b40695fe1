"""Norm-conserving pseudopotentials of Goedecker, Teter and Hutter (GTH): analytic formulas.

Source of the formulas: Hartwigsen, Goedecker, Hutter, Phys. Rev. B 58, 3641 (1998), "HGH", and Goedecker, Teter,
Hutter, Phys. Rev. B 54, 1703 (1996); for the core density Willand et al., J. Chem. Phys. 138, 104109 (2013). The
convention of the Fourier transforms is that of `protocol`.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .cutoffs import listed_cutoff
from .ion_charge import gaussian_charge_potential
from .protocol import Array, RecommendedCutoff

# HGH eqs. (15)-(22): projector i of channel l is common(l) * q^l * r^l * factor * polynomial in t^2 = (q r)^2.
# (HGH print the 8 of the second s projector outside the root; the correct factor is 2/sqrt(15).)
_PROJECTORS: dict[tuple[int, int], tuple[float, tuple[float, ...]]] = {
    (0, 0): (1.0, (1.0,)),
    (0, 1): (2 / math.sqrt(15), (3.0, -1.0)),
    (0, 2): (4 / (3 * math.sqrt(105)), (15.0, -10.0, 1.0)),
    (1, 0): (1 / math.sqrt(3), (1.0,)),
    (1, 1): (2 / math.sqrt(105), (5.0, -1.0)),
    (1, 2): (4 / (3 * math.sqrt(1155)), (35.0, -14.0, 1.0)),
    (2, 0): (1 / math.sqrt(15), (1.0,)),
    (2, 1): (2 / (3 * math.sqrt(105)), (7.0, -1.0)),
    (3, 0): (1 / math.sqrt(105), (1.0,)),
}

# HGH eq. (6): the polynomials of the local part, P = sum_i c_i * p_i(t^2).
_LOCAL = ((1.0,), (3.0, -1.0), (15.0, -10.0, 1.0), (105.0, -105.0, 21.0, -1.0))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Evaluate sum_k coefficients[k] * x^k by Horner's scheme."""
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


@dataclass(frozen=True)
class Channel:
    """One angular momentum of the separable part: v = sum_ij |p_i> h_ij <p_j|.

    Attributes
    ----------
    l : int
        Angular momentum, 0 to 3.
    radius : float
        Radius of the Gaussians, bohr.
    h : tuple of tuple of float
        Symmetric matrix (n, n) of couplings, Hartree.
    """

    l: int  # noqa: E741  (the usual symbol)
    radius: float
    h: tuple[tuple[float, ...], ...]

    def projector(self, i: int, q2: Tensor) -> Tensor:
        """Compute the Fourier transform of radial projector `i` divided by q^l, a smooth function of q^2.

        Parameters
        ----------
        i : int
            Index of the projector, from 0.
        q2 : Tensor
            Squared wave vectors, bohr^-2, any shape.

        Returns
        -------
        Tensor
            Shaped as `q2`, bohr^(3/2 + l). HGH eqs. (15)-(22).
        """
        r, t2 = self.radius, q2 * self.radius**2
        factor, polynomial = _PROJECTORS[self.l, i]
        common = 4 * math.pi**1.25 * math.sqrt(2 ** (self.l + 1) * r**3)
        return common * factor * r**self.l * _polynomial(polynomial, t2) * torch.exp(-0.5 * t2)

    def in_space(self, i: int, radii: Array) -> Array:
        """Radial projector `i` at radii (nr,), bohr^(-3/2): HGH eq. (3)."""
        power = self.l + 2 * i + 1.5
        norm = math.sqrt(2 / math.gamma(power)) / self.radius**power
        return norm * radii ** (self.l + 2 * i) * np.exp(-0.5 * (radii / self.radius) ** 2)


@dataclass(frozen=True)
class GaussianCore:
    """Gaussian core density, c exp(-r^2 / 2 r_core^2): Willand et al. (2013).

    Attributes
    ----------
    radius : float
        r_core, bohr.
    height : float
        c, bohr^-3.
    """

    radius: float
    height: float

    def __call__(self, q2: Tensor) -> Tensor:
        """Fourier transform at squared wave numbers `q2` (any shape), bohr^-2, in electrons."""
        charge = self.height * (math.sqrt(2 * math.pi) * self.radius) ** 3
        return charge * torch.exp(-0.5 * q2 * self.radius**2)

    def in_space(self, radii: Array) -> Array:
        """Density at radii (nr,), bohr, in bohr^-3."""
        return self.height * np.exp(-0.5 * (radii / self.radius) ** 2)


@dataclass(frozen=True)
class GTH:
    """A Goedecker-Teter-Hutter pseudopotential, a hashable set of numbers.

    Attributes
    ----------
    symbol, number : str, int
        Element and its atomic number.
    valence : int
        Charge of the ion core, electrons.
    rloc : float
        Radius of the local part, bohr.
    cloc : tuple of float
        Up to four coefficients of the local part, Hartree.
    channels : tuple of Channel
        Separable part.
    configuration : tuple of int
        Numbers of valence electrons of the atom in s, p, d, f.
    functional : str
        Functional for which it was generated: "pbe", "pade" (LDA), ...
    name : str
        Name of the table, such as "gth-pbe-q4".
    core : GaussianCore or None
        Core density that is added to the density in the xc energy.
    core_tau, density : None
        GTH tables hold no kinetic energy density of the core and no valence density of the atom.
    """

    symbol: str
    number: int
    valence: int
    rloc: float
    cloc: tuple[float, ...]
    channels: tuple[Channel, ...]
    configuration: tuple[int, ...]
    functional: str
    name: str
    core: GaussianCore | None = None

    core_tau: ClassVar[None] = None
    density: ClassVar[None] = None

    @property
    def digest(self) -> str:
        """sha256 of the numbers, hexadecimal, independent of the name."""
        channels = [[c.l, c.radius, c.h] for c in self.channels]
        numbers: list[Any] = [self.number, self.valence, self.rloc, self.cloc, channels]
        if self.core is not None:
            numbers.append([self.core.radius, self.core.height])
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()

    @property
    def recommended_cutoff(self) -> RecommendedCutoff | None:
        """Cutoff in the shipped list, found by the name of the table; None if it is not listed."""
        return listed_cutoff(self.symbol, self.name)

    def short(self, q2: Tensor) -> Tensor:
        """Fourier transform of the local part less the potential of the Gaussian charge, Hartree bohr^3.

        Shaped as `q2`; the second term of HGH eq. (6).
        """
        r, t2 = self.rloc, q2 * self.rloc**2
        total = torch.zeros_like(q2)
        for c, polynomial in zip(self.cloc, _LOCAL):
            total = total + c * _polynomial(polynomial, t2)
        return math.sqrt(8 * math.pi**3) * r**3 * torch.exp(-0.5 * t2) * total

    def local_in_space(self, radii: Array) -> Array:
        """Local part at radii (nr,), Hartree: HGH eq. (1)."""
        x = radii / self.rloc
        short = np.exp(-0.5 * x**2) * sum(c * x ** (2 * i) for i, c in enumerate(self.cloc))
        return gaussian_charge_potential(self.valence, self.rloc, radii) + short

"""Norm-conserving pseudopotentials given as numbers on a radial mesh, as UPF and psp8 files hold them.

A radial function f(r) Y_lm has the Fourier transform (-i)^l F(q) q^l Y_lm(q/|q|),

    F(q) = 4 pi int r^2 f(r) j_l(qr) / q^l dr = 4 pi int r^(l+2) f(r) g_l(qr) dr,      g_l(z) = j_l(z) / z^l,

a smooth function of q^2. F and its first two derivatives by q^2 (dg_l(qr)/d(q^2) = -r^2/2 g_(l+1)(qr)) are integrated
at knots, polynomials of fifth degree in q^2 take them up in between. It is this interpolant, twice continuously
differentiable, that energies, forces and stress are made of; it differs from F by 1e-10 of the largest F or less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .protocol import Array, coulomb_in_space

# Radial functions end here, bohr. Beyond, the files hold the tails of the local potential's Coulomb part and of the
# density only, and those carry noise: for PseudoDojo's Cu, the mean of the local potential moves by 0.1 % from here to
# the end of its mesh, and with it the equilibrium volume by 2 %. psp8 files of PseudoDojo end at this very radius; pw.x
# ends at 10 bohr.
CUTOFF = 5.99
WIDTH = math.sqrt(0.5)  # bohr, of the Gaussian charge of every ion core: erf(r)/r
STEP = 0.04  # bohr^-1, between knots
BLOCK = 128  # knots are added by so many at a time


@dataclass(frozen=True, eq=False)
class Mesh:
    """Where radial functions are known.

    Attributes
    ----------
    radii : Array
        (nr,) bohr, rising.
    weights : Array
        (nr,) of an integral over r.
    """

    radii: Array
    weights: Array

    @classmethod
    def within_cutoff(cls, radii: Array, spacing: Array) -> "Mesh":
        """The mesh up to `CUTOFF`, with Simpson's weights.

        Parameters
        ----------
        radii : Array
            (n,) all radii of a file, bohr.
        spacing : Array
            (n,) dr/di, bohr.
        """
        count = int(np.searchsorted(radii, CUTOFF + 1e-9))
        weights = np.zeros(count)
        rest = 3 * (1 - count % 2)  # an even number of points ends with Simpson's 3/8 rule
        for start in range(0, count - 2 - rest, 2):
            weights[start : start + 3] += np.array([1, 4, 1]) / 3
        if rest:
            weights[-4:] += np.array([3, 9, 9, 3]) / 8
        return cls(radii[:count], weights * spacing[:count])


@dataclass(frozen=True, eq=False)
class Radial:
    """A radial function on a mesh; called with q^2, its Fourier transform divided by q^l.

    Attributes
    ----------
    l : int
        Angular momentum.
    mesh : Mesh
        Where it is known.
    values : Array
        (nr,) r f(r).
    """

    l: int  # noqa: E741  (the field's letter)
    mesh: Mesh
    values: Array
    _pieces: list[Tensor] = field(default_factory=list, repr=False)  # the polynomials, as far as they were needed

    def __call__(self, q2: Tensor) -> Tensor:
        """Fourier transform at squared wave numbers `q2` (any shape), bohr^-2, differentiable any number of times."""
        knots = (q2.detach().sqrt() / STEP).floor()
        pieces = self._polynomials(int(knots.max())).to(q2.device)
        t = (q2 / STEP**2 - knots.square()) / (2 * knots + 1)  # between (STEP n)^2 and (STEP (n + 1))^2
        coefficients = pieces[knots.long()].unbind(-1)
        value = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            value = value * t + c
        return value

    def in_space(self, radii: Array) -> Array:
        """f at radii (n,), bohr; zero beyond the mesh."""
        from scipy.interpolate import CubicSpline  # takes longer to load than all else that finds a table

        spline = CubicSpline(self.mesh.radii, self.values)
        return np.where(radii > self.mesh.radii[-1], 0.0, spline(radii) / radii)

    def _polynomials(self, interval: int) -> Tensor:
        """Coefficients (n, 6) in the intervals between knots, up to number `interval` at least."""
        if not self._pieces or len(self._pieces[-1]) <= interval:
            count = BLOCK * (interval // BLOCK + 1)
            self._pieces.append(torch.as_tensor(_hermite(self, count), dtype=torch.float64, device="cpu"))
        return self._pieces[-1]


def _hermite(function: Radial, count: int) -> Array:
    """Coefficients (count, 6) of the polynomials, in t from 0 to 1, that meet F, F' and F'' at both knots."""
    radii = function.mesh.radii
    q = STEP * np.arange(count + 1)
    x = q**2
    widths = np.diff(x)
    density = 4 * math.pi * function.mesh.weights * function.values * radii ** (function.l + 1)
    knots = [_reduced_bessel(function.l + n, q[:, None] * radii) @ (density * (-0.5 * radii**2) ** n) for n in range(3)]
    f0, f1 = knots[0][:-1], knots[0][1:]
    d0, d1 = knots[1][:-1] * widths, knots[1][1:] * widths
    s0, s1 = knots[2][:-1] * widths**2, knots[2][1:] * widths**2
    rise = f1 - f0
    return np.stack(
        (
            f0,
            d0,
            0.5 * s0,
            10 * rise - 6 * d0 - 4 * d1 - 1.5 * s0 + 0.5 * s1,
            -15 * rise + 8 * d0 + 7 * d1 + 1.5 * s0 - s1,
            6 * rise - 3 * (d0 + d1) - 0.5 * (s0 - s1),
        ),
        axis=-1,
    )


def _reduced_bessel(l: int, z: Array) -> Array:  # noqa: E741
    """g_l(z) = j_l(z) / z^l, by its series where z is small."""
    from scipy.special import spherical_jn  # as CubicSpline above

    small = z < 0.3
    inside, outside = np.where(small, z, 0.0), np.where(small, 1.0, z)
    term = np.full_like(z, 1 / math.prod(range(1, 2 * l + 2, 2)))  # 1 / (2l + 1)!!
    series = term.copy()
    for k in range(1, 6):
        term = term * (-0.5 * inside**2 / (k * (2 * l + 2 * k + 1)))
        series += term
    return np.where(small, series, spherical_jn(l, outside) / outside**l)


@dataclass(frozen=True, eq=False)
class TabulatedChannel:
    """One angular momentum of the separable part: v = sum_ij |p_i> h_ij <p_j|.

    Attributes
    ----------
    l : int
        Angular momentum, 0 to 3.
    functions : tuple of Radial
        The projectors, r f in bohr^(-1/2).
    h : tuple of tuple of float
        Symmetric matrix (n, n) of couplings, Hartree.
    """

    l: int  # noqa: E741
    functions: tuple[Radial, ...]
    h: tuple[tuple[float, ...], ...]

    def projector(self, i: int, q2: Tensor) -> Tensor:
        """Fourier transform of radial projector `i` divided by q^l, shaped as `q2`, bohr^(3/2 + l)."""
        return self.functions[i](q2)

    def in_space(self, i: int, radii: Array) -> Array:
        """Radial projector `i` at radii (nr,), bohr^(-3/2)."""
        return self.functions[i].in_space(radii)


@dataclass(frozen=True)
class Tabulated:
    """A norm-conserving pseudopotential on a radial mesh; two with the same digest are the same.

    Attributes
    ----------
    symbol, number : str, int
        Element and its atomic number.
    valence : int
        Charge of the ion core, electrons.
    configuration : tuple of int
        Valence electrons of the atom in s, p, d, f.
    channels : tuple of TabulatedChannel
        Separable part.
    remainder : Radial
        Local part less the potential of a Gaussian charge of `rloc`, Hartree.
    core : Radial or None
        Density of the core that the exchange-correlation energy sees, bohr^-3.
    density : Radial or None
        Density of the valence of the atom, bohr^-3, to start from.
    functional : str
        That it was made for, as families of tables are called ("pbe", "pade").
    ecut : float or None
        Cutoff that its file recommends, Hartree.
    digest : str
        sha256 of its numbers.
    name : str
        Where it was found.
    """

    symbol: str
    number: int
    valence: int
    configuration: tuple[int, ...] = field(compare=False)
    channels: Sequence[TabulatedChannel] = field(compare=False)
    remainder: Radial = field(compare=False)
    core: Radial | None = field(compare=False)
    density: Radial | None = field(compare=False)
    functional: str
    ecut: float | None
    digest: str
    name: str

    @property
    def rloc(self) -> float:
        """Width of the Gaussian charge, bohr."""
        return WIDTH

    def short(self, q2: Tensor) -> Tensor:
        """Fourier transform of `remainder`, Hartree bohr^3, shaped as `q2`."""
        return self.remainder(q2)

    def local_in_space(self, radii: Array) -> Array:
        """Local part at radii (nr,), Hartree; -Z/r beyond the mesh."""
        return coulomb_in_space(self.valence, self.rloc, radii) + self.remainder.in_space(radii)

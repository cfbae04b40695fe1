"""Radial functions on a mesh and their Fourier transforms, interpolated in q^2.

A radial function f(r) Y_lm has the Fourier transform (-i)^l F(q) q^l Y_lm(q/|q|),

    F(q) = 4 pi int r^2 f(r) j_l(qr) / q^l dr = 4 pi int r^(l+2) f(r) g_l(qr) dr,      g_l(z) = j_l(z) / z^l,

a smooth function of q^2. F and its first two derivatives with respect to q^2 (dg_l(qr)/d(q^2) = -r^2/2 g_(l+1)(qr)) are
integrated at knots and interpolated between them by polynomials of fifth degree in q^2. Energies, forces and stress
consistently use this interpolant, which is twice continuously differentiable. It differs from F by at most 1e-10 of the
largest F.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .protocol import Array

STEP = 0.04  # bohr^-1, between knots
BLOCK = 128  # number of knots that are added at a time
MINIMUM = 5  # points of a mesh, for Simpson's rules
SERIES = 3.0  # below this, Bessel functions are power series; above, upward recurrence loses few digits up to l = 6


@dataclass(frozen=True, eq=False)
class RadialMesh:
    """The points at which radial functions are known.

    Attributes
    ----------
    radii : Array
        (nr,) bohr, increasing.
    weights : Array
        (nr,) weights of an integral over r, bohr.
    """

    radii: Array
    weights: Array

    @classmethod
    def up_to(cls, end: float, radii: Array, spacing: Array) -> "RadialMesh":
        """Cut a mesh at a radius and give it the weights of Simpson's rule.

        Parameters
        ----------
        end : float
            Largest radius of the result, bohr.
        radii : Array
            (n,) all radii, bohr, increasing.
        spacing : Array
            (n,) dr/di, bohr.

        Raises
        ------
        ValueError
            If fewer than `MINIMUM` points are left.
        """
        count = int(np.searchsorted(radii, end + 1e-9))
        if count < MINIMUM:
            raise ValueError(f"only {count} radii are below {end} bohr, expected {MINIMUM} or more")
        weights = np.zeros(count)
        rest = 3 * (1 - count % 2)  # an even number of points ends with Simpson's 3/8 rule
        for start in range(0, count - 2 - rest, 2):
            weights[start : start + 3] += np.array([1, 4, 1]) / 3
        if rest:
            weights[-4:] += np.array([3, 9, 9, 3]) / 8
        return cls(radii[:count], weights * spacing[:count])


@dataclass(frozen=True, eq=False)
class TabulatedFunction:
    """A radial function on a mesh; calling it with q^2 gives its Fourier transform divided by q^l.

    Attributes
    ----------
    l : int
        Angular momentum.
    mesh : RadialMesh
        The points at which it is known. The function is zero beyond the last one.
    values : Array
        (nr,) r f(r).
    """

    l: int  # noqa: E741  (the usual symbol)
    mesh: RadialMesh
    values: Array
    _pieces: list[Tensor] = field(default_factory=list, repr=False)  # polynomials, as far as they have been needed

    def __call__(self, q2: Tensor) -> Tensor:
        """Fourier transform at squared wave numbers `q2` (any shape), bohr^-2, differentiable any number of times."""
        knots = (q2.detach().sqrt() / STEP).floor()
        pieces = self._polynomials(int(knots.max())).to(q2.device)
        t = (q2 / STEP**2 - knots.square()) / (2 * knots + 1)  # from 0 at (STEP n)^2 to 1 at (STEP (n + 1))^2
        coefficients = pieces[knots.long()].unbind(-1)
        value = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            value = value * t + c
        return value

    def in_space(self, radii: Array) -> Array:
        """Values f at radii (n,), bohr; zero beyond the mesh."""
        from scipy.interpolate import make_interp_spline  # loading scipy takes longer than finding a pseudopotential

        spline = make_interp_spline(self.mesh.radii, self.values, k=7)
        return np.where(radii > self.mesh.radii[-1], 0.0, spline(radii) / radii)

    def _polynomials(self, interval: int) -> Tensor:
        """Coefficients (n, 6) in the intervals between knots, at least up to index `interval`.

        They come in blocks of one size, so that their last digits do not depend on what has been needed before.
        """
        pieces = self._pieces[-1] if self._pieces else torch.zeros(0, 6, dtype=torch.float64, device="cpu")
        if len(pieces) <= interval:
            starts = range(len(pieces), interval + 1, BLOCK)
            blocks = [
                torch.as_tensor(_hermite(self, start, start + BLOCK), dtype=torch.float64, device="cpu")
                for start in starts
            ]
            pieces = torch.cat((pieces, *blocks))
            self._pieces.append(pieces)  # another thread may append a shorter one
        return pieces


def _hermite(function: TabulatedFunction, first: int, last: int) -> Array:
    """Coefficients (last - first, 6) of the polynomials, in t from 0 to 1, that have F, F' and F'' at both knots."""
    radii = function.mesh.radii
    q = STEP * np.arange(first, last + 1)
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
    """g_l(z) = j_l(z) / z^l by its power series where z is small, else by g_(l+1) = ((2l + 1) g_l - g_(l-1)) / z^2."""
    result, small = np.empty_like(z), z < SERIES
    square = -0.5 * z[small] ** 2
    term = np.full_like(square, 1 / math.prod(range(1, 2 * l + 2, 2)))  # 1 / (2l + 1)!!
    series = term.copy()
    for k in range(1, 17):
        term *= square / (k * (2 * l + 2 * k + 1))
        series += term
    result[small] = series
    x = z[~small]
    previous, last = np.cos(x), np.sin(x) / x  # g_-1 and g_0
    for n in range(l):
        previous, last = last, ((2 * n + 1) * last - previous) / x**2
    result[~small] = last
    return result

"""Spherical Bessel functions j_l(qr) inside a sphere: the basis of the pseudo functions."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import spherical_jn

from ...atoms.elements import Array

STEP = 0.02  # bohr^-1, of the search for roots
LARGEST = 60.0  # bohr^-1


def roots(function: Callable[[Array], Array], start: float = STEP, end: float = LARGEST) -> list[float]:
    """Return the simple roots q of a function of wave numbers between two bounds, bohr^-1."""
    grid = np.arange(start, end, STEP)
    values = function(grid)
    return [brentq(function, grid[i], grid[i + 1], xtol=1e-14) for i in np.nonzero(values[1:] * values[:-1] < 0)[0]]


def wave_numbers(l: int, radius: float, logarithmic_derivative: float, count: int) -> Array:  # noqa: E741
    """Return the wave numbers (count,) of the basis, bohr^-1.

    With Q_k the roots of  q j_l'(q r_c) / j_l(q r_c) = R'(r_c) / R(r_c),  they are Q_1/2, Q_1, (Q_1 + Q_2)/2, Q_2, Q_3
    ... All functions with Q_k alone have the same logarithmic derivative, and could not fulfil the other constraints.
    """

    def mismatch(q: Array) -> Array:
        z = q * radius
        return q * spherical_jn(l, z, True) - logarithmic_derivative * spherical_jn(l, z)

    first, second, *others = roots(mismatch)
    return np.array([first / 2, first, (first + second) / 2, second, *others])[:count]


def derivatives(l: int, q: Array, radius: float, count: int) -> Array:  # noqa: E741
    """Return j_l(qr) and its first `count` - 1 derivatives with respect to r, (nq, count), at one radius.

    The equation of j_l, z^2 f'' + 2z f' + (z^2 - L) f = 0, differentiated k times:

        z^2 f_(k+2) = -(2k + 2) z f_(k+1) - (z^2 - L + k (k + 1)) f_k - 2k z f_(k-1) - k (k - 1) f_(k-2)
    """
    z, L = q * radius, l * (l + 1)
    f = [spherical_jn(l, z), spherical_jn(l, z, True)]
    for k in range(count - 2):
        terms = (2 * k + 2) * z * f[k + 1] + (z**2 - L + k * (k + 1)) * f[k]
        if k > 0:
            terms += 2 * k * z * f[k - 1]
        if k > 1:
            terms += k * (k - 1) * f[k - 2]
        f.append(-terms / z**2)
    return np.stack([q**k * f[k] for k in range(count)], axis=1)


class BesselBasis:
    """Orthonormal combinations of spherical Bessel functions in a sphere, zero outside.

    Parameters
    ----------
    l : int
        Angular momentum.
    radius : float
        Radius r_c of the sphere, bohr.
    q : Array
        (n,) wave numbers, bohr^-1.
    r, weights : Array
        (nr,) points in the sphere and weights of an integral over r, for the overlap.
    """

    def __init__(self, l: int, radius: float, q: Array, r: Array, weights: Array) -> None:  # noqa: E741
        self.l, self.radius, self.q = l, radius, q
        waves = spherical_jn(l, np.multiply.outer(q, r))
        values, vectors = np.linalg.eigh((waves * (weights * r**2)) @ waves.T)
        self.transformation = (vectors / np.sqrt(values)).T
        """Matrix (n, n): each row is a function of the basis as coefficients of j_l(qr)."""

    def values(self, r: Array) -> Array:
        """Values (n, nr) at radii (nr,) in the sphere."""
        return self.transformation @ spherical_jn(self.l, np.multiply.outer(self.q, r))

    def slopes(self, r: Array) -> Array:
        """Derivatives (n, nr) at radii (nr,) in the sphere."""
        return self.transformation @ (self.q[:, None] * spherical_jn(self.l, np.multiply.outer(self.q, r), True))

    def kinetic(self, r: Array) -> Array:
        """-1/2 the Laplacian of each function of the basis (n, nr) at radii (nr,) in the sphere: q^2/2 of each wave."""
        return (self.transformation * (0.5 * self.q**2)) @ spherical_jn(self.l, np.multiply.outer(self.q, r))

    def derivatives(self, count: int) -> Array:
        """Values and first `count` - 1 derivatives (n, count) at r_c."""
        return self.transformation @ derivatives(self.l, self.q, self.radius, max(count, 2))[:, :count]

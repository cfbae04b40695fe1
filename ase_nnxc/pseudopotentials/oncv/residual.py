"""The residual kinetic energy of pseudo functions, and its minimum on a sphere.

With F(q) = int r^2 j_l(qr) phi(r) dr, the kinetic energy beyond the wave number q_c is

    E^r = (1/pi) int_qc^inf q^4 F^2 dq = T - (1/pi) int_0^qc q^4 F^2 dq,      T = 1/2 int (r^2 phi'^2 + L phi^2) dr.

A pseudo function is a combination z of the basis inside r_c, and a given function outside, so E^r is a quadratic form
E^r = z M z - 2 m z + k. A. M. Rappe et al., Phys. Rev. B 41, 1227 (1990); D. R. Hamann, Phys. Rev. B 88, 085117 (2013).
"""

import numpy as np
from numpy.polynomial import legendre
from scipy.optimize import brentq
from scipy.special import spherical_jn

from ...atoms.elements import Array
from .bessel import BesselBasis
from .smooth import SmoothElements

PANEL = 0.5  # bohr^-1, length of the intervals of an integral over q
POINTS = 8  # in each
MARGIN = 10  # intervals beyond q_c
CRITERION = 1e-4  # Hartree, of the residual energy that defines a cutoff


class ResidualEnergy:
    """The residual energy of functions of one channel.

    Parameters
    ----------
    basis : BesselBasis
        Functions inside r_c.
    smooth : SmoothElements
        Elements of the functions outside.
    tails : Array
        (n, N) all-electron functions, of which the part beyond r_c is used.
    cutoff : float
        Wave number q_c, bohr^-1.
    """

    def __init__(self, basis: BesselBasis, smooth: SmoothElements, tails: Array, cutoff: float) -> None:
        l, number = basis.l, smooth.edge(basis.radius)  # noqa: E741
        inside = max(int(np.ceil(cutoff / PANEL)), 1)  # number of intervals up to q_c
        q, weights, self._ends = _wave_number_points(cutoff, inside)
        self._weights = weights * q**4 / np.pi
        radii, lengths = smooth.gauss_points()
        # T and F(q) of the basis, up to r_c, and of the tails
        points = radii[:number].ravel(), lengths[:number].ravel()
        values, slopes = basis.values(points[0]), basis.slopes(points[0])
        self._transforms = _transforms(l, q, values, *points)
        self._kinetic = _kinetic(l, values, slopes, *points)
        points = radii[number:].ravel(), lengths[number:].ravel()
        values = np.array([smooth.at_gauss_points(f)[number:].ravel() for f in tails])
        slopes = np.array([smooth.slopes_at_gauss_points(f)[number:].ravel() for f in tails])
        self._tail_transforms = _transforms(l, q, values, *points)
        self._tail_kinetic = np.diag(_kinetic(l, values, slopes, *points))
        # M, m and k: what is below q_c is taken off T
        count = inside * POINTS
        inner, tail = self._transforms[:, :count], self._tail_transforms[:, :count]
        below = self._weights[:count]
        self.matrix = self._kinetic - (inner * below) @ inner.T
        """M (nb, nb)."""
        self.vectors = (tail * below) @ inner.T
        """m (n, nb) of each function."""
        self._constants = self._tail_kinetic - tail**2 @ below

    def of(self, i: int, z: Array) -> float:
        """Return the residual energy of function `i` with coefficients z (nb,), Hartree."""
        return float(z @ self.matrix @ z - 2 * self.vectors[i] @ z + self._constants[i])

    def plane_wave_cutoff(self, i: int, z: Array) -> float:
        """Return the plane-wave cutoff, Hartree, at which the residual energy of function `i` is 1e-4 Ha."""
        transform = z @ self._transforms + self._tail_transforms[i]
        panels = (self._weights * transform**2).reshape(-1, POINTS).sum(1)
        residual = z @ self._kinetic @ z + self._tail_kinetic[i] - np.cumsum(panels)
        below = int(np.argmax(residual < CRITERION)) if (residual < CRITERION).any() else len(residual) - 1
        if below == 0:
            return float(0.5 * self._ends[0] ** 2)
        # between two wave numbers the logarithm is linear
        logs = np.log(np.maximum(residual[below - 1 : below + 1], 1e-12))
        share = np.clip((logs[0] - np.log(CRITERION)) / (logs[0] - logs[1]), 0, 1)
        return float(0.5 * (self._ends[below - 1] + share * (self._ends[below] - self._ends[below - 1])) ** 2)


def _transforms(l: int, q: Array, values: Array, r: Array, weights: Array) -> Array:  # noqa: E741
    """F(q) (n, nq) of functions (n, nr) on points r (nr,)."""
    return (values * (weights * r**2)) @ spherical_jn(l, np.multiply.outer(r, q))


def _kinetic(l: int, values: Array, slopes: Array, r: Array, weights: Array) -> Array:  # noqa: E741
    """T (n, n) between functions (n, nr) on points r (nr,)."""
    return 0.5 * ((slopes * (weights * r**2)) @ slopes.T + l * (l + 1) * (values * weights) @ values.T)


def _wave_number_points(cutoff: float, inside: int) -> tuple[Array, Array, Array]:
    """Gauss points and weights of integrals over q, and the ends of the intervals, of which `inside` are below q_c."""
    edges = np.concatenate((np.linspace(0, cutoff, inside + 1), cutoff + PANEL * np.arange(1, MARGIN + 1)))
    points, weights = legendre.leggauss(POINTS)
    halves = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + halves * (1 + points)).ravel(), (halves * weights).ravel(), edges[1:]


def minima_on_sphere(matrix: Array, vector: Array, norm2: float) -> list[Array]:
    """Return up to two stationary points x of x A x + 2 b x with |x|^2 given: the minimum, and the next branch.

    In the eigenvectors of A, with eigenvalues e_1 < e_2 < ... and components f of b, a stationary point fulfils
    x_k = -f_k / (e_k - mu). With t = |x_1|, e_1 - mu = |f_1| / t at the minimum, where x_1 has the sign opposite to
    f_1. On the next branch x_1 has the sign of f_1 and e_1 - mu = -|f_1| / t. Both are equally good where f_1 = 0.
    See the erratum of Hamann's paper, Phys. Rev. B 95, 239906 (2017).
    """
    e, vectors = np.linalg.eigh(matrix)
    f = vectors.T @ vector
    largest = np.sqrt(norm2)

    def others(t: float, sign: float) -> Array:
        return -f[1:] / (e[1:] - e[0] + sign * np.abs(f[0]) / t)

    def excess(t: float, sign: float) -> float:
        return t**2 + (others(t, sign) ** 2).sum() - norm2

    def point(t: float, sign: float) -> Array:
        return vectors @ np.concatenate(([-sign * np.sign(f[0]) * t], others(t, sign)))

    points = []
    if excess(largest, 1) > 0:
        points.append(point(brentq(excess, 1e-14 * largest, largest, args=(1,), xtol=1e-16), 1))
    else:
        points.append(point(largest, 1))
    if len(e) > 1:
        smallest = max(1.0001 * np.abs(f[0]) / (e[1] - e[0]), 1e-6 * largest)  # t where mu reaches e_2
        grid = np.linspace(largest, smallest, 400) if smallest < largest else np.array([largest])
        values = np.array([excess(t, -1) for t in grid])
        crossings = np.nonzero(values[1:] * values[:-1] < 0)[0]
        if len(crossings):
            i = crossings[0]
            points.append(point(brentq(excess, grid[i + 1], grid[i], args=(-1,), xtol=1e-16), -1))
    return points

"""Spectral elements: functions of the radius as polynomials between the edges of intervals.

On each interval, an element, a function is the polynomial of order p through p + 1 Gauss-Lobatto points, of which the
first and the last are the edges. It is continuous, its slope jumps at the edges by the small error of the polynomials.
The nodes are quadrature points as well, exact for polynomials of degree 2p - 1, so that integrals of products are sums
over nodes and the overlap of the basis is diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Array = NDArray[np.float64]
ORDER = 16
"""Order p of the polynomials."""
LARGEST_RADIUS = 40.0
"""Last edge of an atom, bohr."""


@cache
def _gauss_lobatto(order: int) -> tuple[Array, Array, Array]:
    """Nodes, weights, and the matrix D[i, j] = L_j'(x_i) of the Lagrange polynomials L_j, on [-1, 1].

    The inner nodes are the zeros of P_p'(x); w_i = 2 / (p (p + 1) P_p(x_i)^2).
    """
    polynomial = legendre.Legendre.basis(order)
    slope, curvature = polynomial.deriv(1), polynomial.deriv(2)
    inner = np.sort(slope.roots().real)
    for _ in range(3):  # Newton: the roots of a companion matrix are good for ten digits
        inner -= slope(inner) / curvature(inner)
    nodes = np.concatenate(([-1.0], inner, [1.0]))
    values = polynomial(nodes)
    differences = nodes[:, None] - nodes + np.eye(order + 1)
    matrix = values[:, None] / values / differences
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(1))  # the derivative of a constant is zero
    return nodes, 2 / (order * (order + 1) * values**2), matrix


@cache
def _interpolation(order: int, count: int) -> tuple[Array, Array, Array]:
    """Gauss-Legendre points and weights (count,) on [-1, 1], and values (count, order + 1) of the polynomials there."""
    points, weights = legendre.leggauss(count)
    return points, weights, _lagrange(order, points)


def _lagrange(order: int, x: Array) -> Array:
    """Values (n, order + 1) of the Lagrange polynomials at points x (n,) on [-1, 1]."""
    nodes, _, _ = _gauss_lobatto(order)
    barycentric = 1 / np.prod(nodes[:, None] - nodes + np.eye(order + 1), axis=1)
    distances = x[:, None] - nodes
    distances[np.abs(distances) < 1e-15] = 1e-15  # at a node the other terms vanish beside that of the node
    terms = barycentric / distances
    return terms / terms.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Elements:
    """Spectral elements between edges. Functions are arrays (N,) of their values on the nodes, N = elements * p + 1.

    Attributes
    ----------
    edges : Array
        (elements + 1,) radii, bohr, increasing from zero.
    order : int
        Order p of the polynomials.
    """

    edges: Array
    order: int = ORDER

    @cached_property
    def _halves(self) -> Array:
        """Half lengths of the elements (elements, 1)."""
        return 0.5 * np.diff(self.edges)[:, None]

    @cached_property
    def _index(self) -> NDArray[np.intp]:
        """Numbers (elements, p + 1) of the nodes of each element."""
        return np.arange(len(self.edges) - 1)[:, None] * self.order + np.arange(self.order + 1)

    @cached_property
    def radii(self) -> Array:
        """Radii (N,) of the nodes, bohr."""
        nodes, _, _ = _gauss_lobatto(self.order)
        radii = np.empty(self._index[-1, -1] + 1)
        radii[self._index] = self.edges[:-1, None] + self._halves * (1 + nodes)
        radii[:: self.order] = self.edges
        return radii

    @cached_property
    def weights(self) -> Array:
        """Weights (N,) of an integral over r, bohr."""
        return self.weights_up_to(self.edges[-1])

    def weights_up_to(self, end: float) -> Array:
        """Weights (N,) of an integral over r up to an edge, bohr."""
        _, weights, _ = _gauss_lobatto(self.order)
        result = np.zeros(len(self.radii))
        inside = self._index[: self.edge(end)]
        np.add.at(result, inside, self._halves[: len(inside)] * weights)
        return result

    def edge(self, radius: float) -> int:
        """Return the number of an edge by its radius, bohr; that of its node is `order` times this."""
        number = int(np.argmin(np.abs(self.edges - radius)))
        if abs(self.edges[number] - radius) > 1e-9:
            raise ValueError(f"{radius} bohr is not an edge of the elements")
        return number

    def by_element(self, function: Array) -> Array:
        """Values (elements, p + 1) of a function on the nodes of each element."""
        return function[self._index]

    def slopes(self, function: Array) -> Array:
        """Derivative (elements, p + 1) of a function within each element."""
        _, _, matrix = _gauss_lobatto(self.order)
        return self.by_element(function) @ matrix.T / self._halves

    def derivative(self, function: Array) -> Array:
        """Derivative (N,) of a function, at the edges the mean of both sides."""
        slopes = self.slopes(function)
        result = np.empty(len(self.radii))
        result[self._index] = slopes
        inner = slice(self.order, -self.order, self.order)
        result[inner] = 0.5 * (slopes[1:, 0] + slopes[:-1, -1])
        return result

    def derivatives_at(self, function: Array, radius: float, count: int) -> Array:
        """Value and the first `count` - 1 derivatives of a function at an inner edge, the mean of both sides."""
        _, _, matrix = _gauss_lobatto(self.order)
        number = self.edge(radius)
        sides = self.by_element(function)[number - 1 : number + 1]
        values = []
        for _ in range(count):
            values.append(0.5 * (sides[0, -1] + sides[1, 0]))
            sides = sides @ matrix.T / self._halves[number - 1 : number + 1]
        return np.array(values)

    def integral_of_slopes(self, factor: Array, function: Array) -> float:
        """Compute int factor (df/dr)^2 dr."""
        _, weights, _ = _gauss_lobatto(self.order)
        return float((self._halves * weights * self.by_element(factor) * self.slopes(function) ** 2).sum())

    def at(self, function: Array, radii: Array) -> Array:
        """Values (n,) of a function at any radii (n,) up to the last edge, bohr."""
        number = np.clip(np.searchsorted(self.edges, radii) - 1, 0, len(self.edges) - 2)
        x = (radii - self.edges[number]) / self._halves[number, 0] - 1
        return (_lagrange(self.order, x) * self.by_element(function)[number]).sum(1)

    def gauss_points(self, count: int = 32) -> tuple[Array, Array]:
        """Radii and weights (elements, count) of Gauss points, for integrals with functions that oscillate."""
        points, weights, _ = _interpolation(self.order, count)
        return self.edges[:-1, None] + self._halves * (1 + points), self._halves * weights

    def at_gauss_points(self, function: Array, count: int = 32) -> Array:
        """Values (elements, count) of a function on the points of `gauss_points`."""
        return self.by_element(function) @ _interpolation(self.order, count)[2].T

    def slopes_at_gauss_points(self, function: Array, count: int = 32) -> Array:
        """Derivative (elements, count) of a function on the points of `gauss_points`."""
        return self.slopes(function) @ _interpolation(self.order, count)[2].T

    def band(self, stiffness: Array, diagonal: Array) -> Array:
        """Matrix int stiffness L_i' L_j' dr + diagonal_i delta_ij, in the band form of `scipy.linalg.solve_banded`.

        Parameters
        ----------
        stiffness : Array
            (N,) factor of the slopes.
        diagonal : Array
            (N,) diagonal terms, with the weights of the integral.

        Returns
        -------
        Array
            (2p + 1, N): element [p + i - j, j] is that of row i and column j.
        """
        _, weights, matrix = _gauss_lobatto(self.order)
        factor = weights * self.by_element(stiffness) / self._halves  # one 1/h of each slope, h of the integral
        blocks = (matrix.T * factor[:, None, :]) @ matrix
        corners = blocks[1:, 0, 0] + blocks[:-1, -1, -1]  # the only entries to which two elements contribute
        blocks[1:, 0, 0] = blocks[:-1, -1, -1] = corners
        result = np.zeros((2 * self.order + 1, len(self.radii)))
        rows, columns = self._index[:, :, None], self._index[:, None, :]
        result[self.order + rows - columns, columns] = blocks
        result[self.order] += diagonal
        return result


def fix_last(band: Array) -> Array:
    """Replace the last row of a band matrix by that of the identity, in place: the last value is given."""
    order = len(band) // 2
    k = np.arange(order + 1)
    band[2 * order - k, band.shape[1] - 1 - order + k] = 0
    band[order, -1] = 1
    return band


def atomic_edges(number: int, edges: Sequence[float] = ()) -> Array:
    """Return the edges of elements for an atom.

    They start with 1e-4 / Z^1.5, grow by a factor of 2.2 up to 0.35 bohr, by steps of 0.4 up to 5 bohr, and then by a
    factor of 1.35 (at most 3 bohr) up to 40 bohr.

    Parameters
    ----------
    number : int
        Atomic number Z.
    edges : sequence of float
        Radii that must be edges, bohr; no other edge lies within 0.2 bohr (or a quarter of the radius) of one.
    """
    steps = [0.0, 1e-4 / number**1.5]
    while steps[-1] < 0.35:
        steps.append(min(2.2 * steps[-1], steps[-1] + 0.3))
    while steps[-1] < 5:
        steps.append(steps[-1] + 0.4)
    while steps[-1] < LARGEST_RADIUS:
        steps.append(min(1.35 * steps[-1], steps[-1] + 3))
    steps[-1] = LARGEST_RADIUS
    result = np.array([x for x in steps if all(abs(x - edge) >= min(0.2, 0.25 * edge) for edge in edges)])
    result = np.sort(np.concatenate((result, edges)))
    long = (np.diff(result) > 0.45) & (result[1:] < 6)  # where an edge was left out
    return np.sort(np.concatenate((result, 0.5 * (result[:-1] + result[1:])[long])))

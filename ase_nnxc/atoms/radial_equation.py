"""The scalar-relativistic radial equation of Koelling and Harmon, in its weak form on spectral elements.

For the large component R of a function R(r) Y_lm at energy E in a potential V, with L = l (l + 1) and
M = 1 + (E - V) / 2c^2,

    int [ r^2/(2M) R' S' + L/(2M) R S + r^2 V R S ] dr = E int r^2 R S dr       for all S,      int r^2 R^2 dr = 1.

No derivative of V occurs. D. D. Koelling and B. N. Harmon, J. Phys. C 10, 3107 (1977), without spin-orbit coupling; the
small component is left out of the density, as in D. R. Hamann, Phys. Rev. B 88, 085117 (2013). With M = 1 it is the
Schroedinger equation. The potential is V = -Z/r + v, where v is finite at r = 0 or has a weaker singularity.

A functional of the kinetic energy density adds the operator -1/2 div v_tau grad: 1/M becomes 1/M + v_tau.
"""

from typing import NamedTuple

import numpy as np

from .elements import Array, Elements, fix_last

LIGHT = 137.036
"""Velocity of light in atomic units, as in Hamann's program."""
PRECISION = 1e-12
"""Relative precision of eigenvalues."""


class State(NamedTuple):
    """A radial function and its energy.

    Attributes
    ----------
    energy : float
        Hartree.
    values : Array
        (N,) R on the nodes, bohr^(-3/2).
    """

    energy: float
    values: Array


class RadialEquation:
    """The radial equation of a nucleus on given elements.

    Parameters
    ----------
    elements : Elements
        Where functions are represented.
    charge : float
        Charge Z of the point nucleus; zero for a potential without one.
    relativistic : bool
        Whether the mass depends on the energy; Z must not be zero then.
    v_tau : Array or float
        (N,) derivative of the exchange-correlation energy with respect to the kinetic energy density.
    """

    def __init__(self, elements: Elements, charge: float, relativistic: bool, v_tau: Array | float = 0.0) -> None:
        self.elements, self.charge, self.relativistic, self.v_tau = elements, charge, relativistic, v_tau
        self.overlap = elements.weights * elements.radii**2
        """Weights (N,) of int r^2 f g dr."""

    def inverse_mass(self, v: Array, energy: float) -> Array:
        """Return 1/M (N,) = 2c^2 r / (2c^2 r + E r + Z - r v), which is regular at r = 0."""
        r = self.elements.radii
        if not self.relativistic:
            return np.ones(len(r))
        numerator = 2 * LIGHT**2 * r
        return numerator / (numerator + energy * r + self.charge - r * v)

    def matrix(self, l: int, v: Array, energy: float) -> Array:  # noqa: E741
        """Return the band matrix of H - E, with M at the same energy."""
        r, weights = self.elements.radii, self.elements.weights
        inverse = self.inverse_mass(v, energy) + self.v_tau
        diagonal = weights * (0.5 * l * (l + 1) * inverse - self.charge * r + r**2 * (v - energy))
        return self.elements.band(0.5 * r**2 * inverse, diagonal)

    def expectation(self, l: int, v: Array, energy: float, values: Array) -> tuple[float, float]:  # noqa: E741
        """Return the expectation value of H with M at an energy, and its derivative with respect to that energy.

        d<H>/dE = -(1/4c^2) int (r^2 R'^2 + L R^2) / M^2 dr
        """
        r, weights = self.elements.radii, self.elements.weights
        inverse = self.inverse_mass(v, energy)
        potential = weights @ ((r**2 * v - self.charge * r) * values**2)
        slope = -self._kinetic(l, inverse**2, values) / (2 * LIGHT**2) if self.relativistic else 0.0
        return float(self._kinetic(l, inverse + self.v_tau, values) + potential), slope

    def _kinetic(self, l: int, factor: Array, values: Array) -> float:  # noqa: E741
        """Compute 1/2 int factor (r^2 R'^2 + L R^2) dr."""
        elements = self.elements
        radial = elements.integral_of_slopes(factor * elements.radii**2, values)
        return 0.5 * (radial + l * (l + 1) * float(elements.weights @ (factor * values**2)))

    def improved_energy(self, l: int, v: Array, state: State) -> float:  # noqa: E741
        """Return a better energy of an approximate state.

        It solves <H>(E) = E to first order: E + (<H> - E) / (1 - d<H>/dE).
        """
        value, slope = self.expectation(l, v, state.energy, state.values)
        return state.energy + (value - state.energy) / (1 - slope)

    def refine(self, l: int, v: Array, state: State, steps: int = 30) -> State:  # noqa: E741
        """Return the state nearest to an approximate one, by inverse iteration."""
        state = State(self.improved_energy(l, v, state), self._normalized(state.values))
        for _ in range(steps):
            values = self._inverse_iteration(l, v, state.energy, state.values)
            energy = self.improved_energy(l, v, State(state.energy, values))
            change, state = abs(energy - state.energy), State(energy, values)
            if change < PRECISION * max(1, abs(energy)):
                break
        return state

    def _inverse_iteration(self, l: int, v: Array, energy: float, values: Array) -> Array:  # noqa: E741
        """Return (H - E)^-1 R, normalized and of the same sign, with R = 0 at the last node."""
        from scipy.linalg import solve_banded

        order = self.elements.order
        right = self.overlap * values
        right[-1] = 0
        band = fix_last(self.matrix(l, v, energy - 1e-9 * abs(energy) - 1e-12))  # never exactly singular
        result = self._normalized(solve_banded((order, order), band, right, overwrite_ab=True, check_finite=False))
        return result if right @ result > 0 else -result

    def _normalized(self, values: Array) -> Array:
        return values / np.sqrt(self.overlap @ values**2)

    def bound_state(self, l: int, v: Array, nodes: int, guess: State | None = None) -> State:  # noqa: E741
        """Return the state with a number of nodes that is zero at the last edge, from a guess if it leads there."""
        if guess is not None:
            state = self.refine(l, v, guess)
            if self.count_nodes(state.values) == nodes:
                return state
        energy = self._isolate(l, v, nodes)
        decay = np.sqrt(max(0, -2 * energy)) / (nodes + l + 1)
        values = np.exp(-decay * self.elements.radii)  # as large as the classically allowed region
        for _ in range(4):  # inverse iteration at a fixed energy finds the function
            values = self._inverse_iteration(l, v, energy, values)
        return self.refine(l, v, State(energy, values))

    def _isolate(self, l: int, v: Array, nodes: int) -> float:  # noqa: E741
        """Return an energy within 2 % of that of the state with a number of nodes, by bisection."""
        low, high = -max(1.0, self.charge**2), -1e-4
        while self.levels_below(l, v, high, nodes + l + 1) <= nodes:  # not bound
            high = 0.01 if high < 0 else 2 * high
        if high > 0:
            low = -1e-4 if high == 0.01 else high / 2
        while high - low > 0.02 * max(abs(high), 1e-3):
            middle = -np.sqrt(low * high) if high < 0 else 0.5 * (low + high)
            if self.levels_below(l, v, middle, nodes + l + 1) > nodes:
                high = middle
            else:
                low = middle
        return 0.5 * (low + high)

    def levels_below(self, l: int, v: Array, energy: float, n: int = 0) -> int:  # noqa: E741
        """Return the number of levels below an energy: the nodes of the regular solution.

        They are counted up to where a state with principal quantum number `n` at this energy has decayed: with
        k = sqrt(-2E), 2n/k is about its classical turning point. The last edge is the end at the latest.
        """
        edges = self.elements.edges
        end = (2 * n + 15) / np.sqrt(-2 * energy) if energy < 0 else edges[-1]
        end = edges[min(int(np.searchsorted(edges, end)), len(edges) - 1)]
        return self.nodes_of_solution(l, v, energy, end)

    def nodes_of_solution(self, l: int, v: Array, energy: float, end: float) -> int:  # noqa: E741
        """Return the number of nodes of the regular solution up to an edge, the levels below the energy in this box.

        They lie where V + L/2r^2 < E, and at most one between there and the end; near the nucleus there are none. There
        a weakly singular function and elsewhere one that grows exponentially have noise, which does not count.
        """
        values = self.regular_solution(l, v, energy, end)
        r, v = self.elements.radii[1 : len(values)], v[1 : len(values)]
        allowed = (v - self.charge / r + 0.5 * l * (l + 1) / r**2 < energy) & (r > 0.1 / self.charge)
        return sign_changes(np.append(values[1:][allowed], values[-1]))

    def count_nodes(self, values: Array) -> int:
        """Return the number of nodes of a bound state, without those of rounding errors in its tails."""
        amplitude = np.abs(values) * self.elements.radii
        return sign_changes(values[amplitude > 1e-6 * amplitude.max()])

    def regular_solution(self, l: int, v: Array, energy: float, end: float) -> Array:  # noqa: E741
        """Return the solution (n,) that is regular at r = 0, up to an edge at `end` bohr, where it is one."""
        from scipy.linalg import solve_banded

        order = self.elements.order
        size = self.elements.edge(end) * order + 1
        right = np.zeros(size)
        right[-1] = 1
        band = fix_last(self.matrix(l, v, energy)[:, :size].copy())
        return solve_banded((order, order), band, right, overwrite_ab=True, check_finite=False)


def sign_changes(values: Array) -> int:
    """Return how often a function on nodes changes its sign."""
    signs = np.sign(values)
    return int((signs[1:] != signs[:-1]).sum())


def coulomb_potential(elements: Elements, density: Array) -> Array:
    """Compute the electrostatic potential (N,) of a spherical density (N,), Hartree.

    int r^2 v' s' dr = 4 pi int r^2 n s dr for all s, and v = N/r at the last node.
    """
    from scipy.linalg import solve_banded

    r, order = elements.radii, elements.order
    right = 4 * np.pi * elements.weights * r**2 * density
    right[-1] = right.sum() / r[-1]
    band = fix_last(elements.band(r**2, np.zeros(len(r))))
    return solve_banded((order, order), band, right, overwrite_ab=True, check_finite=False)

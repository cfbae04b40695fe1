"""The core of the atom beyond a radius, smooth inside: density and kinetic energy density, for functionals of tau.

Such a functional compares the kinetic energy density with the density on each point. Where the valence is, both must
therefore be those of all electrons, with the tails of the core: a model of the density (`model_core`) changes v_tau
beyond the radii of the projectors, and with it the levels. Such cores were introduced for the density by S. G. Louie,
S. Froyen and M. L. Cohen, Phys. Rev. B 26, 1738 (1982). With real functions u and w,

    n_core = u^2,    tau_core = u'^2 / 2 + w^2,

of which the first term is von Weizsaecker's: tau_core is not below it on any point. Inside the radius R u and w are
even polynomials of r, whose values and first three derivatives are continuous. Where the inputs give a height, u has a
further term (u_0 - u(0)) (1 - r^2/R^2)^4 with it. C, N, O and F need it, and Cr, Mn, Fe, Co and Ni: the core has no p
shell, or no d shell, so that the 2p or 3d functions have no nodes and are large close to the nucleus. The density of
the pseudised ones lies farther outside, where there is less core, and spin polarisation lowers the energy of the atom
too much. More core there corrects this.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import Polynomial

from ...atoms import Elements
from ...atoms.elements import Array
from .inputs import PartialCoreInputs

HIGHEST = 0.05
"""The radius of a partial core is `scale` times that where core and valence densities are equal, or that where the
density of the core falls to HIGHEST, bohr^-3, if this is larger, but at most the largest radius of the pseudopotential.

Without HIGHEST, and with a scale of 0.9, the grid of MgO has an error of 35 meV.
"""
LONGEST = 0.4
"""Length of an element inside the radius, bohr: 17 nodes resolve waves of up to 60 bohr^-1."""
CONTINUOUS = 4
"""Number of derivatives at the radius, the value included, that are continuous."""
NEGLIGIBLE = 1e-13
"""Density where the core ends, bohr^-3."""
ONE_ORBITAL = 1e-3
"""Share of w^2 in tau_core at the radius below which the core is one orbital, and w is noise."""


@dataclass(frozen=True, eq=False)
class PartialCore:
    """The core of an atom beyond a radius.

    Attributes
    ----------
    source : Elements
        Elements of the atom.
    core, tau : Array
        (N,) density of the atom's core, bohr^-3, and its kinetic energy density, Hartree bohr^-3.
    radius : float
        Radius beyond which they are kept, bohr.
    u, w : Polynomial
        Polynomials in r^2 that replace them inside.
    """

    source: Elements
    core: Array
    tau: Array
    radius: float
    u: Polynomial
    w: Polynomial

    @cached_property
    def end(self) -> float:
        """Radius beyond which the density is zero, bohr."""
        return max(float(self.source.radii[self.core > NEGLIGIBLE].max()), 1.5 * self.radius)

    def density(self, r: Array) -> Array:
        """Density at radii (nr,), bohr^-3."""
        return self._join(r, self.u(r**2) ** 2, self.core)

    def kinetic_energy_density(self, r: Array) -> Array:
        """Kinetic energy density at radii (nr,), Hartree bohr^-3."""
        slope = 2 * r * self.u.deriv()(r**2)
        return self._join(r, 0.5 * slope**2 + self.w(r**2) ** 2, self.tau)

    def _join(self, r: Array, inside: Array, function: Array) -> Array:
        """A function of the atom (N,) at radii (nr,), with other values (nr,) inside."""
        return np.where(r < self.radius, inside, np.where(r < self.end, self.source.at(function, r), 0.0))

    @property
    def elements(self) -> Elements:
        """Elements that end where the density does, short enough for the waves of the finest grids."""
        edges = self.source.edges
        between = edges[(edges > 1.1 * self.radius) & (edges < 0.95 * self.end)]
        inside = np.linspace(0.0, self.radius, 1 + math.ceil(self.radius / LONGEST))
        return Elements(np.array([*inside, *between, self.end]))


def make_partial_core(
    inputs: PartialCoreInputs, elements: Elements, core: Array, tau: Array, equal: float, longest: float
) -> PartialCore:
    """Return the partial core of an atom.

    Parameters
    ----------
    inputs : PartialCoreInputs
        Scale and height.
    elements : Elements
        Elements of the atom.
    core, tau : Array
        (N,) density of the core, bohr^-3, and its kinetic energy density, Hartree bohr^-3.
    equal : float
        Radius where the densities of core and valence are equal, bohr.
    longest : float
        Largest radius beyond which both may be kept, bohr.
    """
    radius = min(max(inputs.scale * equal, float(elements.radii[core > HIGHEST].max())), longest)
    u = np.sqrt(core)
    u_inside = _inside(elements, u, radius)
    if inputs.height is not None:
        top = np.sqrt(inputs.height * elements.at(core, np.array([equal]))[0])
        u_inside += (top - u_inside(0.0)) * Polynomial([1.0, -1 / radius**2]) ** CONTINUOUS
    excess = np.maximum(tau - 0.5 * elements.derivative(u) ** 2, 0.0)
    share = elements.at(excess, np.array([radius]))[0] / elements.at(tau, np.array([radius]))[0]
    w = _inside(elements, np.sqrt(excess), radius) if share > ONE_ORBITAL else Polynomial([0.0])
    return PartialCore(elements, core, tau, radius, u_inside, w)


def _inside(elements: Elements, function: Array, radius: float) -> Polynomial:
    """The polynomial in r^2 that continues a function (N,) of the atom inside a radius."""
    derivatives = [function]
    for _ in range(CONTINUOUS - 1):
        derivatives.append(elements.derivative(derivatives[-1]))
    targets = [elements.at(f, np.array([radius]))[0] for f in derivatives]
    powers = range(0, 2 * CONTINUOUS, 2)
    # row k: the derivatives p (p - 1) ... (p - k + 1) r^(p - k) of the powers r^p
    rows = [[math.perm(p, k) * radius ** max(p - k, 0) for p in powers] for k in range(CONTINUOUS)]
    return Polynomial(np.linalg.solve(rows, targets))

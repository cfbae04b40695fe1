"""The screened local potential: the all-electron one beyond a radius, a polynomial inside."""

import math

import numpy as np

from ...atoms import AllElectronAtom
from ...atoms.elements import Array
from .inputs import LocalInputs
from .smooth import SmoothElements


def potential_derivatives(atom: AllElectronAtom, radius: float, count: int) -> Array:
    """Return the all-electron potential V = -Z/r + v and its first `count` - 1 derivatives at an edge, atomic units."""
    k = np.arange(count)
    factorials = np.array([math.factorial(i) for i in k])
    coulomb = -atom.equation.charge * (-1.0) ** k * factorials / radius ** (k + 1)
    return atom.elements.derivatives_at(atom.v, radius, count) + coulomb


def local_potential(atom: AllElectronAtom, smooth: SmoothElements, inputs: LocalInputs, derivatives: int = 3) -> Array:
    """Compute the local potential (N,), Hartree.

    Inside the radius r_loc it is  V(r) = v0 + c_1 r^p_1 + c_2 r^p_2 + c_3 r^p_3 + bump (1 - (r/r_loc)^4)^4,  with V, V'
    and V'' continuous. The value v0 stands in place of the third derivative, which holds five derivatives of the
    density and is different for functionals that differ in nothing else. Potentials of tau oscillate where the orbitals
    of the core end: their curvature would spoil the whole polynomial, which then has two terms and V and V' continuous.

    Parameters
    ----------
    atom : AllElectronAtom
        The all-electron atom.
    smooth : SmoothElements
        Elements of the result.
    inputs : LocalInputs
        Radius, powers, v0 and bump.
    derivatives : int
        Number of derivatives, the value included, that are continuous.
    """
    radius = inputs.radius
    powers = np.array(inputs.powers[1 : derivatives + 1])
    k = np.arange(derivatives)
    targets = potential_derivatives(atom, radius, derivatives) - inputs.v0 * (k == 0)
    # row k: the derivatives p (p - 1) ... (p - k + 1) r^(p - k) of the powers r^p
    rows = np.array([[math.perm(p, i) * radius ** (p - i) for p in powers] for i in k])
    coefficients = np.linalg.solve(rows, targets)
    r = smooth.radii
    x = np.minimum(r / radius, 1)
    inside = inputs.v0 + (radius * x[:, None]) ** powers @ coefficients + inputs.bump * (1 - x**4) ** 4
    outside = smooth.outside(atom.v) - atom.equation.charge / np.maximum(r, radius)
    return np.where(r <= radius, inside, outside)

"""A smooth model of the core density, and of the kinetic energy density that belongs to it.

Teter's function  g(x) = h(x)^2,  h(x) = sin(2 pi x) / [2 pi x (1 - 4x^2)(1 - x^2)]  up to its third double zero, x = 3,
has a Fourier transform that practically ends at 4 pi; M. Teter, Phys. Rev. B 48, 5031 (1993). The model is

    n_mod(r) = a g(r/s).

Its kinetic energy density is that of von Weizsaecker,

    tau_mod = |grad n_mod|^2 / (8 n_mod) = (a / 2) h'(r/s)^2 / s^2,

the least that a density has. As |grad n|^2 / n is convex and homogeneous of first degree, n_val + n_mod has at most the
sum of both: tau_val + tau_mod is not below von Weizsaecker's of the whole density, on any point.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from ...atoms import Elements
from ...atoms.elements import Array
from .errors import GenerationError
from .inputs import ModelCoreInputs
from .smooth import SmoothElements

END = 3.0  # of x
ELEMENTS = 6  # up to there


@dataclass(frozen=True)
class ModelCore:
    """The model core of an atom.

    Attributes
    ----------
    height : float
        Density a at r = 0, bohr^-3.
    length : float
        Length s, bohr.
    """

    height: float
    length: float

    def density(self, r: Array) -> Array:
        """Density at radii (nr,), bohr^-3."""
        return self.height * _h(r / self.length)[0] ** 2

    def kinetic_energy_density(self, r: Array) -> Array:
        """Kinetic energy density at radii (nr,), Hartree bohr^-3."""
        return 0.5 * self.height * (_h(r / self.length)[1] / self.length) ** 2

    @property
    def elements(self) -> Elements:
        """Elements that end where the density does."""
        return Elements(np.linspace(0, END * self.length, ELEMENTS + 1))


def _h(x: Array) -> tuple[Array, Array]:
    """h and dh/dx at x (n,), zero beyond the end.

    All zeros of the denominator are zeros of the sine. In partial fractions, with S(y) = sin(2 pi y) / (2 pi y),

        h(x) = S(x) + (2/3) [S(x - 1/2) + S(x + 1/2)] + (1/6) [S(x - 1) + S(x + 1)].
    """
    shifts = np.array([0, -0.5, 0.5, -1, 1])
    factors = np.array([1, 2 / 3, 2 / 3, 1 / 6, 1 / 6])
    y = x[:, None] + shifts
    z = np.where(np.abs(y) < 1e-4, 1e-4, y)
    slopes = (np.cos(2 * np.pi * z) - np.sinc(2 * z)) / z
    slopes = np.where(np.abs(y) < 1e-4, -4 * np.pi**2 / 3 * y, slopes)
    inside = x < END
    return np.where(inside, np.sinc(2 * y) @ factors, 0.0), np.where(inside, slopes @ factors, 0.0)


def fit_model_core(inputs: ModelCoreInputs, elements: Elements, core: Array, radius: float) -> ModelCore:
    """Return the model core for the densities of an atom.

    With n_x the density of the core at r_x, the height is `inputs.height` n_x and the length `inputs.scale` r_x.

    Parameters
    ----------
    inputs : ModelCoreInputs
        Height and length relative to n_x and r_x.
    elements, core : Elements, Array
        Core density (N,) on the elements of the atom, bohr^-3.
    radius : float
        Radius r_x where the densities of core and valence are equal, bohr.
    """
    return ModelCore(inputs.height * float(elements.at(core, np.array([radius]))[0]), inputs.scale * radius)


def equal_densities(elements: Elements, core: Array, smooth: SmoothElements, valence: Array) -> float:
    """Return the outermost radius r_x, bohr, where the density of the core is that of the valence pseudo functions.

    Parameters
    ----------
    elements, core : Elements, Array
        Core density (N,) on the elements of the atom, bohr^-3.
    smooth, valence : SmoothElements, Array
        Density of the valence pseudo functions (M,) on their elements, bohr^-3.

    Raises
    ------
    GenerationError
        If the core's is nowhere larger.
    """

    def excess(r: float) -> float:
        point = np.array([r])
        return float(elements.at(core, point)[0] - smooth.at(valence, point)[0])

    r = elements.radii
    difference = core - smooth.at(valence, r)
    larger = np.nonzero((difference[:-1] > 0) & (difference[1:] <= 0))[0]
    if not len(larger):
        raise GenerationError("the core density is nowhere larger than that of the valence: no model core can be made")
    return float(brentq(excess, r[larger[-1]], r[larger[-1] + 1]))

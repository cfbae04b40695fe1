"""Kinetic energy: T = |k+G|^2 / 2 of each plane wave.

With a smooth cutoff it rises to infinity over the last tenth below ecut, so that a plane wave enters or leaves the
sphere with no weight and the energy at constant cutoff is a smooth function of the cell:

    T -> T / p(x),   x = (ecut - T) / width,   p(x) = x^2 (3 + x - 6 x^2 + 3 x^3)   for 0 < x < 1.

p and its first two derivatives join 1 at x = 1. Source: ABINIT's variable ecutsm; Bernasconi et al.,
J. Phys. Chem. Solids 56, 501 (1995), on the idea.
"""

from torch import Tensor

WIDTH = 0.1  # of the smooth cutoff, in units of ecut


def kinetic_energy(q2: Tensor, ecut: float, smooth_cutoff: bool) -> Tensor:
    """Kinetic energy of plane waves, Hartree.

    Parameters
    ----------
    q2 : Tensor
        |k+G|^2, bohr^-2, any shape.
    ecut : float
        Cutoff, Hartree.
    smooth_cutoff : bool
        Whether it rises to infinity at the cutoff.

    Returns
    -------
    Tensor
        Shape of `q2`.
    """
    t = 0.5 * q2
    if not smooth_cutoff:
        return t
    x = ((ecut - t) / (WIDTH * ecut)).clamp(1e-3, 1.0)  # below 1e-3 the energy is 3e5 ecut: as good as infinite
    return t / (x.square() * (3 + x * (1 + x * (-6 + 3 * x))))

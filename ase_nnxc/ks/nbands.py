"""How many bands an SCF has, how many of them must converge, and how many are missing."""

import math

from torch import Tensor

from .crystal import Crystal
from .system import System

EMPTY = 1e-6  # a band with a smaller occupation need not be converged
TOO_FULL = 1e-3  # a larger occupation of the highest of the bands that the caller allows is an error


def default_nbands(crystal: Crystal) -> int:
    """Return the filled bands of the majority spin channel, plus a fifth of their number, at least four."""
    filled = _filled_bands(crystal)
    return filled + max(4, math.ceil(0.2 * filled))


def _filled_bands(crystal: Crystal) -> int:
    """Return the number of bands that hold the electrons of the majority spin channel."""
    moment = crystal.fixed_moment
    if moment is None:
        moment = 0.0 if crystal.magmoms is None else float(crystal.magmoms.sum())
    return math.ceil((crystal.nelectrons + abs(moment)) / 2)


def bands_at_start(crystal: Crystal, nbands: int) -> int:
    """Return how many of the bands must converge before occupations are known: the filled and half of the others."""
    return min(nbands, math.ceil((_filled_bands(crystal) + nbands) / 2))


def extra_bands(system: System, nbands: int) -> int:
    """Return the number of bands to add if the highest is occupied: 2 + nbands // 4, limited by the plane waves."""
    return max(0, min(2 + nbands // 4, system.basis.fewest_waves - nbands))


def bands_in_use(occupations: Tensor) -> int:
    """Return the number of bands up to the highest that is occupied in any block, plus one."""
    filled = (occupations.abs().amax(dim=(0, 1)) > EMPTY).nonzero()
    return min(occupations.shape[-1], int(filled.max()) + 2)

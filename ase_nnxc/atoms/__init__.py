"""Spherical atoms with all their electrons, on spectral elements."""

from .all_electron import AllElectronAtom, AtomError, solve_atom
from .elements import Elements
from .shells import Shell, parse_shells
from .sphere import check_spherical, xc_of_sphere

__all__ = [
    "AllElectronAtom",
    "AtomError",
    "Elements",
    "Shell",
    "check_spherical",
    "parse_shells",
    "solve_atom",
    "xc_of_sphere",
]

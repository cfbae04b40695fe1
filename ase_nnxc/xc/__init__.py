"""Exchange-correlation functionals: density features in, energy density out, in Hartree atomic units."""

from .functional import Functional
from .gga import PBE, pbesol, revpbe, rpbe
from .lda import LDA

__all__ = ["LDA", "PBE", "Functional", "pbesol", "revpbe", "rpbe"]

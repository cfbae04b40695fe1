"""The definition of a calculation: a crystal, its plane waves, a functional, and the terms of the energy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from ..ranks import Ranks
from ..xc.functional import Functional
from .basis import Basis
from .coulomb import coulomb_kernel
from .crystal import Crystal
from .kpoints import KPoints
from .terms import STANDARD_TERMS

if TYPE_CHECKING:
    from .terms.term import Term


@dataclass(frozen=True, eq=False)
class System:
    """A Kohn-Sham problem.

    Attributes
    ----------
    crystal : Crystal
        Cell, atoms and electrons.
    basis : Basis
        Plane waves, k-points and grid.
    functional : Functional
        Exchange-correlation functional.
    terms : tuple of callable
        Each one takes the system and returns a term of the energy; see `terms.term`.
    ranks : Ranks
        Processes that share the k-points.
    """

    crystal: Crystal
    basis: Basis
    functional: Functional
    terms: "tuple[Callable[[System], Term], ...]" = STANDARD_TERMS
    ranks: Ranks = field(default_factory=Ranks)

    @cached_property
    def kpoints(self) -> KPoints:
        """Spin channels and k-points."""
        return KPoints(self.crystal.nspin, self.basis.spheres, self.crystal.device, self.ranks)

    @cached_property
    def coulomb(self) -> Tensor:
        """Coulomb interaction K (ng,), bohr^2, of the boundary condition; see `coulomb`."""
        return coulomb_kernel(self.basis.grid, self.crystal)

    def at(self, crystal: Crystal) -> "System":
        """Return the same system for a moved or strained crystal, with the same integer indices of the plane waves."""
        return replace(self, crystal=crystal)

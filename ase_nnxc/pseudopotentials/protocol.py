"""What the core and the program ask of a norm-conserving pseudopotential, whatever it is made of.

Fourier transforms are those of one atom at the origin, v(q) = integral v(r) exp(-i q r) d3r. The caller divides them by
the volume of the cell. All quantities are in Hartree atomic units.

The local part is the potential of a Gaussian charge -Z of width `rloc` (`ion_charge.gaussian_charge_potential`), which
carries the long-ranged -Z/r, plus a short-ranged rest.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


class RecommendedCutoff(NamedTuple):
    """The plane-wave cutoff that a pseudopotential needs, and how it is known.

    Attributes
    ----------
    ecut : float
        Cutoff, Hartree.
    source : str
        "measured" (lattice constants were computed), "estimated" (from the pseudo-atom), "from the file" (its author
        recommends it) or "generated" (with the pseudopotential); see `cutoffs.recommended_cutoff`.
    """

    ecut: float
    source: Literal["measured", "estimated", "from the file", "generated"]


class RadialFunction(Protocol):
    """A function of the distance from an atom, with its Fourier transform."""

    def __call__(self, q2: Tensor) -> Tensor:
        """Fourier transform divided by q^l at squared wave numbers (any shape), bohr^-2; differentiable."""

    def in_space(self, radii: Array) -> Array:
        """Values at radii (nr,), bohr."""


class SeparablePart(Protocol):
    """One angular momentum of the separable part: v = sum_ij |p_i> h_ij <p_j|."""

    @property
    def l(self) -> int:  # noqa: E743
        """Angular momentum, 0 to 3."""

    @property
    def h(self) -> tuple[tuple[float, ...], ...]:
        """Symmetric matrix (n, n) of couplings, Hartree."""

    def projector(self, i: int, q2: Tensor) -> Tensor:
        """Fourier transform of radial projector `i` divided by q^l, shaped as `q2`, bohr^(3/2 + l)."""

    def in_space(self, i: int, radii: Array) -> Array:
        """Radial projector `i` at radii (nr,), bohr^(-3/2)."""


class Pseudopotential(Protocol):
    """A norm-conserving pseudopotential: `gth.GTH` or `tabulated.Tabulated`."""

    def __hash__(self) -> int: ...

    # -- what it is --

    @property
    def symbol(self) -> str:
        """Chemical symbol of the element."""

    @property
    def number(self) -> int:
        """Atomic number."""

    @property
    def valence(self) -> int:
        """Charge Z of the ion core: the number of valence electrons."""

    @property
    def configuration(self) -> tuple[int, ...]:
        """Numbers of valence electrons of the atom in s, p, d, f."""

    @property
    def name(self) -> str:
        """Name of the table or path of the file, by which `find_table` finds it again."""

    @property
    def digest(self) -> str:
        """sha256 of the numbers, hexadecimal, independent of the name: equal digests mean the same potential."""

    @property
    def functional(self) -> str:
        """Functional for which it was generated, as families of tables are named: "pbe", "pade" (LDA), ..."""

    @property
    def recommended_cutoff(self) -> RecommendedCutoff | None:
        """Recommended plane-wave cutoff; None if none is known."""

    # -- local part --

    @property
    def rloc(self) -> float:
        """Width of the Gaussian charge of the ion core, bohr."""

    def short(self, q2: Tensor) -> Tensor:
        """Fourier transform of the local part less the potential of the Gaussian charge, Hartree bohr^3."""

    def local_in_space(self, radii: Array) -> Array:
        """Local part at radii (nr,), Hartree."""

    # -- separable part --

    @property
    def channels(self) -> Sequence[SeparablePart]:
        """Separable part, one item for each angular momentum."""

    # -- densities --

    @property
    def core(self) -> RadialFunction | None:
        """Core density that is added to the density in the xc energy, bohr^-3; None without core correction."""

    @property
    def core_tau(self) -> RadialFunction | None:
        """Kinetic energy density that belongs to `core`, Hartree bohr^-3; None if it is not known."""

    @property
    def density(self) -> RadialFunction | None:
        """Valence density of the atom to start from, bohr^-3; None if it is not known."""

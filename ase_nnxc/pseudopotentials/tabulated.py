"""Norm-conserving pseudopotentials whose radial functions are numbers on a mesh: UPF and psp8 files, generated ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .ion_charge import gaussian_charge_potential
from .protocol import Array, RecommendedCutoff
from .radial import TabulatedFunction

WIDTH = math.sqrt(0.5)  # bohr, of the Gaussian charge of every ion core: its potential is -Z erf(r)/r


@dataclass(frozen=True, eq=False)
class TabulatedChannel:
    """One angular momentum of the separable part: v = sum_ij |p_i> h_ij <p_j|.

    Attributes
    ----------
    l : int
        Angular momentum, 0 to 3.
    functions : tuple of TabulatedFunction
        The projectors, bohr^(-3/2).
    h : tuple of tuple of float
        Symmetric matrix (n, n) of couplings, Hartree.
    """

    l: int  # noqa: E741
    functions: tuple[TabulatedFunction, ...]
    h: tuple[tuple[float, ...], ...]

    def projector(self, i: int, q2: Tensor) -> Tensor:
        """Fourier transform of radial projector `i` divided by q^l, shaped as `q2`, bohr^(3/2 + l)."""
        return self.functions[i](q2)

    def in_space(self, i: int, radii: Array) -> Array:
        """Radial projector `i` at radii (nr,), bohr^(-3/2)."""
        return self.functions[i].in_space(radii)


@dataclass(frozen=True)
class Tabulated:
    """A norm-conserving pseudopotential on a radial mesh, compared by its digest in place of its functions.

    Attributes
    ----------
    symbol, number : str, int
        Element and its atomic number.
    valence : int
        Charge of the ion core, electrons.
    configuration : tuple of int
        Numbers of valence electrons of the atom in s, p, d, f.
    channels : tuple of TabulatedChannel
        Separable part.
    remainder : TabulatedFunction
        Local part less the potential of the Gaussian charge of width `rloc`, Hartree.
    core : TabulatedFunction or None
        Core density that is added to the density in the xc energy, bohr^-3.
    density : TabulatedFunction or None
        Valence density of the atom to start from, bohr^-3.
    core_tau : TabulatedFunction or None
        Kinetic energy density that belongs to `core`, Hartree bohr^-3; None in files.
    functional : str
        Functional for which it was generated, as families of tables are named ("pbe", "pade").
    recommended_cutoff : RecommendedCutoff or None
        Cutoff that its file recommends, or that was found when it was generated.
    digest : str
        sha256 of its numbers up to the end of the mesh, hexadecimal.
    name : str
        Path of its file, or what `pseudos` calls it if it was generated: "oncv", "oncv-PBE".
    """

    symbol: str
    number: int
    valence: int
    configuration: tuple[int, ...] = field(compare=False)
    channels: Sequence[TabulatedChannel] = field(compare=False)
    remainder: TabulatedFunction = field(compare=False)
    core: TabulatedFunction | None = field(compare=False)
    density: TabulatedFunction | None = field(compare=False)
    functional: str
    recommended_cutoff: RecommendedCutoff | None
    digest: str
    name: str
    core_tau: TabulatedFunction | None = field(default=None, compare=False)

    @property
    def rloc(self) -> float:
        """Width of the Gaussian charge, bohr."""
        return WIDTH

    def short(self, q2: Tensor) -> Tensor:
        """Fourier transform of `remainder`, Hartree bohr^3, shaped as `q2`."""
        return self.remainder(q2)

    def local_in_space(self, radii: Array) -> Array:
        """Local part at radii (nr,), Hartree; -Z/r beyond the mesh."""
        return gaussian_charge_potential(self.valence, self.rloc, radii) + self.remainder.in_space(radii)

"""Smeared occupations, their entropy and the Fermi level.

With x = (e - mu) / width, each smearing has an occupation f(x) that falls from 1 to 0 and an entropy s(x) with
s' = x f'. The free energy F = E - width sum_i g_i s(x_i), g_i the weight of state i, is then stationary in the
occupations, and forces and stress are derivatives of F.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_SQRT_PI = math.sqrt(math.pi)
# beyond this many widths from every state all smearings are 0 or 1 to double precision
_FAR = 40.0
# relative error of the number of electrons
_ELECTRON_TOLERANCE = 1e-13
# electrons by which a sum of weights may miss the number of a full or an empty band
_FULL = 1e-10


class _Function(Protocol):
    extrapolation: float

    @staticmethod
    def occupation(x: Tensor) -> Tensor: ...

    @staticmethod
    def derivative(x: Tensor) -> Tensor: ...

    @staticmethod
    def entropy(x: Tensor) -> Tensor: ...


class _FermiDirac:
    """N. D. Mermin, Phys. Rev. 137, A1441 (1965)."""

    extrapolation = -1 / 2

    @staticmethod
    def occupation(x: Tensor) -> Tensor:
        return torch.sigmoid(-x)  # 1 / (exp(x) + 1)

    @staticmethod
    def derivative(x: Tensor) -> Tensor:
        return -torch.sigmoid(-x) * torch.sigmoid(x)

    @staticmethod
    def entropy(x: Tensor) -> Tensor:
        return -torch.sigmoid(-x) * logsigmoid(-x) - torch.sigmoid(x) * logsigmoid(x)  # -f ln f - (1 - f) ln(1 - f)


class _Gaussian:
    """C.-L. Fu and K.-M. Ho, Phys. Rev. B 28, 5480 (1983)."""

    extrapolation = -1 / 2

    @staticmethod
    def occupation(x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(x)

    @staticmethod
    def derivative(x: Tensor) -> Tensor:
        return -torch.exp(-x.square()) / _SQRT_PI

    @staticmethod
    def entropy(x: Tensor) -> Tensor:
        return torch.exp(-x.square()) / (2 * _SQRT_PI)


class _MarzariVanderbilt:
    """Cold smearing, N. Marzari et al., Phys. Rev. Lett. 82, 3296 (1999)."""

    extrapolation = 0.0

    @staticmethod
    def occupation(x: Tensor) -> Tensor:
        y = x + 1 / math.sqrt(2)
        return 0.5 * torch.erfc(y) + torch.exp(-y.square()) / math.sqrt(2 * math.pi)

    @staticmethod
    def derivative(x: Tensor) -> Tensor:
        y = x + 1 / math.sqrt(2)
        return -torch.exp(-y.square()) * (1 + math.sqrt(2) * y) / _SQRT_PI

    @staticmethod
    def entropy(x: Tensor) -> Tensor:
        y = x + 1 / math.sqrt(2)
        return y * torch.exp(-y.square()) / math.sqrt(2 * math.pi)


class _MethfesselPaxton:
    """First order of M. Methfessel and A. T. Paxton, Phys. Rev. B 40, 3616 (1989)."""

    extrapolation = -1 / 3

    @staticmethod
    def occupation(x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(x) - x * torch.exp(-x.square()) / (2 * _SQRT_PI)

    @staticmethod
    def derivative(x: Tensor) -> Tensor:
        return (x.square() - 1.5) * torch.exp(-x.square()) / _SQRT_PI

    @staticmethod
    def entropy(x: Tensor) -> Tensor:
        return (1 - 2 * x.square()) * torch.exp(-x.square()) / (4 * _SQRT_PI)


_FUNCTIONS: dict[str, _Function] = {
    "fermi-dirac": _FermiDirac(),
    "gaussian": _Gaussian(),
    "marzari-vanderbilt": _MarzariVanderbilt(),
    "methfessel-paxton": _MethfesselPaxton(),
}


class TooFewBands(ValueError):
    """The bands cannot hold the electrons."""


@dataclass(frozen=True)
class Smearing:
    """A smearing function and its width.

    Attributes
    ----------
    name : str
        fermi-dirac, gaussian, marzari-vanderbilt or methfessel-paxton (of first order).
    width : float
        Hartree, positive.

    Raises
    ------
    ValueError
        For another name, or a width that is not a positive number.
    """

    name: str
    width: float

    def __post_init__(self) -> None:
        if self.name not in _FUNCTIONS:
            raise ValueError(f"unknown smearing {self.name!r}; one of {', '.join(_FUNCTIONS)}")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"the width of the smearing must be positive, not {self.width}")

    @property
    def extrapolation(self) -> float:
        """Factor c of the energy's zero-width estimate E0 = F + c (-T S), where -T S = F - E is the entropy term.

        The convention of GPAW and VASP: -1/2, the mean of E and F, for Fermi-Dirac and Gaussian (Gillan, J. Phys.:
        Condens. Matter 1, 689 (1989)), 0 for Marzari-Vanderbilt, -1/(n + 2) for Methfessel-Paxton of order n. Where
        F - E0 ~ T^m, -T S = T dF/dT makes the leading order vanish with c = -1/m: m = 2 for the first two, but 3 and 4
        for the others, whose F is already close.
        """
        return _FUNCTIONS[self.name].extrapolation

    def occupations(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """Occupations f(x), shaped as the eigenvalues, 1 for a full state of one spin; some leave [0, 1] slightly."""
        return _FUNCTIONS[self.name].occupation((eigenvalues - fermi_level) / self.width)

    def derivatives(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """Slope df / de of the occupations, Hartree^-1, shaped as the eigenvalues."""
        return _FUNCTIONS[self.name].derivative((eigenvalues - fermi_level) / self.width) / self.width

    def entropy(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """s(x) of each state, without unit; the entropy term of the energy is -width * sum(weights * s)."""
        return _FUNCTIONS[self.name].entropy((eigenvalues - fermi_level) / self.width)

    def fermi_level(self, eigenvalues: Tensor, weights: Tensor, nelectrons: float, spin_degeneracy: int) -> Tensor:
        """Chemical potential at which the states hold the electrons.

        In a gap much wider than the smearing it lies in the middle. Occupations that are not monotonic can have several
        solutions: the one next to Gaussian smearing's is taken, in two stages (F. J. dos Santos and N. Marzari, Phys.
        Rev. B 107, 195122 (2023)).

        Parameters
        ----------
        eigenvalues : Tensor
            (nspin, nk, nbands), Hartree, in any order.
        weights : Tensor
            (nk,) weights of the k-points, adding up to one.
        nelectrons : float
            Electrons in the cell.
        spin_degeneracy : int
            Electrons that a full state holds: 2 without spin polarisation, else 1.

        Returns
        -------
        Tensor
            Scalar, Hartree, without gradient. The number of electrons is right to 1e-13 of it, or as well as a number
            of double precision can express the level.

        Raises
        ------
        TooFewBands
            If the bands cannot hold the electrons.
        ValueError
            If an eigenvalue or the number of electrons makes no sense.
        """
        # a few thousand numbers and a scalar search: on the CPU, whatever the device
        e = eigenvalues.detach().to("cpu", torch.float64)
        states = (spin_degeneracy * weights.detach().to("cpu", torch.float64))[None, :, None].expand_as(e)
        e, order = e.flatten().sort()
        states = states.flatten()[order]
        mu = self._solve(e, states, nelectrons)
        return torch.tensor(mu, dtype=eigenvalues.dtype, device=eigenvalues.device)

    def fill(self, eigenvalues: Tensor, weights: Tensor, reservoirs: "Sequence[tuple[slice, float]]") -> "FilledStates":
        """Fill the states of all k-points.

        Parameters
        ----------
        eigenvalues : Tensor
            (nspin, nk, nbands), Hartree.
        weights : Tensor
            (nk,) weights of the k-points, adding up to one.
        reservoirs : sequence of (slice, float)
            Spin channels that share a Fermi level, with the number of their electrons; see `Crystal.reservoirs`.

        Raises
        ------
        TooFewBands
            If the bands cannot hold the electrons.
        """
        degeneracy = 2 // len(eigenvalues)
        fermi_levels = eigenvalues.new_empty(len(eigenvalues))
        for spins, number in reservoirs:
            fermi_levels[spins] = self.fermi_level(eigenvalues[spins], weights, number, degeneracy)
        fermi = fermi_levels[:, None, None]
        occupations = self.occupations(eigenvalues, fermi)
        states = degeneracy * weights[:, None]
        entropy = -self.width * float((self.entropy(eigenvalues, fermi) * states).sum())
        return FilledStates(eigenvalues, occupations, occupations * states, fermi_levels, entropy)

    def _solve(self, e: Tensor, states: Tensor, nelectrons: float) -> float:
        """Chemical potential for sorted eigenvalues (n,) of which each holds `states` (n,) electrons."""
        lowest, highest = float(e[0]), float(e[-1])
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ValueError("an eigenvalue is not finite")
        if not 0 <= nelectrons < math.inf:
            raise ValueError(f"the number of electrons must not be negative: {nelectrons}")
        filled = states.cumsum(0)
        if nelectrons > float(filled[-1]) + _FULL:
            raise TooFewBands(f"too few bands: they hold {float(filled[-1]):g} of {nelectrons:g} electrons")
        if nelectrons >= float(filled[-1]) - _FULL:
            return highest + _FAR * self.width
        if nelectrons <= _FULL:
            return lowest - _FAR * self.width

        def excess(mu: float, function: _Function) -> float:
            return float(torch.dot(states, function.occupation((e - mu) / self.width))) - nelectrons

        def slope(mu: float, function: _Function) -> float:
            return -float(torch.dot(states, function.derivative((e - mu) / self.width))) / self.width

        smearing, gaussian = _FUNCTIONS[self.name], _FUNCTIONS["gaussian"]
        tolerance = _ELECTRON_TOLERANCE * max(1.0, nelectrons)
        below = int((filled <= nelectrons + _FULL).sum())  # states filled at zero width
        if below and float(filled[below - 1]) >= nelectrons - _FULL:
            middle = 0.5 * float(e[below - 1] + e[below])
            if abs(excess(middle, smearing)) <= tolerance:
                return middle
        low, high = lowest - _FAR * self.width, highest + _FAR * self.width
        step = 0.05 * self.width
        while high - low > step:
            mu = 0.5 * (low + high)
            low, high = (low, mu) if excess(mu, gaussian) > 0 else (mu, high)
        low, high = _next_crossing(lambda mu: excess(mu, smearing), low, step)
        return _root(lambda mu: excess(mu, smearing), lambda mu: slope(mu, smearing), low, high, tolerance)


@dataclass(frozen=True)
class FilledStates:
    """States and the electrons in them.

    Attributes
    ----------
    eigenvalues, occupations : Tensor
        (nspin, nk, nbands), Hartree and electrons in [0, 1] per spin orbital.
    electrons : Tensor
        (nspin, nk, nbands) electrons in each orbital times the weight of its k-point.
    fermi_levels : Tensor
        (nspin,) Hartree.
    entropy : float
        -T S, Hartree.
    """

    eigenvalues: Tensor
    occupations: Tensor
    electrons: Tensor
    fermi_levels: Tensor
    entropy: float


def _next_crossing(excess: Callable[[float], float], start: float, step: float) -> tuple[float, float]:
    """Interval next to `start`, with electrons missing at its lower end and not at its upper; steps grow."""
    direction = 1 if excess(start) < 0 else -1
    here, there = start, start + direction * step
    while (excess(there) < 0) == (direction > 0):
        step *= 1.1
        here, there = there, there + direction * step
    return (here, there) if direction > 0 else (there, here)


def _root(
    excess: Callable[[float], float],
    slope: Callable[[float], float],
    low: float,
    high: float,
    tolerance: float,
) -> float:
    """Zero of `excess` in [low, high] by Newton's method, by bisection wherever that would leave the interval."""
    mu = 0.5 * (low + high)
    while low < mu < high:  # else neighbouring numbers
        value = excess(mu)
        if abs(value) <= tolerance:
            break
        low, high = (low, mu) if value > 0 else (mu, high)
        gradient = slope(mu)
        newton = mu - value / gradient if gradient > 0 else low
        mu = newton if low < newton < high else 0.5 * (low + high)
    return mu

"""Smeared occupations, their entropy and the Fermi level.

Each smearing has an occupation f(x) that goes from 1 to 0 and an entropy s(x) with s' = x f', where
x = (e - mu) / width. The free energy F = E - width sum_i g_i s(x_i), where g_i is the weight of state i, is then
stationary in the occupations, and forces and stress are derivatives of F.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_SQRT_PI = math.sqrt(math.pi)
# at this distance from all states, in widths, all occupations are 0 or 1 to double precision
_FAR = 40.0
# relative error of the number of electrons
_ELECTRON_TOLERANCE = 1e-13
# tolerance in electrons within which a set of bands is full or empty
_FULL = 1e-10
# If occupations are not monotonic, the number of electrons is right to rounding at no level within a gap, unless the
# gap is about 12 widths wide. States hold whole electrons if the occupation of each state at the middle of the gap is 0
# or 1 to `WHOLE`: with Marzari-Vanderbilt smearing at a gap of 7.9 widths, with Methfessel-Paxton smearing at 6.8. An
# SCF tries whole electrons first, up to `TRY_WHOLE` (6.2 and 5.1 widths), because the gap of a start is too narrow.
WHOLE, TRY_WHOLE = 1e-5, 1e-3


class _Function(Protocol):
    extrapolation: float
    monotonic: bool

    @staticmethod
    def occupation(x: Tensor) -> Tensor: ...

    @staticmethod
    def derivative(x: Tensor) -> Tensor: ...

    @staticmethod
    def entropy(x: Tensor) -> Tensor: ...


class _FermiDirac:
    """Fermi-Dirac smearing, N. D. Mermin, Phys. Rev. 137, A1441 (1965)."""

    extrapolation = -1 / 2
    monotonic = True

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
    """Gaussian smearing, C.-L. Fu and K.-M. Ho, Phys. Rev. B 28, 5480 (1983)."""

    extrapolation = -1 / 2
    monotonic = True

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
    monotonic = False

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
    """First-order smearing of M. Methfessel and A. T. Paxton, Phys. Rev. B 40, 3616 (1989)."""

    extrapolation = -1 / 3
    monotonic = False

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
    """Raised when the bands cannot hold the electrons."""


@dataclass(frozen=True)
class Smearing:
    """A smearing function and its width.

    Attributes
    ----------
    name : str
        "fermi-dirac", "gaussian", "marzari-vanderbilt" or "methfessel-paxton" (first order).
    width : float
        Width, positive, Hartree.

    Raises
    ------
    ValueError
        If the name is unknown, or the width is not a positive finite number.
    """

    name: str
    width: float

    def __post_init__(self) -> None:
        if self.name not in _FUNCTIONS:
            raise ValueError(f"unknown smearing {self.name!r}; expected one of {', '.join(_FUNCTIONS)}")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"the width of the smearing must be positive and finite, got {self.width}")

    @property
    def extrapolation(self) -> float:
        """Factor c in the extrapolation of the energy to zero width, E0 = F + c (-T S), where -T S = F - E.

        The values follow GPAW and VASP: -1/2 for Fermi-Dirac and Gaussian, which gives the mean of E and F (Gillan, J.
        Phys.: Condens. Matter 1, 689 (1989)), 0 for Marzari-Vanderbilt, and -1/(n + 2) for Methfessel-Paxton of order
        n. If F - E0 ~ T^m, the leading order vanishes for c = -1/m, because -T S = T dF/dT. m is 2 for Fermi-Dirac and
        Gaussian, 3 for Marzari-Vanderbilt and 4 for Methfessel-Paxton; the F of the last two is already close to E0.
        """
        return _FUNCTIONS[self.name].extrapolation

    def occupations(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """Return the occupations f(x), with the shape of the eigenvalues (Hartree).

        The occupation of a full state of one spin is 1. With Marzari-Vanderbilt and Methfessel-Paxton smearing some
        occupations are slightly outside of [0, 1].
        """
        return _FUNCTIONS[self.name].occupation((eigenvalues - fermi_level) / self.width)

    def derivatives(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """Return the derivatives df/de of the occupations, Hartree^-1, with the shape of the eigenvalues (Hartree)."""
        return _FUNCTIONS[self.name].derivative((eigenvalues - fermi_level) / self.width) / self.width

    def entropy(self, eigenvalues: Tensor, fermi_level: Tensor | float) -> Tensor:
        """Return the entropy s(x) of each state, dimensionless; the energy contains -width * sum(weights * s)."""
        return _FUNCTIONS[self.name].entropy((eigenvalues - fermi_level) / self.width)

    def fermi_level(self, eigenvalues: Tensor, weights: Tensor, nelectrons: float, spin_degeneracy: int) -> Tensor:
        """Return the chemical potential at which the states hold the electrons.

        In a gap much wider than the smearing it is the middle of the gap. If the occupations are not monotonic, there
        can be several solutions. The one closest to that of Gaussian smearing is returned, in two stages (F. J. dos
        Santos and N. Marzari, Phys. Rev. B 107, 195122 (2023)), unless the gap is so wide that states hold whole
        electrons: then it is the middle, too, where each occupation is 0 or 1 to 1e-5.

        Parameters
        ----------
        eigenvalues : Tensor
            (nspin, nk, nbands), Hartree, in any order.
        weights : Tensor
            (nk,) weights of the k-points, which add up to one.
        nelectrons : float
            Number of electrons in these states.
        spin_degeneracy : int
            Number of electrons in a full state: 2 without spin polarisation, otherwise 1.

        Returns
        -------
        Tensor
            Scalar, Hartree, without gradient. Unless states hold whole electrons, the relative error of their number is
            at most 1e-13, or the smallest that double precision of the Fermi level allows.

        Raises
        ------
        TooFewBands
            If the bands cannot hold the electrons.
        ValueError
            If an eigenvalue is not finite, or the number of electrons is negative or not finite.
        """
        mu, _ = self._level(eigenvalues, weights, nelectrons, spin_degeneracy, WHOLE)
        return torch.tensor(mu, dtype=eigenvalues.dtype, device=eigenvalues.device)

    def _level(
        self, eigenvalues: Tensor, weights: Tensor, nelectrons: float, spin_degeneracy: int, limit: float
    ) -> tuple[float, float | None]:
        """Return the chemical potential and, if states hold whole electrons, by how much; see `_solve`."""
        # a scalar search over a few thousand numbers, which runs on the CPU for every device
        e = eigenvalues.detach().to("cpu", torch.float64)
        states = (spin_degeneracy * weights.detach().to("cpu", torch.float64))[None, :, None].expand_as(e)
        e, order = e.flatten().sort()
        return self._solve(e, states.flatten()[order], nelectrons, limit)

    def fill(
        self,
        eigenvalues: Tensor,
        weights: Tensor,
        reservoirs: "Sequence[tuple[slice, float]]",
        whole: float = WHOLE,
    ) -> "FilledStates":
        """Find the Fermi levels and fill the states of all k-points.

        Parameters
        ----------
        eigenvalues : Tensor
            (nspin, nk, nbands), Hartree.
        weights : Tensor
            (nk,) weights of the k-points, which add up to one.
        reservoirs : sequence of (slice, float)
            Spin channels that share a Fermi level, and the number of their electrons; see `Crystal.reservoirs`.
        whole : float
            States hold whole electrons if each occupation, at the middle of the gap, is 0 or 1 within this.

        Raises
        ------
        TooFewBands
            If the bands cannot hold the electrons.
        """
        device, eigenvalues, weights = eigenvalues.device, eigenvalues.cpu(), weights.cpu()  # scalar searches
        degeneracy = 2 // len(eigenvalues)
        fermi_levels = eigenvalues.new_empty(len(eigenvalues))
        occupations, entropies, largest = torch.empty_like(eigenvalues), torch.empty_like(eigenvalues), 0.0
        for spins, number in reservoirs:
            level, missed = self._level(eigenvalues[spins], weights, number, degeneracy, whole)
            fermi_levels[spins] = level
            if missed is not None:
                occupations[spins], entropies[spins] = (eigenvalues[spins] < level).to(eigenvalues.dtype), 0.0
                largest = max(largest, missed)
            else:
                occupations[spins] = self.occupations(eigenvalues[spins], level)
                entropies[spins] = self.entropy(eigenvalues[spins], level)
        states = degeneracy * weights[:, None]
        entropy = -self.width * float((entropies * states).sum())
        slopes = (
            _FUNCTIONS["gaussian"].derivative((eigenvalues - fermi_levels[:, None, None]) / self.width) / self.width
        )
        density = -float((slopes * states).sum())
        return FilledStates(
            eigenvalues=eigenvalues.to(device),
            occupations=occupations.to(device),
            electrons=(occupations * states).to(device),
            fermi_levels=fermi_levels.to(device),
            entropy=entropy,
            density_of_states=density,
            missed=largest,
        )

    def _solve(self, e: Tensor, states: Tensor, nelectrons: float, limit: float) -> tuple[float, float | None]:
        """Return the chemical potential for sorted eigenvalues (n,) that hold at most `states` (n,) electrons.

        If the states below it are to be full and those above it empty, the second value is the largest difference, at
        most `limit`, of an occupation of the smearing function from that.
        """
        lowest, highest = float(e[0]), float(e[-1])
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ValueError("an eigenvalue is not finite")
        if not 0 <= nelectrons < math.inf:
            raise ValueError(f"the number of electrons must be finite and not negative, got {nelectrons}")
        filled = states.cumsum(0)
        if nelectrons > float(filled[-1]) + _FULL:
            raise TooFewBands(f"too few bands: they hold {float(filled[-1]):g} of {nelectrons:g} electrons")
        if nelectrons >= float(filled[-1]) - _FULL:
            return highest + _FAR * self.width, None
        if nelectrons <= _FULL:
            return lowest - _FAR * self.width, None

        def excess(mu: float, function: _Function) -> float:
            return float(torch.dot(states, function.occupation((e - mu) / self.width))) - nelectrons

        def slope(mu: float, function: _Function) -> float:
            return -float(torch.dot(states, function.derivative((e - mu) / self.width))) / self.width

        smearing, gaussian = _FUNCTIONS[self.name], _FUNCTIONS["gaussian"]
        tolerance = _ELECTRON_TOLERANCE * max(1.0, nelectrons)
        below = int((filled <= nelectrons + _FULL).sum())  # number of levels filled at zero width
        if below and float(filled[below - 1]) >= nelectrons - _FULL:
            middle = 0.5 * float(e[below - 1] + e[below])
            if abs(excess(middle, smearing)) <= tolerance:
                return middle, None
            occupations = smearing.occupation((e - middle) / self.width)
            occupations[:below] -= 1
            missed = float(occupations.abs().max())
            if not smearing.monotonic and missed <= limit:
                return middle, missed
        low, high = lowest - _FAR * self.width, highest + _FAR * self.width
        step = 0.05 * self.width
        while high - low > step:
            mu = 0.5 * (low + high)
            low, high = (low, mu) if excess(mu, gaussian) > 0 else (mu, high)
        low, high = _next_crossing(lambda mu: excess(mu, smearing), low, step)
        return _root(lambda mu: excess(mu, smearing), lambda mu: slope(mu, smearing), low, high, tolerance), None


@dataclass(frozen=True, eq=False)
class FilledStates:
    """States and their electrons.

    Attributes
    ----------
    eigenvalues, occupations : Tensor
        (nspin, nk, nbands), Hartree and electrons in [0, 1] per spin orbital.
    electrons : Tensor
        (nspin, nk, nbands) electrons in each orbital times the weight of its k-point.
    fermi_levels : Tensor
        (nspin,) Fermi level of each spin channel, Hartree.
    entropy : float
        Entropy term of the free energy, -T S, Hartree.
    density_of_states : float
        At the Fermi level, Hartree^-1: states of both spins, broadened by Gaussians with the width of the smearing.
    missed : float
        If states hold whole electrons, the largest difference of an occupation of the smearing function from that; else
        zero.
    """

    eigenvalues: Tensor
    occupations: Tensor
    electrons: Tensor
    fermi_levels: Tensor
    entropy: float
    density_of_states: float
    missed: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether each occupation is 0 or 1 within `TRY_WHOLE`."""
        return bool(((self.occupations - self.occupations.round()).abs() <= TRY_WHOLE).all())


def _next_crossing(excess: Callable[[float], float], start: float, step: float) -> tuple[float, float]:
    """Return the interval closest to `start` where `excess` changes from negative to positive; the steps grow."""
    direction = 1 if excess(start) < 0 else -1
    near, far = start, start + direction * step
    while (excess(far) < 0) == (direction > 0):
        step *= 1.1
        near, far = far, far + direction * step
    return (near, far) if direction > 0 else (far, near)


def _root(
    excess: Callable[[float], float],
    slope: Callable[[float], float],
    low: float,
    high: float,
    tolerance: float,
) -> float:
    """Return the zero of `excess` in [low, high], by Newton's method, or by bisection if that leaves the interval."""
    mu = 0.5 * (low + high)
    while low < mu < high:  # otherwise low and high are neighbouring floating-point numbers
        value = excess(mu)
        if abs(value) <= tolerance:
            break
        low, high = (low, mu) if value > 0 else (mu, high)
        gradient = slope(mu)
        newton = mu - value / gradient if gradient > 0 else low
        mu = newton if low < newton < high else 0.5 * (low + high)
    return mu

"""The levels of one angular momentum in a sphere: those of the pseudopotential against those of the atom.

The number of levels below an energy E in a sphere is the number of nodes of the regular solution at E, so equal numbers
at all energies mean equal logarithmic derivatives at its surface, to the resolution of the energies, and no ghost: a
level of the separable part that the atom does not have.
"""

import numpy as np
from scipy.special import spherical_jn

from ...atoms import AllElectronAtom
from ...atoms.elements import Array
from .bessel import roots
from .channel import Channel
from .inputs import Inputs
from .smooth import SmoothElements

BOX = 6.0  # bohr, radius of the sphere
LARGEST_WAVE = 14.0  # bohr^-1, of the basis
HIGHEST = 1.0
"""Energy up to which levels are compared, Hartree."""
TOLERANCE = 0.05  # Hartree, of a level
DEEP = (-80.0, -20.0)  # Hartree, far below all valence levels


class Levels:
    """Numbers of levels of one angular momentum in a sphere of 6 bohr.

    Parameters
    ----------
    atom : AllElectronAtom
        The all-electron atom.
    smooth : SmoothElements
        Elements of the pseudo functions.
    inputs : Inputs
        Core and valence shells.
    l : int
        Angular momentum.
    """

    def __init__(self, atom: AllElectronAtom, smooth: SmoothElements, inputs: Inputs, l: int) -> None:  # noqa: E741
        self._smooth = smooth
        self._inner = int(np.argmin(np.abs(smooth.edges - BOX)))
        edge = smooth.edges[self._inner]
        self.energies = _energies([atom.states[shell].energy for shell in inputs.valence_shells(l)])
        """Energies (n,) at which levels are compared, Hartree."""
        counts = [atom.equation.nodes_of_solution(l, atom.v, energy, edge) for energy in self.energies]
        core = max((atom.states[shell].energy for shell in inputs.core if shell.l == l), default=-np.inf)
        self.all_electron = np.where(self.energies > core, np.array(counts) - inputs.core_shells(l), 0)
        """Numbers (n,) of all-electron levels below each energy, without those of the core."""
        self._set_basis(l, edge)

    def _set_basis(self, l: int, edge: float) -> None:  # noqa: E741
        """The waves j_l(qr) that are zero at the surface."""
        smooth = self._smooth
        radii, weights = smooth.gauss_points()
        r, self._weights = radii[: self._inner].ravel(), (weights * radii**2)[: self._inner].ravel()
        self._q = np.array(roots(lambda q: spherical_jn(l, q * edge), 0.5 / edge, LARGEST_WAVE))[:, None]
        waves, slopes = spherical_jn(l, self._q * r), self._q * spherical_jn(l, self._q * r, True)
        norms = np.sqrt(waves**2 @ self._weights)[:, None]
        self._waves, self._slopes = waves / norms, slopes / norms
        self._centrifugal = l * (l + 1) / r**2

    def pseudo(self, channel: Channel, local: Array, v_tau: Array) -> Array:
        """Return the levels (nq,) of a channel, Hartree.

        Parameters
        ----------
        channel : Channel
            The projectors.
        local, v_tau : Array
            (N,) screened local potential, Hartree, and screened v_tau.
        """
        # int r^2 [(V + L v_tau / 2r^2) f g + v_tau/2 f' g'] dr and the kinetic energy
        potential, half = (self._smooth.at_gauss_points(f)[: self._inner].ravel() for f in (local, 0.5 * v_tau))
        values, slopes = self._weights * (potential + half * self._centrifugal), self._weights * half
        hamiltonian = (self._waves * values) @ self._waves.T + (self._slopes * slopes) @ self._slopes.T
        hamiltonian += np.diag(0.5 * self._q[:, 0] ** 2)
        for coefficient, projector in zip(channel.coefficients, channel.projectors):
            values = self._smooth.at_gauss_points(projector)
            values[self._smooth.edge(channel.radius) :] = 0
            overlap = self._waves @ (self._weights * values[: self._inner].ravel())
            hamiltonian += coefficient * np.outer(overlap, overlap)
        levels: Array = np.linalg.eigvalsh(hamiltonian)
        return levels

    def first_difference(self, channel: Channel, local: Array, v_tau: Array) -> tuple[float, int, int] | None:
        """Return the lowest energy, Hartree, with other numbers of levels, and both; None if all are equal.

        The numbers are those of the pseudopotential and of the atom. A level may be displaced by `TOLERANCE`. The
        parameters are those of `pseudo`.
        """
        levels = self.pseudo(channel, local, v_tau)
        for energy, expected in zip(self.energies, self.all_electron):
            fewest, most = ((levels < energy + shift).sum() for shift in (-TOLERANCE, TOLERANCE))
            if not fewest <= expected <= most:
                return float(energy), int((levels < energy).sum()), int(expected)
        return None


def _energies(valence: list[float]) -> Array:
    """Deep energies for ghosts, one below the lowest valence level, and some from there to `HIGHEST`."""
    lowest = min(valence, default=0.0)
    return np.array([*DEEP, 1.3 * lowest - 0.25, *np.linspace(0.9 * lowest - 0.02, HIGHEST, 14)])

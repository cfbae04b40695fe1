"""The Kohn-Sham atom with all its electrons: spherical, unpolarised, with fractional occupations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import InputError

from ..xc.functional import Functional
from .elements import Array, Elements, atomic_edges
from .mixing import AndersonMixing
from .radial_equation import RadialEquation, State, coulomb_potential
from .shells import Shell, count_electrons
from .sphere import check_spherical, xc_of_sphere

TOLERANCE = 1e-9
"""Residual of the potential, Hartree, weighted by the density, at which the SCF ends."""
ACCEPTED = 1e-6
"""Residual, Hartree, that is accepted at the last step; the error of the energy is of its second order."""
MOST_STEPS = 60
CUSP = 1e-3
"""Radius around the nucleus, in bohr / Z, where derivatives of the density are noise; 3e-9 electrons are there."""


class AtomError(InputError):
    """An atom that does not converge with a functional."""


@dataclass(frozen=True, eq=False)
class AllElectronAtom:
    """A converged atom.

    Attributes
    ----------
    equation : RadialEquation
        The radial equation of the nucleus, and the elements of all functions.
    shells : tuple of Shell
        The occupied shells.
    states : mapping
        Shell -> energy and radial function.
    v : Array
        (N,) potential of the electrons, Hartree: the effective potential is -Z/r + v.
    density : Array
        (N,) bohr^-3.
    tau : Array
        (N,) kinetic energy density, Hartree bohr^-3.
    total_energy : float
        Hartree.
    """

    equation: RadialEquation
    shells: tuple[Shell, ...]
    states: Mapping[Shell, State]
    v: Array
    density: Array
    tau: Array
    total_energy: float

    @property
    def elements(self) -> Elements:
        """Where the functions are represented."""
        return self.equation.elements

    @property
    def v_tau(self) -> Array:
        """Derivative (N,) of the exchange-correlation energy with respect to tau."""
        return np.zeros(len(self.v)) + self.equation.v_tau

    def density_of(self, shells: Sequence[Shell]) -> Array:
        """Return the density (N,) of some shells, bohr^-3."""
        return density_of(self.states, shells, len(self.v))

    def tau_of(self, shells: Sequence[Shell]) -> Array:
        """Return the kinetic energy density (N,) of some shells, Hartree bohr^-3."""
        return tau_of(self.states, shells, self.elements)


def density_of(states: Mapping[Shell, State], shells: Sequence[Shell], size: int) -> Array:
    """Return the density (N,) = sum f R^2 / 4 pi of shells, bohr^-3."""
    terms = (shell.electrons * states[shell].values ** 2 for shell in shells)
    return sum(terms, start=np.zeros(size)) / (4 * np.pi)


def tau_of(states: Mapping[Shell, State], shells: Sequence[Shell], elements: Elements) -> Array:
    """Return the kinetic energy density (N,) of shells, Hartree bohr^-3."""
    terms = (shell.electrons * shell_tau(shell.l, states[shell].values, elements) for shell in shells)
    return sum(terms, start=np.zeros(len(elements.radii)))


def shell_tau(l: int, values: Array, elements: Elements) -> Array:  # noqa: E741
    """Return the kinetic energy density (N,) = (R'^2 + L R^2 / r^2) / 8 pi of one electron, Hartree bohr^-3."""
    slope = elements.derivative(values)
    ratio = np.append(slope[:1] if l == 1 else 0.0, values[1:] / elements.radii[1:])  # R/r at r = 0 is R' or zero
    return (slope**2 + l * (l + 1) * ratio**2) / (8 * np.pi)


def solve_atom(
    number: int,
    shells: Sequence[Shell],
    functional: Functional,
    *,
    relativistic: bool = True,
    elements: Elements | None = None,
    start: AllElectronAtom | None = None,
    frozen: Sequence[Shell] = (),
) -> AllElectronAtom:
    """Solve the Kohn-Sham equations of an atom.

    Parameters
    ----------
    number : int
        Atomic number, the charge of the point nucleus.
    shells : sequence of Shell
        All shells, with their occupations.
    functional : Functional
        Any functional of the density, its gradient and tau.
    relativistic : bool
        Whether to use the scalar-relativistic equation.
    elements : Elements, optional
        Default: `atomic_edges` without further edges.
    start : AllElectronAtom, optional
        The same shells on the same elements with another functional; default: the potential of Thomas and Fermi.
    frozen : sequence of Shell
        Shells that keep the functions of `start`.

    Raises
    ------
    AtomError
        If the SCF does not converge.
    ValueError
        If the functional has other features.
    """
    check_spherical(functional)
    elements = elements or Elements(atomic_edges(number))
    v = _thomas_fermi(number, elements.radii) if start is None else start.v
    v_tau = np.zeros(len(v)) if start is None else start.v_tau
    states = {} if start is None else dict(start.states)
    mix = AndersonMixing()
    for _ in range(MOST_STEPS):
        equation = RadialEquation(elements, number, relativistic, v_tau)
        for shell in shells:
            states[shell] = _next_state(equation, v, shell, states.get(shell), shell in frozen)
        atom, residual = _evaluate(equation, tuple(shells), dict(states), v, functional)
        volume = 4 * np.pi * np.concatenate((equation.overlap * atom.density, equation.overlap * atom.tau))
        error = float(np.sqrt(volume @ residual**2 / count_electrons(shells)))
        if not error >= TOLERANCE:  # not a number ends here, too
            break
        v, v_tau = np.split(mix(np.concatenate((v, v_tau)), residual, volume), 2)
    if not error < ACCEPTED:
        raise AtomError(
            f"the atom with Z = {number} does not converge with {type(functional).__qualname__}: the potential still "
            f"changes by {error:.1e} Ha"
        )
    return atom


def _evaluate(
    equation: RadialEquation, shells: tuple[Shell, ...], states: dict[Shell, State], v: Array, functional: Functional
) -> tuple[AllElectronAtom, Array]:
    """The atom of some states in a potential, and v and v_tau (2N,) of its density and tau less those."""
    elements = equation.elements
    density, tau = density_of(states, shells, len(v)), tau_of(states, shells, elements)
    coulomb = coulomb_potential(elements, density)
    xc = xc_of_sphere(functional, elements, density, tau, CUSP / equation.charge)
    # E = sum f E_i - int n v d3r - int tau v_tau d3r + E_H + E_xc
    volume = 4 * np.pi * equation.overlap
    eigenvalues = sum(shell.electrons * states[shell].energy for shell in shells)
    screening = volume @ (density * v + tau * equation.v_tau)
    energy = float(eigenvalues - screening + 0.5 * (volume * density) @ coulomb + xc.energy)
    residual = np.concatenate((coulomb + xc.v - v, xc.v_tau - equation.v_tau))
    return AllElectronAtom(equation, shells, states, v, density, tau, energy), residual


def _next_state(equation: RadialEquation, v: Array, shell: Shell, guess: State | None, frozen: bool) -> State:
    """The state of a shell in a new potential; a frozen one keeps its function."""
    if frozen and guess is not None:
        return State(equation.expectation(shell.l, v, guess.energy, guess.values)[0], guess.values)
    return equation.bound_state(shell.l, v, shell.nodes, guess)


def _thomas_fermi(number: int, r: Array) -> Array:
    """Potential (N,) of the electrons by Thomas and Fermi, v = (Z - Z F(x)) / r, at most (Z - 1) / r.

    F is the rational fit of R. Latter, Phys. Rev. 99, 510 (1955), with x = r (128 Z / 9 pi^2)^(1/3).
    """
    x = r * (128 * number / (9 * np.pi**2)) ** (1 / 3)
    series = 1 + 0.02747 * x**0.5 + 1.243 * x - 0.1486 * x**1.5 + 0.2302 * x**2 + 0.007298 * x**2.5 + 0.006944 * x**3
    screened = np.minimum(number - number / series, number - 1)[1:] / r[1:]
    return np.concatenate((screened[:1], screened))

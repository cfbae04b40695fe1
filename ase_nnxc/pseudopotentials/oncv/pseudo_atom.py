"""The atom with the pseudopotential: its levels, its density, and the potential of the ion alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_banded

from ...atoms import AllElectronAtom, Shell, xc_of_sphere
from ...atoms.elements import Array, fix_last
from ...atoms.radial_equation import PRECISION, RadialEquation, State, coulomb_potential
from ...xc.functional import Functional
from .channel import Channel
from .inputs import Inputs
from .smooth import SmoothElements

MOST_STEPS = 40


@dataclass(frozen=True, eq=False)
class PseudoAtom:
    """The valence shells in the screened pseudopotential.

    Attributes
    ----------
    energies : mapping
        Valence shell -> eigenvalue, Hartree.
    density : Array
        (N,) density of the pseudo functions on the smooth elements, bohr^-3.
    """

    energies: Mapping[Shell, float]
    density: Array


def solve_pseudo_atom(
    atom: AllElectronAtom,
    smooth: SmoothElements,
    local: Array,
    channels: Sequence[Channel],
    inputs: Inputs,
) -> PseudoAtom:
    """Return the levels of the valence shells in the screened pseudopotential, and the density of the pseudo functions.

    The pseudo functions are those that the levels should have. Their density beyond all radii is that of the atom, so
    that the ion's potential ends exactly as -Z/r. The functions of the levels themselves deviate from them by up to
    1e-6, which would leave potentials of as much, over 15 bohr: they change volumes of solids by 0.05 %.
    """
    equation = RadialEquation(smooth, 0.0, relativistic=False)
    energies, density = {}, np.zeros(len(smooth.radii))
    for channel in channels:
        for i, shell in enumerate(inputs.valence_shells(channel.l)):
            start = State(atom.states[shell].energy, _start(channel, i, smooth, atom.states[shell].values))
            state = _bound_state(equation, local, channel, start)
            energies[shell] = state.energy
            values = channel.functions[i] if i < len(channel.functions) else state.values
            density += shell.electrons * values**2 / (4 * np.pi)
    return PseudoAtom(energies, density)


def _start(channel: Channel, i: int, smooth: SmoothElements, all_electron: Array) -> Array:
    """The pseudo function of shell `i` of a channel, or its all-electron tail if there are fewer functions."""
    return channel.functions[i] if i < len(channel.functions) else smooth.outside(all_electron)


def _bound_state(equation: RadialEquation, local: Array, channel: Channel, state: State) -> State:
    """The state of -1/2 Laplacian + V_loc + sum |p> D <p| nearest to a start, by inverse iteration.

    With K the band matrix, O the overlap and G = O p, the solution of (K - E O + G D G^T) x = O R follows from those
    without projectors, [y, Y] = (K - E O)^-1 [O R, G]:  x = y - Y (D^-1 + G^T Y)^-1 G^T y.
    """
    smooth, l = equation.elements, channel.l  # noqa: E741
    g = (channel.projectors * smooth.weights_up_to(channel.radius) * smooth.radii**2).T
    for _ in range(MOST_STEPS):
        band = fix_last(equation.matrix(l, local, state.energy - 1e-10))
        right = np.column_stack((equation.overlap * state.values, g))
        right[-1] = 0
        solved = solve_banded((smooth.order, smooth.order), band, right, overwrite_ab=True, check_finite=False)
        y, inner = solved[:, 0], solved[:, 1:]
        x = y - inner @ np.linalg.solve(np.diag(1 / channel.coefficients) + g.T @ inner, g.T @ y)
        x *= np.sign(right[:, 0] @ x) / np.sqrt(equation.overlap @ x**2)
        energy = equation.expectation(l, local, 0.0, x)[0] + float(channel.coefficients @ (g.T @ x) ** 2)
        change, state = abs(energy - state.energy), State(energy, x)
        if change < PRECISION * max(1, abs(energy)):
            break
    return state


def unscreen(smooth: SmoothElements, local: Array, density: Array, core: Array, functional: Functional) -> Array:
    """Compute the local potential of the ion (N,), Hartree: V_loc - V_H[n] - v_xc[n + n_mod]."""
    _, xc_potential = xc_of_sphere(functional, smooth, density + core)
    return local - coulomb_potential(smooth, density) - xc_potential

"""The atom with the pseudopotential: its levels, its density, and the potential of the ion alone."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve_banded

from ...atoms import AllElectronAtom, Shell
from ...atoms.all_electron import shell_tau
from ...atoms.elements import Array, fix_last
from ...atoms.radial_equation import PRECISION, RadialEquation, State, coulomb_potential
from .channel import Channel, PseudoFunctions
from .inputs import Inputs
from .smooth import SmoothElements

MOST_STEPS = 40


def valence_fields(functions: Sequence[PseudoFunctions], inputs: Inputs, smooth: SmoothElements) -> tuple[Array, Array]:
    """Return density and kinetic energy density (N,) of the valence shells, bohr^-3 and Hartree bohr^-3."""
    density, tau = np.zeros(len(smooth.radii)), np.zeros(len(smooth.radii))
    for channel in functions:
        for shell, values in zip(inputs.valence_shells(channel.l), channel.values):
            density += shell.electrons * values**2 / (4 * np.pi)
            tau += shell.electrons * shell_tau(channel.l, values, smooth)
    return density, tau


def pseudo_levels(
    atom: AllElectronAtom,
    smooth: SmoothElements,
    local: Array,
    v_tau: Array,
    channels: Sequence[Channel],
    inputs: Inputs,
) -> dict[Shell, float]:
    """Return the eigenvalues of the valence shells in the screened pseudopotential, Hartree."""
    equation = RadialEquation(smooth, 0.0, relativistic=False, v_tau=v_tau)
    levels = {}
    for channel in channels:
        for shell, values in zip(inputs.valence_shells(channel.l), channel.functions.values):
            levels[shell] = bound_state(equation, local, channel, State(atom.states[shell].energy, values)).energy
    return levels


def bound_state(equation: RadialEquation, local: Array, channel: Channel, state: State) -> State:
    """Return the state of -1/2 div (1 + v_tau) grad + V_loc + sum |p> D <p| nearest to a start, by inverse iteration.

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


def unscreen(smooth: SmoothElements, local: Array, density: Array, xc_potential: Array) -> Array:
    """Compute the local potential of the ion (N,), Hartree: V_loc - V_H[n] - v_xc."""
    return local - coulomb_potential(smooth, density) - xc_potential

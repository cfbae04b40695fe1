"""All-electron functions that the pseudo functions of one angular momentum equal beyond r_c."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...atoms import AllElectronAtom
from ...atoms.elements import Array
from ...atoms.radial_equation import LIGHT, State
from .inputs import ChannelInputs, Inputs
from .local import potential_derivatives

UNBOUND = 0.25
"""Energy of a function in place of an empty level that is not bound, Hartree."""
TAIL = 4.5
"""Length over which a function at positive energy is cut, bohr."""


Unbound = Callable[[AllElectronAtom, ChannelInputs, float, int], State]
"""Returns a function with a tail that decays, for a channel, an energy where nothing is bound and a number of nodes."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The all-electron functions of one channel.

    Attributes
    ----------
    energies : Array
        (n,) Hartree.
    functions : Array
        (n, N) radial functions R on the elements of the atom, positive beyond r_c, with norms of one.
    derivatives : Array
        (n, ncon) value and derivatives of R at r_c.
    overlaps : Array
        (n, n) integrals of products of the functions up to r_c.
    """

    energies: Array
    functions: Array
    derivatives: Array
    overlaps: Array


def cut_solution(atom: AllElectronAtom, channel: ChannelInputs, energy: float, nodes: int) -> State:
    """Return the solution that is regular at r = 0, with a tail that decays as exp(-((r - r_c) / TAIL)^6).

    It is determined by the energy; its number of nodes is not used.
    """
    elements, radius = atom.elements, channel.radius
    end = elements.edges[np.searchsorted(elements.edges, radius + 2.2 * TAIL)]
    solution = atom.equation.regular_solution(channel.l, atom.v, energy, end)
    values = np.zeros(len(elements.radii))
    values[: len(solution)] = solution
    values *= np.exp(-((np.maximum(elements.radii - radius, 0) / TAIL) ** 6))
    return State(energy, values / np.sqrt(atom.equation.overlap @ values**2))


def reference_functions(
    atom: AllElectronAtom, inputs: Inputs, channel: ChannelInputs, unbound: Unbound = cut_solution
) -> Reference:
    """Return the functions of the projectors of a channel.

    The first are those of the valence shells. Then follow functions at an energy that is `spacing` above the one
    before, or at `energy` if there is none: the empty level with one node more if this energy is negative, else what
    `unbound` returns.
    """
    l, radius = channel.l, channel.radius  # noqa: E741
    states = [atom.states[shell] for shell in inputs.valence_shells(l)[: channel.projectors]]
    while len(states) < channel.projectors:
        energy = states[-1].energy + channel.spacing if states else channel.energy
        states.append(_empty_state(atom, channel, energy, inputs.core_shells(l) + len(states), unbound))
    states = [_positive(atom, state, radius) for state in states]
    functions = np.array([state.values for state in states])
    inside = atom.elements.weights_up_to(radius) * atom.elements.radii**2
    return Reference(
        energies=np.array([state.energy for state in states]),
        functions=functions,
        derivatives=derivatives_at(atom, l, states, radius)[:, : channel.constraints],
        overlaps=(functions * inside) @ functions.T,
    )


def _positive(atom: AllElectronAtom, state: State, radius: float) -> State:
    """The state with the sign for which its largest value r R beyond a radius is positive."""
    r = atom.elements.radii
    outside = np.where(r >= radius, r * state.values, 0)
    sign = np.sign(outside[np.argmax(np.abs(outside))])
    return State(state.energy, sign * state.values)


def _empty_state(atom: AllElectronAtom, channel: ChannelInputs, energy: float, nodes: int, unbound: Unbound) -> State:
    """An unoccupied bound level for a negative energy, if there is one, or else the function at an energy."""
    if energy < 0:
        state = atom.equation.bound_state(channel.l, atom.v, nodes)
        if state.energy < -1e-3:
            return state
        energy = UNBOUND
    return unbound(atom, channel, energy, nodes)


def derivatives_at(atom: AllElectronAtom, l: int, states: Sequence[State], radius: float) -> Array:  # noqa: E741
    """Return the values and the first four derivatives (n, 5) of functions at an edge.

    Value and slope are those of the elements, the higher ones follow from the radial equation and its derivatives:

        R'' = c R' + A R,    c = -D'/D - 2/r,    A = L/r^2 + 2 (V - E) / D,    D = 1/M + v_tau,
        M = 1 + (E - V) / 2c^2
    """
    r, L = radius, l * (l + 1)
    V, V1, V2, V3 = potential_derivatives(atom, radius, 4)
    relativity = 1 / (2 * LIGHT**2) if atom.equation.relativistic else 0.0
    M1, M2, M3 = -V1 * relativity, -V2 * relativity, -V3 * relativity
    v_tau = atom.elements.derivatives_at(atom.v_tau, radius, 4)
    rows = []
    for energy, values in states:
        R, R1 = atom.elements.derivatives_at(values, radius, 2)
        M, W = 1 + (energy - V) * relativity, V - energy
        inverse = [1 / M, -M1 / M**2, -M2 / M**2 + 2 * M1**2 / M**3]
        inverse.append(-M3 / M**2 + 6 * M1 * M2 / M**3 - 6 * M1**3 / M**4)
        D, D1, D2, D3 = inverse + v_tau
        a, a1 = D1 / D, D2 / D - (D1 / D) ** 2
        c, c1 = -a - 2 / r, -a1 + 2 / r**2
        c2 = -D3 / D + D1 * D2 / D**2 + 2 * a * a1 - 4 / r**3
        A = L / r**2 + 2 * W / D
        A1 = -2 * L / r**3 + 2 * (V1 - W * a) / D
        A2 = 6 * L / r**4 + 2 * (V2 - 2 * V1 * a + W * (a**2 - a1)) / D
        R2 = c * R1 + A * R
        R3 = c * R2 + (c1 + A) * R1 + A1 * R
        R4 = c * R3 + (2 * c1 + A) * R2 + (c2 + 2 * A1) * R1 + A2 * R
        rows.append([R, R1, R2, R3, R4])
    return np.array(rows)

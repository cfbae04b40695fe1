"""Logarithmic derivatives of the radial functions of the atom and of its pseudopotential, to compare by eye."""

import numpy as np
from scipy.linalg import solve_banded

from ...atoms import Elements
from ...atoms.elements import Array, fix_last
from ...atoms.radial_equation import RadialEquation
from .channel import Channel
from .generator import Generated


def phases(generated: Generated, channel: Channel, energies: Array) -> tuple[float, Array, Array]:
    """Return arctan(R'/R), made continuous in energy, at the first edge beyond all radii of the pseudopotential.

    Parameters
    ----------
    generated : Generated
        The atom and its pseudopotential.
    channel : Channel
        The angular momentum.
    energies : Array
        (n,) Hartree.

    Returns
    -------
    radius : float
        The edge, bohr.
    all_electron, pseudo : Array
        (n,) phases.
    """
    atom, smooth = generated.atom, generated.smooth
    radius = float(smooth.edges[np.searchsorted(smooth.edges, max(generated.inputs.radii) + 1e-6)])
    all_electron = [atom.equation.regular_solution(channel.l, atom.v, energy, radius) for energy in energies]
    pseudo = [_pseudo_solution(generated, channel, energy, radius) for energy in energies]
    return radius, _phases(atom.elements, all_electron), _phases(smooth, pseudo)


def _phases(elements: Elements, solutions: list[Array]) -> Array:
    """The phases (n,) of solutions that are one at their last node."""
    slopes = []
    for values in solutions:
        padded = np.zeros(len(elements.radii))
        padded[: len(values)] = values
        slopes.append(elements.slopes(padded)[len(values) // elements.order - 1, -1])
    return np.unwrap(np.arctan(slopes), period=np.pi)


def _pseudo_solution(generated: Generated, channel: Channel, energy: float, radius: float) -> Array:
    """The regular solution (n,) for the pseudopotential, up to an edge, where it is one; as `bound_state`."""
    smooth = generated.smooth
    size, order = smooth.edge(radius) * smooth.order + 1, smooth.order
    g = (channel.projectors * smooth.weights_up_to(channel.radius) * smooth.radii**2)[:, :size].T
    equation = RadialEquation(smooth, 0.0, relativistic=False, v_tau=generated.v_tau)
    matrix = equation.matrix(channel.l, generated.local, energy)
    right = np.column_stack((np.zeros(size), g))
    right[-1] = [1, *np.zeros(g.shape[1])]
    band = fix_last(matrix[:, :size].copy())
    solved = solve_banded((order, order), band, right, overwrite_ab=True, check_finite=False)
    y, inner = solved[:, 0], solved[:, 1:]
    return y - inner @ np.linalg.solve(np.diag(1 / channel.coefficients) + g.T @ inner, g.T @ y)

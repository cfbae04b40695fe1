"""Picture of a generated pseudopotential."""

import os
from typing import TYPE_CHECKING

import numpy as np

from .generator import Generated
from .log_derivatives import phases

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fa8", "#d1495b", "#2e8b57", "#b8860b")  # of s, p, d, f
LARGEST_RADIUS = 5.0  # bohr
ENERGIES = np.linspace(-3.0, 3.0, 121)  # Hartree


def plot_generated(generated: Generated, title: str, path: str | os.PathLike[str]) -> None:
    """Draw potentials, first radial functions, and logarithmic derivatives, those of all electrons as dashed lines.

    Parameters
    ----------
    generated : Generated
        What is drawn.
    title : str
        Title of the picture.
    path : str or PathLike
        Picture to write, of any format of matplotlib.
    """
    from matplotlib.figure import Figure  # generation draws nothing

    figure = Figure(figsize=(13, 4), layout="constrained")
    potentials, functions, derivatives = figure.subplots(1, 3)
    _draw_potentials(generated, potentials)
    _draw_functions(generated, functions)
    _draw_log_derivatives(generated, derivatives)
    for axes in (potentials, functions, derivatives):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=160)


def _draw_potentials(generated: Generated, axes: "Axes") -> None:
    r = generated.smooth.radii
    shown = (r > 0.02) & (r < LARGEST_RADIUS)
    axes.plot(r[shown], generated.ion[shown], color=COLOURS[0], label="local potential of the ion")
    axes.plot(r[shown], generated.local[shown], color=COLOURS[1], label="screened")
    full = generated.smooth.outside(generated.atom.v)[shown] - generated.atom.equation.charge / r[shown]
    outside = r[shown] > generated.smooth.edges[1]
    axes.plot(r[shown][outside], full[outside], "--", color=COLOURS[1], label="screened, all electrons")
    axes.set_ylim(1.3 * min(generated.ion[shown].min(), generated.local[shown].min()), 1)
    axes.set_xlabel("r (bohr)")
    axes.set_ylabel("V (Ha)")


def _draw_functions(generated: Generated, axes: "Axes") -> None:
    r, shown = generated.smooth.radii, generated.smooth.radii < LARGEST_RADIUS
    for channel in generated.channels:
        colour = COLOURS[channel.l]
        axes.plot(r[shown], (r * channel.functions.values[0])[shown], color=colour, label="spdf"[channel.l])
        shells = generated.inputs.valence_shells(channel.l)
        if shells:
            atom = generated.atom
            inside = atom.elements.radii < LARGEST_RADIUS
            values = (atom.elements.radii * atom.states[shells[0]].values)[inside]
            sign = np.sign(values[-1] * (r * channel.functions.values[0])[shown][-1])
            axes.plot(atom.elements.radii[inside], sign * values, "--", color=colour, lw=1)
    axes.set_xlabel("r (bohr)")
    axes.set_ylabel("r R(r), first function of each l")


def _draw_log_derivatives(generated: Generated, axes: "Axes") -> None:
    radius = 0.0
    for channel in generated.channels:
        radius, full, pseudo = phases(generated, channel, ENERGIES)
        # the nodes of core levels are not those of the pseudopotential
        full = full - np.pi * np.round((full - pseudo).mean() / np.pi)
        axes.plot(ENERGIES, pseudo, color=COLOURS[channel.l], label="spdf"[channel.l])
        axes.plot(ENERGIES, full, "--", color=COLOURS[channel.l], lw=1)
    axes.set_xlabel("energy (Ha)")
    axes.set_ylabel(f"arctan(R'/R) at {radius:.2f} bohr")

"""Picture of an equation of state."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import units

if TYPE_CHECKING:
    from .result import EOSResult


def plot_eos(result: "EOSResult", path: str | os.PathLike[str]) -> None:
    """Draw the points, the fitted curve and its minimum: free energies per atom above the minimum.

    Parameters
    ----------
    result : EOSResult
        What is drawn.
    path : str or PathLike
        Picture to write, of any format of matplotlib.
    """
    from matplotlib.figure import Figure  # scans without a folder draw nothing

    number, fit = len(result.atoms), result.fit
    v0, f0 = fit.volume.item(), fit.energy.item()
    volumes = np.array([p.volume_A3 for p in result.points])
    energies = np.array([p.free_energy_eV for p in result.points])
    fitted = np.array([p.index in result.fitted for p in result.points])
    grid = np.linspace(min(volumes[fitted].min(), v0), max(volumes[fitted].max(), v0), 200)
    curve = fit.energy_at(torch.from_numpy(grid)).detach().numpy()

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        grid / number, 1000 * (curve - f0) / number, color="#1f5fa8", lw=1.8, label="Birch-Murnaghan fit", zorder=2
    )
    for mask, face, label in ((fitted, "#1f5fa8", "fitted"), (~fitted, "white", "not fitted")):
        if mask.any():
            axes.plot(
                volumes[mask] / number,
                1000 * (energies[mask] - f0) / number,
                "o",
                ms=6.5,
                mfc=face,
                mec="#1f5fa8",
                label=label,
                zorder=3,
            )
    a0 = result.conventional_a
    minimum = f"$V_0$ = {v0 / number:.3f} Å³/atom" if a0 is None else f"$a_0$ = {a0:.4f} Å"
    minimum += f", $B_0$ = {fit.bulk_modulus.item() / units.GPa:.1f} GPa"
    axes.axvline(v0 / number, color="0.75", lw=1, zorder=1)
    axes.plot([v0 / number], [0], "*", ms=15, color="#d1495b", mec="white", label=minimum, zorder=4)
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("free energy above the minimum (meV/atom)")
    axes.spines["right"].set_visible(False)
    axes.legend(loc="upper center", facecolor="white", edgecolor="none", framealpha=1)
    if a0 is None:
        axes.set_title(result.atoms.get_chemical_formula(), loc="left")
        axes.spines["top"].set_visible(False)
    else:
        cells = v0 / number / a0**3  # atomic volume in conventional cells
        to_length, to_volume = (lambda v: np.cbrt(np.asarray(v) / cells)), (lambda a: cells * np.asarray(a) ** 3)
        top = axes.secondary_xaxis("top", functions=(to_length, to_volume))
        top.set_xlabel(f"lattice constant of {result.atoms.get_chemical_formula()} (Å)")
    figure.savefig(path, dpi=160)

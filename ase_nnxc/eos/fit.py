"""Which points of a scan are fitted, the fit by ASE as a check, and reasons to refuse or to doubt a fit."""

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from ase.eos import EquationOfState

from .birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
from .points import Point

# a fit worse than this draws a warning: one standard deviation of V0 (0.1 % of a lattice constant), of B0, and B0'
VOLUME_TOLERANCE, BULK_TOLERANCE, DERIVATIVE_RANGE = 0.003, 0.05, (1.0, 9.0)

# a fit beyond these is refused: B0', standard deviation of the points from the curve relative to the depth of the well
SENSIBLE_DERIVATIVE, LARGEST_SCATTER = (0.0, 12.0), 0.1
# a second minimum is one that a barrier separates, of this part of the depth and so many standard deviations
SMALLEST_BARRIER, BARRIER_DEVIATIONS = 0.01, 3.0
# a jump of the moment is a step from one point to the next of this size (Bohr magnetons) beyond so many usual steps
MOMENT_JUMP, USUAL_STEPS = 0.25, 4.0


def nearest(indices: Sequence[int], lowest: int, count: int) -> list[int]:
    """Return the `count` indices nearest to the lowest point, among them two on either side; `indices` are sorted."""
    at = list(indices).index(lowest)
    core = indices[at - 2 : at + 3]
    others = sorted((i for i in indices if i not in core), key=lambda i: (abs(i - lowest), i))
    return sorted([*core, *others[: count - len(core)]])


def fit_energies(volumes: Sequence[float], energies: Sequence[float]) -> BirchMurnaghan:
    """Fit `fit_birch_murnaghan` to numbers."""
    tensors = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (volumes, energies))
    return fit_birch_murnaghan(*tensors)


def ase_fit(volumes: Sequence[float], energies: Sequence[float]) -> tuple[float, float, float] | None:
    """Return V0, B0 and B0' of ASE's nonlinear fit of the same equation; None if it does not converge."""
    eos = EquationOfState(volumes, energies, eos="birchmurnaghan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's, about the covariance that is not used
            eos.fit(warn=False)
    except (RuntimeError, ValueError):
        return None
    _, bulk, derivative, volume = (float(x) for x in eos.eos_parameters)
    return volume, bulk, derivative


def faults(fit: BirchMurnaghan, fitted: Sequence[Point], finished: Sequence[Point]) -> list[str]:
    """Return reasons why a fit is not an equation of state, as messages.

    Parameters
    ----------
    fit : BirchMurnaghan
        Of the free energies of the fitted points, in eV and Angstrom^3.
    fitted : sequence of Point
        Fitted points in order of volume.
    finished : sequence of Point
        All finished points in order of volume.
    """
    energies = [point.free_energy_eV for point in fitted]
    depth = max(energies) - min(energies)
    freedom = max(len(fitted) - 4, 1)  # the curve has four parameters
    scatter = math.sqrt(fit.residuals.square().sum().item() / freedom)
    volume, derivative = fit.volume.item(), fit.bulk_derivative.item()
    messages = []
    if not SENSIBLE_DERIVATIVE[0] <= derivative <= SENSIBLE_DERIVATIVE[1]:
        messages.append(f"B0' = {derivative:.1f}, outside the range from 0 to 12 of crystals")
    if scatter > LARGEST_SCATTER * depth:
        messages.append(
            f"the points scatter around the curve by {1000 * scatter:.2g} meV, its depth is {1000 * depth:.2g} meV"
        )
    if not fitted[1].volume_A3 <= volume <= fitted[-2].volume_A3:
        messages.append(f"the fitted volume {volume:.3f} A^3 is at the rim of the points")
    barrier = max(SMALLEST_BARRIER * depth, BARRIER_DEVIATIONS * scatter)
    messages += [
        f"there is a second minimum of the free energy at {point.volume_A3:.2f} A^3"
        for point in _other_minima(finished, barrier)
    ]
    messages += _moment_jumps(fitted)
    return messages


def _other_minima(points: Sequence[Point], barrier: float) -> list[Point]:
    """Return the points that the free energy rises from by `barrier` (eV) before it falls to the lowest point.

    Of each side of the lowest point it is the lowest such point.
    """
    energies = [point.free_energy_eV for point in points]
    lowest = energies.index(min(energies))
    minima = []
    for side in (range(lowest - 1, -1, -1), range(lowest + 1, len(points))):
        top, below = energies[lowest], []
        for i in side:  # outwards
            top = max(top, energies[i])
            if top - energies[i] > barrier:
                below.append(i)
        if below:
            minima.append(points[min(below, key=energies.__getitem__)])
    return minima


def _moment_jumps(points: Sequence[Point]) -> list[str]:
    """Return a message for each step of the magnetic moment that is far larger than the other steps."""
    # states with opposite moments have the same energy
    moments = [abs(point.magmom_muB) for point in points if point.magmom_muB is not None]
    if len(moments) < len(points):
        return []
    steps = [abs(b - a) for a, b in pairwise(moments)]
    limit = MOMENT_JUMP + USUAL_STEPS * statistics.median(steps)
    return [
        f"the magnetic moment jumps from {moments[i]:.2f} to {moments[i + 1]:.2f} Bohr magnetons between "
        f"{points[i].volume_A3:.2f} and {points[i + 1].volume_A3:.2f} A^3: the points belong to different states"
        for i, step in enumerate(steps)
        if step > limit
    ]


def doubts(
    fit: BirchMurnaghan,
    by_ase: tuple[float, float, float] | None,
    failed: Mapping[int, str],
) -> list[str]:
    """Return reasons to doubt a fit, as messages.

    Parameters
    ----------
    fit : BirchMurnaghan
        Of the free energies, in eV and Angstrom^3.
    by_ase : tuple of float or None
        Result of `ase_fit` for the same points.
    failed : mapping
        Index to error message of the points whose calculation failed.
    """
    messages = []
    if failed:
        messages.append(f"{len(failed)} of the points failed and were left out: {next(iter(failed.values()))}")
    volume, bulk, derivative = fit.volume.item(), fit.bulk_modulus.item(), fit.bulk_derivative.item()
    v_error, _, b_error, _ = fit.errors.tolist()
    poor = []
    if v_error > VOLUME_TOLERANCE * volume:
        poor.append(f"V0 is uncertain by {100 * v_error / volume:.1f} %")
    if b_error > BULK_TOLERANCE * bulk:
        poor.append(f"B0 is uncertain by {100 * b_error / bulk:.0f} %")
    if not DERIVATIVE_RANGE[0] < derivative < DERIVATIVE_RANGE[1]:
        poor.append(f"B0' = {derivative:.1f}")
    if by_ase is not None and abs(by_ase[0] / volume - 1) > VOLUME_TOLERANCE:
        poor.append(f"ASE's fit gives V0 = {by_ase[0]:.3f} A^3 instead of {volume:.3f}")
    if poor:
        messages.append(f"poor fit: {', '.join(poor)}; the energies may be rough (cutoff, k-points, moments)")
    return messages

"""Reasons why the points of a scan are not those of an equation of state."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .birch_murnaghan import BirchMurnaghan
from .points import Point

# a fit beyond these is refused: B0', standard deviation of the points from the curve relative to the depth of the well
SENSIBLE_DERIVATIVE, LARGEST_SCATTER = (0.0, 12.0), 0.1
# a second minimum is one that a barrier separates, of this part of the depth and so many standard deviations
SMALLEST_BARRIER, BARRIER_DEVIATIONS = 0.01, 3.0
# a jump of the moment is a step from one point to the next of this size (Bohr magnetons) beyond so many usual steps
MOMENT_JUMP, USUAL_STEPS = 0.25, 4.0
# points are on another branch of the SCF if a jump of this part of the depth makes the squared residuals so many times
# smaller; with fewer points than these a jump cannot be told from noise
SMALLEST_ENERGY_JUMP, CLEAR_JUMP, FEWEST_FOR_JUMP = 0.02, 1000.0, 7


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
    volume = fit.volume.item()
    noise = f"the points scatter by {1000 * scatter:.2g} meV around a curve whose depth is {1000 * depth:.2g} meV"
    messages = _senseless_derivative(fit.bulk_derivative.item(), fit.errors[3].item(), noise)
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
    return [*messages, *_moment_jumps(fitted), *_other_branch(fitted, depth)]


def _senseless_derivative(derivative: float, error: float, noise: str) -> list[str]:
    """Return a message if B0' is outside its range, with the noise as a reason if its error reaches the range."""
    beyond = max(SENSIBLE_DERIVATIVE[0] - derivative, derivative - SENSIBLE_DERIVATIVE[1])
    if beyond <= 0:
        return []
    message = f"B0' = {derivative:.1f}, outside the range from 0 to 12 of crystals"
    if error > beyond:  # with four points the error is not known: NaN
        message += f", but uncertain by {error:.1f}, because {noise}; a wider span or a denser mesh helps"
    return [message]


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


def _other_branch(points: Sequence[Point], depth: float) -> list[str]:
    """Return a message if a jump of the free energy explains why the points are not on one smooth curve.

    The cubic polynomial of the Birch-Murnaghan equation is fitted once more with a jump between two neighbours, or of a
    single point, as a fifth function. The jump counts if almost nothing is left of the residuals.
    """
    if len(points) < FEWEST_FOR_JUMP:
        return []
    energies = np.array([point.free_energy_eV for point in points])
    x = np.array([point.volume_A3 for point in points]) ** (-2 / 3)
    powers = np.vander((x - x.mean()) / np.ptp(x), 4)
    number = np.arange(len(points))
    jumps = [(number >= j).astype(float) for j in number[1:]] + [(number == j).astype(float) for j in number[1:-1]]

    def fitted(functions: np.ndarray) -> tuple[float, float]:
        """Return the sum of the squared residuals and the last coefficient."""
        coefficients = np.linalg.lstsq(functions, energies - energies.mean(), rcond=None)[0]
        return float(np.square(energies - energies.mean() - functions @ coefficients).sum()), float(coefficients[-1])

    smooth, _ = fitted(powers)
    with_jumps = [fitted(np.column_stack((powers, jump))) for jump in jumps]
    best = min(range(len(jumps)), key=lambda i: with_jumps[i][0])
    left, height = with_jumps[best]
    if abs(height) < SMALLEST_ENERGY_JUMP * depth or left * CLEAR_JUMP > smooth:
        return []
    at = int(np.argmax(jumps[best]))
    if best < len(points) - 1:
        place = f"between {points[at - 1].volume_A3:.2f} and {points[at].volume_A3:.2f} A^3"
    else:
        place = f"at {points[at].volume_A3:.2f} A^3"
    return [
        f"the free energy jumps by {1000 * height:.2g} meV {place}: the SCF has found another state there, or a gap "
        "is too narrow for whole electrons on one side, which a smaller width of the smearing avoids"
    ]

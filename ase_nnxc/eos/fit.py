"""Which points of a scan are fitted, the fit by ASE as a check, and reasons to doubt a fit."""

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from ase.eos import EquationOfState

from .birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
from .points import Point

# a fit worse than this draws a warning: one standard deviation of V0 (0.1 % of a lattice constant), B0 and B0'; and B0'
VOLUME_TOLERANCE, BULK_TOLERANCE, DERIVATIVE_TOLERANCE, DERIVATIVE_RANGE = 0.003, 0.05, 2.0, (1.0, 9.0)


def nearest(indices: Sequence[int], lowest: int, count: int) -> list[int]:
    """Return the `count` indices nearest to the lowest point, among them two on either side; `indices` are sorted."""
    at = list(indices).index(lowest)
    core = indices[at - 2 : at + 3]
    others = sorted((i for i in indices if i not in core), key=lambda i: (abs(i - lowest), i))
    return sorted([*core, *others[: count - len(core)]])


def fit_energies(volumes: Sequence[float], energies: Sequence[float]) -> BirchMurnaghan:
    """Fit `fit_birch_murnaghan` to numbers."""
    v, e = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (volumes, energies))
    return fit_birch_murnaghan(v, e)


def model_errors(points: Sequence[Point], scatter: Mapping[str, float]) -> tuple[float, float] | None:
    """Return standard deviations of V0 and B0 from the probable errors of the functional; None if it has none.

    Those of a quantity X are |sum_i dX/dF_i d_i|, with the deviations d_i of the free energies F_i. To them adds, in
    squares, the scatter of the functional: relative standard deviations of lattice constants and bulk moduli.
    """
    if any(point.deviations_eV is None for point in points):
        return None
    columns = [[p.volume_A3 for p in points], [p.free_energy_eV for p in points], [p.deviations_eV for p in points]]
    volumes, energies, deviations = (torch.tensor(c, dtype=torch.float64, device="cpu") for c in columns)
    fit = fit_birch_murnaghan(volumes, energies.requires_grad_())
    slopes = [torch.autograd.grad(x, energies, retain_graph=True)[0] for x in (fit.volume, fit.bulk_modulus)]
    volume, bulk_modulus = ((slope @ deviations).norm().item() for slope in slopes)
    return (
        math.hypot(volume, 3 * scatter.get("lattice_constant", 0.0) * fit.volume.item()),
        math.hypot(bulk_modulus, scatter.get("bulk_modulus", 0.0) * fit.bulk_modulus.item()),
    )


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
    v_error, _, b_error, d_error = fit.errors.tolist()
    poor = []
    if v_error > VOLUME_TOLERANCE * volume:
        poor.append(f"V0 is uncertain by {100 * v_error / volume:.1f} %")
    if b_error > BULK_TOLERANCE * bulk:
        poor.append(f"B0 is uncertain by {100 * b_error / bulk:.0f} %")
    if not DERIVATIVE_RANGE[0] < derivative < DERIVATIVE_RANGE[1]:
        poor.append(f"B0' = {derivative:.1f}")
    if d_error > DERIVATIVE_TOLERANCE:
        poor.append(f"B0' is uncertain by {d_error:.1f}")
    if by_ase is not None and abs(by_ase[0] / volume - 1) > VOLUME_TOLERANCE:
        poor.append(f"ASE's fit gives V0 = {by_ase[0]:.3f} A^3 instead of {volume:.3f}")
    if poor:
        messages.append(
            f"poor fit: {', '.join(poor)}; the energies may be rough (cutoff, k-points, moments), or the span may be "
            "too small for a soft crystal"
        )
    return messages

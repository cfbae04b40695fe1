"""Fits of functionals to records at the frozen densities of a parent: minutes instead of days of self-consistency.

The errors of the objectives follow from the energies at frozen densities (`frozen`), and their derivatives by the
parameters from one backward pass for each structure. The last layer is fitted first: energies are linear in it up to
terms of third order, so that the closed-form fit of the linearised errors (`robust_ridge`), with which the ridge is
chosen, begins near the minimum. The method of Levenberg and Marquardt goes on from there, with the last layer and then
with all layers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..eos.birch_murnaghan import NoMinimumError
from ..xc import Functional, NeuralFactors
from .frozen import FrozenPoints, FrozenSet
from .levenberg_marquardt import levenberg_marquardt
from .objectives import OBJECTIVES, Objective
from .prediction import Prediction
from .records import Record
from .robust_ridge import (
    LinearModel,
    Posterior,
    cross_validation,
    left_out_errors,
    nested_residuals,
    scatter,
    student,
    student_weight,
)

LAST_LAYER_STEPS = 20
SMALL_DECREASE = 1e-4
"""Relative decrease of the loss in a step that ends a fit."""
INTERVALS = {"68": 0.994, "95": 1.960}
"""Half widths, in standard deviations, of intervals that hold this per cent of a normal distribution."""


@dataclass(frozen=True)
class Term:
    """An objective in the loss of a fit.

    Attributes
    ----------
    scale : float
        Expected error, in the unit of the objective; errors are divided by it.
    weight : float
        Share of all records of this objective together.
    """

    scale: float
    weight: float = 1.0


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit.

    Attributes
    ----------
    terms : mapping of str to Term
        By names of `OBJECTIVES`.
    ridges : tuple of float
        Candidates of lambda, the factor of |theta - anchor|^2; see `FrozenErrors`.
    steps : int
        Largest number of Levenberg-Marquardt steps of all layers; with 0 only the last layer is fitted.
    known_errors : mapping
        Errors of the functional as the fit begins, in the unit of the objective, by objectives and records: where they
        are known better than from the frozen densities. See `FrozenErrors`.
    """

    terms: Mapping[str, Term]
    ridges: tuple[float, ...] = tuple(10.0**k for k in range(-3, 5))
    steps: int = 0
    known_errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One error: of an objective, for a record."""

    record: str
    objective: str
    scale: float
    coefficient: float


def rows_of(records: Sequence[Record], settings: FitSettings) -> list[Row]:
    """Return what the errors of records belong to, for each objective those of the records that it reads."""
    rows: list[Row] = []
    for name, term in settings.terms.items():
        objective = OBJECTIVES[name]()
        reading = [record.name for record in records if objective.applies(record)]
        rows += [Row(record, name, term.scale, term.weight / len(reading)) for record in reading]
    return rows


def check_fit(
    records: Sequence[Record], test: Sequence[Record], classes: Mapping[str, str], settings: FitSettings
) -> None:
    """Check that records suffice for a fit, before their densities are calculated; arguments are those of `fit_frozen`.

    Raises
    ------
    InputError
        If they have fewer than three classes, if an objective reads none of them or no objective reads one of them, or
        if the energies of a record, also of the test, are a reference and have no minimum.
    """
    rows = rows_of(records, settings)
    _groups(rows, classes, settings)
    unread = [record.name for record in records if record.name not in {row.record for row in rows}]
    if unread:
        raise InputError(f"records: no objective reads record {unread[0]!r}; leave it out, or add its objective")
    for objective in (OBJECTIVES[name]() for name in settings.terms):
        for record in filter(objective.applies, (*records, *test)):
            objective.check_reference(record)


class FrozenErrors:
    """Errors of records at frozen densities as functions of some parameters theta (p,) of a functional.

    Where the error of the functional with its present parameters theta_0 is known, for instance from calculations with
    all electrons if it is still its parent, only the change is taken from the frozen densities:

        error[theta] = known error[theta_0] + error_frozen[theta] - error_frozen[theta_0]

    Errors of meshes, cutoffs and pseudopotentials, and those of the first order in the density, then cancel in part.

    Parameters
    ----------
    functional : Functional
        The functional; its parameters are changed in place.
    parameters : sequence of Tensor
        Those of its parameters that make theta.
    parent : Functional
        The functional of the densities.
    data : FrozenSet
        Records and densities.
    settings : FitSettings
        Objectives, and known errors of the functional with its present parameters.

    Attributes
    ----------
    rows : list of Row
        What each error belongs to.
    anchor : Tensor
        (p,) what the ridge draws theta to: zero for the last layer, where the functional is its parent, and the present
        values for hidden layers.

    Raises
    ------
    NoMinimumError
        If there are known errors, and an equation of state has no minimum.
    """

    def __init__(
        self,
        functional: NeuralFactors,
        parameters: Sequence[Tensor],
        parent: Functional,
        data: FrozenSet,
        settings: FitSettings,
    ) -> None:
        self.functional, self.parameters, self.data = functional, list(parameters), data
        with torch.no_grad():
            self._other = torch.stack([points.energy - points.energy_of(parent) for points in data.points])
        last = {id(parameter) for parameter in functional.last_layer}
        self.anchor = torch.cat(
            [torch.zeros_like(p).flatten() if id(p) in last else p.detach().flatten() for p in parameters]
        )
        self.rows = rows_of(data.records, settings)
        index = {record.name: i for i, record in enumerate(data.records)}
        self._objectives = [(index[row.record], OBJECTIVES[row.objective]()) for row in self.rows]
        self._offsets = torch.zeros(len(self.rows), dtype=self._other.dtype, device=self._other.device)
        if settings.known_errors:
            self._offsets = self._offsets_to(settings.known_errors)

    @property
    def theta(self) -> Tensor:
        """The present parameters (p,)."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def set(self, theta: Tensor) -> None:
        """Set the parameters of the functional."""
        with torch.no_grad():
            for parameter, values in zip(self.parameters, theta.split([p.numel() for p in self.parameters])):
                parameter.copy_(values.view_as(parameter))

    @property
    def coefficients(self) -> Tensor:
        """The coefficients (m,) of the errors in the loss."""
        return self._column("coefficient")

    def residuals(self, theta: Tensor) -> Tensor:
        """Return the errors (m,) divided by their scales.

        Raises
        ------
        NoMinimumError
            If an equation of state has no minimum.
        """
        self.set(theta)
        with torch.no_grad():
            energies = self._other + torch.stack([points.energy_of(self.functional) for points in self.data.points])
            return self._residuals(energies)

    def linearised(self, theta: Tensor) -> LinearModel:
        """Return the residuals as a linear model of changes of theta."""
        self.set(theta)
        values, slopes = zip(*(self._energy_and_slope(points) for points in self.data.points))
        energies = (self._other + torch.stack(values)).requires_grad_()
        residuals = self._residuals(energies)
        by_energy = torch.stack([torch.autograd.grad(r, energies, retain_graph=True)[0] for r in residuals])
        return LinearModel(residuals.detach(), by_energy @ torch.stack(slopes), self.coefficients, self.anchor - theta)

    def _offsets_to(self, known: Mapping[str, Mapping[str, float]]) -> Tensor:
        """Return the known errors of the functional minus those at the frozen densities (m,), zero where unknown."""
        frozen = self.residuals(self.theta) * self._column("scale")
        errors = [known.get(row.objective, {}).get(row.record) for row in self.rows]
        return torch.stack([e.new_zeros(()) if x is None else x - e for x, e in zip(errors, frozen)])

    def _residuals(self, energies: Tensor) -> Tensor:
        """Return the residuals (m,) at the energies of all structures, eV."""
        errors = [self._error(i, objective, energies) for i, objective in self._objectives]
        return (torch.stack(errors) + self._offsets) / self._column("scale")

    def _error(self, index: int, objective: Objective, energies: Tensor) -> Tensor:
        """Return the error () of an objective for a record; a NoMinimumError names them."""
        record, prediction = self.data.records[index], Prediction(energies[list(self.data.structures[index])])
        try:
            return objective.errors(prediction, record).reshape(())
        except NoMinimumError as error:
            name = objective.config()["name"]
            raise NoMinimumError(f"record {record.name!r}, {name} at the frozen densities: {error}") from error

    def _energy_and_slope(self, points: FrozenPoints) -> tuple[Tensor, Tensor]:
        """Return the energy (), eV, of the functional at the points and its derivatives (p,)."""
        energy = points.energy_of(self.functional)
        gradients = torch.autograd.grad(energy, self.parameters)
        return energy.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    def _column(self, name: str) -> Tensor:
        return self._other.new_tensor([getattr(row, name) for row in self.rows])


class RobustLoss:
    """The loss of `robust_ridge` with errors that are not linear in the parameters, for `levenberg_marquardt`."""

    def __init__(self, errors: FrozenErrors, ridge: float) -> None:
        self._errors, self._ridge = errors, ridge

    def loss(self, theta: Tensor) -> float:
        """Return the loss; infinite if an equation of state has no minimum."""
        try:
            rho = student(self._errors.residuals(theta))
        except NoMinimumError:
            return math.inf
        return float(self._errors.coefficients @ rho + self._ridge * (theta - self._errors.anchor).square().sum())

    def normal_equations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return half of the gradient (p,) and half of the second derivatives (p, p) of the reweighted squares."""
        model = self._errors.linearised(theta)
        weights = model.coefficients * student_weight(model.residuals)
        gradient = model.slopes.mT @ (weights * model.residuals) - self._ridge * model.anchor
        return gradient, model.hessian(torch.zeros_like(theta), self._ridge)


def fit_frozen(
    functional: NeuralFactors,
    parent: Functional,
    data: FrozenSet,
    test: FrozenSet | None,
    classes: Mapping[str, str],
    settings: FitSettings,
) -> dict[str, Any]:
    """Fit a functional, in place, and set its posterior and its scatter.

    Parameters
    ----------
    functional : NeuralFactors
        The functional to fit, from its present parameters.
    parent : Functional
        The functional of the densities.
    data, test : FrozenSet
        Records that are fitted, and others that are only predicted.
    classes : mapping of str to str
        Class of each record; those of a class are left out together. Records without one are always fitted.
    settings : FitSettings
        Settings of the fit.

    Returns
    -------
    dict
        Plain data: errors of each record before and after the fit, in cross-validation, and of the test; the ridge, the
        scores of all ridges, temperature, effective number of parameters, and scatter; for each objective the root mean
        square of the errors of the test divided by their standard deviations, and the shares of the test within
        intervals of 68 and 95 per cent.

    Raises
    ------
    InputError
        If the records have fewer than three classes, or an objective reads no record.
    NoMinimumError
        If an equation of state has no minimum as the fit begins, or one of the test at its end.
    """
    # all of them before the fit: known errors are those of the present parameters
    errors = FrozenErrors(functional, functional.last_layer, parent, data, settings)
    whole = FrozenErrors(functional, list(functional.parameters()), parent, data, settings) if settings.steps else None
    others = None if test is None else FrozenErrors(functional, functional.last_layer, parent, test, settings)
    groups = _groups(errors.rows, classes, settings)
    start = errors.theta
    first = errors.linearised(start)
    ridges = _sufficient_ridges(first, len({row.record for row in errors.rows if row.record in classes}), settings)
    validation = cross_validation(first, groups, ridges)
    nested = nested_residuals(first, groups, ridges)
    ridge = validation.best
    near = min((start, start + first.fit(ridge)), key=RobustLoss(errors, ridge).loss)
    _minimise(errors, near, ridge, LAST_LAYER_STEPS)
    if whole is not None:
        _minimise(whole, whole.theta, ridge, settings.steps)
    theta = errors.theta
    last = errors.linearised(theta)
    posterior = Posterior.of(last, torch.zeros_like(theta), ridge)
    with torch.no_grad():
        functional.posterior.copy_(posterior.root)
    functional.scatter = _scatter(errors.rows, *left_out_errors(first, _by_record(errors.rows, groups), ridge))
    report: dict[str, Any] = {
        "ridge": ridge,
        "ridges": dict(zip(map(str, validation.ridges), validation.scores.mean(1).tolist())),
        "effective_parameters": posterior.effective_parameters,
        "temperature": posterior.temperature,
        "scatter": functional.scatter,
        "fit": _table(errors.rows, start=first.residuals, fitted=last.residuals, cross_validated=nested),
    }
    if others is not None:
        report |= _report_of_test(functional, others, others.linearised(start).residuals, others.linearised(theta))
    return report


def _report_of_test(
    functional: NeuralFactors, errors: FrozenErrors, start: Tensor, fitted: LinearModel
) -> dict[str, Any]:
    """The errors of the test (m,) before and after the fit beside their standard deviations, and how these hold."""
    rows = errors.rows
    unexplained = start.new_tensor([functional.scatter[row.objective] / row.scale for row in rows])
    deviations = torch.hypot((fitted.slopes @ functional.posterior).norm(dim=1), unexplained)
    normalised = fitted.residuals / deviations
    report: dict[str, Any] = {
        "test": _table(rows, start=start, fitted=fitted.residuals, standard_deviation=deviations),
        "normalised_errors": _by_objective(rows, normalised.square(), lambda x: x.mean().sqrt()),
    }
    for percent, width in INTERVALS.items():
        report[f"coverage_{percent}"] = _by_objective(rows, (normalised.abs() <= width).to(start.dtype), torch.mean)
    return report


def _groups(rows: Sequence[Row], classes: Mapping[str, str], settings: FitSettings) -> Tensor:
    """Return the number (m,) of the class of each row, -1 without one; raise InputError if there are too few."""
    unread = settings.terms.keys() - {row.objective for row in rows}
    if unread:
        raise InputError(f"objectives.{min(unread)}: no record that is fitted has its target")
    names = sorted({classes[row.record] for row in rows if row.record in classes and row.coefficient > 0})
    if len(names) < 3:
        raise InputError(
            f"classes: nested cross-validation needs three or more with records that are fitted, got {len(names)}"
            f"{': ' if names else ''}{', '.join(names)}"
        )
    labels = [classes.get(row.record) for row in rows]
    return torch.tensor([names.index(label) if label in names else -1 for label in labels], device="cpu")


def _by_record(rows: Sequence[Row], groups: Tensor) -> Tensor:
    """Return the groups (m,) with one of its own for each record that has no class."""
    alone = sorted({row.record for row, group in zip(rows, groups.tolist()) if group < 0})
    numbers = [-1 - alone.index(row.record) if group < 0 else group for row, group in zip(rows, groups.tolist())]
    return torch.tensor(numbers, device="cpu")


def _sufficient_ridges(model: LinearModel, records: int, settings: FitSettings) -> tuple[float, ...]:
    """Return the ridges that leave at most one effective parameter for two records with a class, or the largest."""
    effective = {r: Posterior.of(model, model.fit(r), r).effective_parameters for r in settings.ridges}
    return tuple(r for r, count in effective.items() if count <= records / 2) or (max(settings.ridges),)


def _minimise(errors: FrozenErrors, theta: Tensor, ridge: float, steps: int) -> None:
    """Set the parameters of the minimum of the loss that is found from theta (p,)."""
    description = f"fit of {len(theta)} parameters"
    found, _ = levenberg_marquardt(RobustLoss(errors, ridge), theta, steps, description, tolerance=SMALL_DECREASE)
    errors.set(found)


def _scatter(rows: Sequence[Row], residuals: Tensor, variances: Tensor) -> dict[str, float]:
    """Return the scatter of each objective, in its unit, from residuals and variances (m,) of rows left out of fits."""
    masks = _masks(rows)
    scales = {row.objective: row.scale for row in rows}
    return {name: scales[name] * scatter(residuals[mask], variances[mask]) for name, mask in masks.items()}


def _by_objective(rows: Sequence[Row], values: Tensor, mean: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return a mean of the values (m,) of each objective."""
    return {name: mean(values[mask]).item() for name, mask in _masks(rows).items()}


def _masks(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Return which of the rows (m,) belong to each objective."""
    names = [row.objective for row in rows]
    return {name: torch.tensor([other == name for other in names], device="cpu") for name in dict.fromkeys(names)}


def _table(rows: Sequence[Row], **residuals: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """Return errors in their units by objective, record, and name of the column; those that are NaN are left out."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for i, row in enumerate(rows):
        columns = {name: float(values[i]) * row.scale for name, values in residuals.items()}
        known = {name: value for name, value in columns.items() if not math.isnan(value)}
        table.setdefault(row.objective, {})[row.record] = known
    return table

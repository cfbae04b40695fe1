"""Robust ridge regression of linear models, cross-validation over groups of rows, and the posterior of the parameters.

For residuals r = r_0 + J d of m rows, with coefficients c_i, the parameters d minimise

    C(d) = sum_i c_i rho(r_i) + lambda |d - d_0|^2,   rho(r) = nu ln(1 + r^2 / nu)

rho is r^2 for small residuals and grows as a logarithm for large ones, as the likelihood of Student's distribution of
nu degrees of freedom: no single row decides. The minimum is found by iteratively reweighted least squares: with weights
w_i = c_i / (1 + r_i^2 / nu) each step is a linear equation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

DEGREES = 4.0
"""nu of Student's distribution."""

_STEPS, _CONVERGED = 200, 1e-10


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Residuals of the rows of a regression as linear functions of changes d of the parameters.

    Attributes
    ----------
    residuals : Tensor
        (m,) r_0, in units of the expected errors.
    slopes : Tensor
        (m, p) J.
    coefficients : Tensor
        (m,) c.
    anchor : Tensor
        (p,) d_0.
    """

    residuals: Tensor
    slopes: Tensor
    coefficients: Tensor
    anchor: Tensor

    def select(self, rows: Tensor) -> "LinearModel":
        """Return the model of some of the rows, given by a mask or an index."""
        return LinearModel(self.residuals[rows], self.slopes[rows], self.coefficients[rows], self.anchor)

    def at(self, change: Tensor) -> Tensor:
        """Return the residuals (m,) at d (p,)."""
        return self.residuals + self.slopes @ change

    def fit(self, ridge: float) -> Tensor:
        """Return the d (p,) of the minimum."""
        change = self.anchor
        for _ in range(_STEPS):
            weights = self.coefficients * student_weight(self.at(change))
            # (J^T W J + lambda) d = lambda d_0 - J^T W r_0
            target = ridge * self.anchor - self.slopes.mT @ (weights * self.residuals)
            before, change = change, torch.linalg.solve(self.hessian(change, ridge), target)
            if (change - before).abs().max() <= _CONVERGED * (1 + change.abs().max()):
                break
        return change

    def hessian(self, change: Tensor, ridge: float) -> Tensor:
        """Return H = J^T W J + lambda (p, p) with the weights of d (p,)."""
        weights = self.coefficients * student_weight(self.at(change))
        return (self.slopes.mT * weights) @ self.slopes + ridge * _identity(self.slopes)


def _identity(slopes: Tensor) -> Tensor:
    return torch.eye(slopes.shape[1], dtype=slopes.dtype, device=slopes.device)


def student(residuals: Tensor) -> Tensor:
    """Return rho(r), of the shape of r."""
    return DEGREES * torch.log1p(residuals.square() / DEGREES)


def student_weight(residuals: Tensor) -> Tensor:
    """Return d(rho)/d(r^2) = 1 / (1 + r^2 / nu), of the shape of r."""
    return 1 / (1 + residuals.square() / DEGREES)


@dataclass(frozen=True)
class CrossValidation:
    """Scores of ridges on groups of rows that are left out one by one.

    Attributes
    ----------
    ridges : tuple of float
        In increasing order.
    scores : Tensor
        (ridges, groups) mean of rho over the rows of the group, weighted by their coefficients.
    """

    ridges: tuple[float, ...]
    scores: Tensor

    @property
    def best(self) -> float:
        """The largest ridge whose mean score exceeds the lowest by at most one standard error of the difference.

        Groups differ in how hard they are to predict, with all ridges; in the difference between two ridges this
        cancels.
        """
        excess = self.scores - self.scores[int(self.scores.mean(1).argmin())]
        errors = excess.std(1, correction=0) / max(1, excess.shape[1] - 1) ** 0.5
        return self.ridges[int((excess.mean(1) <= errors).nonzero().max())]


def cross_validation(model: LinearModel, groups: Tensor, ridges: Sequence[float]) -> CrossValidation:
    """Return the scores of ridges.

    Parameters
    ----------
    model : LinearModel
        The regression.
    groups : Tensor
        (m,) number of the group of each row; rows with -1 are never left out.
    ridges : sequence of float
        Candidates.
    """
    ordered = tuple(sorted(ridges))
    scores = [[_score(model, groups == group, ridge) for group in _numbers(groups)] for ridge in ordered]
    return CrossValidation(ordered, torch.tensor(scores, dtype=torch.float64, device="cpu"))


def _score(model: LinearModel, left_out: Tensor, ridge: float) -> float:
    test = model.select(left_out)
    rho = student(test.at(model.select(~left_out).fit(ridge)))
    return float((test.coefficients * rho).sum() / test.coefficients.sum())


def nested_residuals(model: LinearModel, groups: Tensor, ridges: Sequence[float]) -> Tensor:
    """Return residuals (m,) of each group from a fit without it, whose ridge was chosen without it; NaN for group -1.

    The parameters are those of `cross_validation`.
    """
    residuals = torch.full_like(model.residuals, torch.nan)
    for group in _numbers(groups):
        left_out = groups == group
        rest = model.select(~left_out)
        ridge = cross_validation(rest, groups[~left_out], ridges).best
        residuals[left_out] = model.select(left_out).at(rest.fit(ridge))
    return residuals


def left_out_errors(model: LinearModel, groups: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return residuals (m,) of each group from a fit without it, and their variances (m,) by the posterior of that fit.

    Parameters
    ----------
    model : LinearModel
        The regression.
    groups : Tensor
        (m,) number of the group of each row.
    ridge : float
        The ridge of all fits.
    """
    residuals, variances = torch.empty_like(model.residuals), torch.empty_like(model.residuals)
    for group in groups.unique():
        left_out = groups == group
        rest, test = model.select(~left_out), model.select(left_out)
        change = rest.fit(ridge)
        residuals[left_out] = test.at(change)
        variances[left_out] = (test.slopes @ Posterior.of(rest, change, ridge).root).square().sum(1)
    return residuals, variances


def scatter(residuals: Tensor, variances: Tensor) -> float:
    """Return the s >= 0 with which the mean of r^2 / (s^2 + v) is one, for residuals r (m,) with variances v (m,).

    It is zero if the variances alone explain the residuals.
    """

    def excess(s2: float) -> float:
        return float((residuals.square() / (s2 + variances)).mean()) - 1

    largest = float(residuals.square().max())
    return math.sqrt(brentq(excess, 0.0, largest)) if excess(0.0) > 0 else 0.0


def _numbers(groups: Tensor) -> list[int]:
    return [int(group) for group in groups.unique() if group >= 0]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Probable errors of fitted parameters, in the form of BEEF.

    Parameters are distributed as N(d, T H^-1), with the temperature T = C_data / N_eff, C_data = sum_i c_i w_i r_i^2 at
    the minimum, and the effective number of parameters N_eff = tr[H^-1 (H - lambda)]: for equal weights the variances
    of the fitted rows then add up to their squared residuals (K. W. Jacobsen et al., Phys. Rev. Lett. 95, 216401
    (2005); J. Wellendorff et al., Phys. Rev. B 85, 235149 (2012)).

    Attributes
    ----------
    root : Tensor
        (p, p) lower triangular matrix L with L L^T = T H^-1.
    temperature, effective_parameters : float
        T and N_eff.
    """

    root: Tensor
    temperature: float
    effective_parameters: float

    @classmethod
    def of(cls, model: LinearModel, change: Tensor, ridge: float) -> "Posterior":
        """Return the posterior of a model at the d (p,) that was fitted with a ridge."""
        hessian, residuals = model.hessian(change, ridge), model.at(change)
        inverse = torch.linalg.inv(hessian)
        effective = len(hessian) - ridge * float(inverse.trace())
        data = float((model.coefficients * student_weight(residuals) * residuals.square()).sum())
        temperature = data / effective
        return cls(torch.linalg.cholesky(temperature * (inverse + inverse.mT) / 2), temperature, effective)

"""The method of Levenberg and Marquardt, for sums of squares and similar losses.

K. Levenberg, Quart. Appl. Math. 2, 164 (1944); D. W. Marquardt, J. Soc. Ind. Appl. Math. 11, 431 (1963).
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

FIRST_DAMPING, LARGEST_DAMPING = 1e-2, 1e12


class Problem(Protocol):
    """A loss of parameters theta (p,)."""

    def loss(self, theta: Tensor) -> float:
        """Return the loss."""

    def normal_equations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return half of the gradient (p,) and half of an approximation of the second derivatives (p, p).

        Those of a sum of the squares of residuals r with the derivatives J are J^T r and J^T J.
        """


def levenberg_marquardt(
    problem: Problem,
    theta: Tensor,
    steps: int,
    description: str,
    validation: Callable[[Tensor], float] | None = None,
    tolerance: float = 0.0,
) -> tuple[Tensor, int]:
    """Minimise a loss.

    Parameters
    ----------
    problem : Problem
        The loss.
    theta : Tensor
        (p,) parameters to begin with.
    steps : int
        Largest number of steps.
    description : str
        Shown in the bar of progress.
    validation : callable, optional
        Another loss of the parameters; those where it is lowest are returned. Default: the last ones.
    tolerance : float
        Stop after a step that decreases the loss by less than this share of it.

    Returns
    -------
    theta : Tensor
        (p,) parameters.
    steps : int
        Number of steps.
    """
    loss, damping = problem.loss(theta), FIRST_DAMPING
    best, best_loss = theta, math.inf if validation is None else validation(theta)
    bar = tqdm(range(1, steps + 1), desc=description, disable=None)
    for step in bar:
        gradient, hessian = problem.normal_equations(theta)
        diagonal = hessian.diagonal().clamp(min=1e-12 * float(hessian.diagonal().max()))
        before, trial_loss = loss, math.inf
        while not trial_loss < loss:
            if damping > LARGEST_DAMPING:
                return best, step  # no step decreases the loss: a minimum
            trial = theta - torch.linalg.solve(hessian + (damping * diagonal).diag(), gradient)
            trial_loss = problem.loss(trial)
            damping *= 1 / 3 if trial_loss < loss else 4
        theta, loss = trial, trial_loss
        validation_loss = loss if validation is None else validation(theta)
        if validation_loss < best_loss:
            best, best_loss = theta, validation_loss
        bar.set_postfix(loss=f"{loss:.2e}", validation=f"{validation_loss:.2e}", refresh=False)
        if before - loss < tolerance * before:
            return best, step
    return best, steps

"""Anderson's mixing of the potential of an atom."""

import numpy as np

from .elements import Array

DEPTH = 6  # number of steps that are kept
FRACTION = 0.5  # of the residual that is added
REGULARIZATION = 1e-13  # of the normal equations, relative to their trace


class AndersonMixing:
    """The next potential from those before and their residuals; D. G. Anderson, J. ACM 12, 547 (1965).

    Parameters
    ----------
    weights : Array
        (N,) weights of the scalar product of residuals.
    """

    def __init__(self, weights: Array) -> None:
        self._weights = weights
        self._steps: list[tuple[Array, Array]] = []

    def __call__(self, potential: Array, residual: Array) -> Array:
        """Return the next potential (N,): the residual of the best combination of the last steps is the smallest."""
        result = potential + FRACTION * residual
        if self._steps:
            changes = np.array([potential - x for x, _ in self._steps])
            differences = np.array([residual - f for _, f in self._steps])
            matrix = (differences * self._weights) @ differences.T
            matrix += REGULARIZATION * np.trace(matrix) * np.eye(len(matrix))
            shares = np.linalg.lstsq(matrix, (differences * self._weights) @ residual, rcond=None)[0]
            result = result - shares @ (changes + FRACTION * differences)
        self._steps = [*self._steps, (potential, residual)][-DEPTH:]
        return result

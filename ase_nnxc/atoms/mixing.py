"""Anderson's mixing of the potential of an atom."""

import numpy as np

from .elements import Array

DEPTH = 6  # number of steps that are kept
FRACTION = 0.5  # of the residual that is added
REGULARIZATION = 1e-13  # of the normal equations, relative to their trace


class AndersonMixing:
    """The next potential from those before and their residuals; D. G. Anderson, J. ACM 12, 547 (1965)."""

    def __init__(self) -> None:
        self._steps: list[tuple[Array, Array]] = []

    def __call__(self, potential: Array, residual: Array, weights: Array) -> Array:
        """Return the next potential (N,), with which a combination of the last steps has the smallest residual.

        Parameters
        ----------
        potential, residual : Array
            (N,) the last potential, and that of its density less itself.
        weights : Array
            (N,) weights of the square of a residual.
        """
        result = potential + FRACTION * residual
        if self._steps:
            changes = np.array([potential - x for x, _ in self._steps])
            differences = np.array([residual - f for _, f in self._steps])
            matrix = (differences * weights) @ differences.T
            matrix += REGULARIZATION * np.trace(matrix) * np.eye(len(matrix))
            shares = np.linalg.lstsq(matrix, (differences * weights) @ residual, rcond=None)[0]
            result = result - shares @ (changes + FRACTION * differences)
        self._steps = [*self._steps, (potential, residual)][-DEPTH:]
        return result

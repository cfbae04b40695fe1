"""The minimum of the cubic polynomial through points of a curve."""

from collections.abc import Sequence

import numpy as np


def minimum_of_cubic(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Return the minimum of the cubic polynomial through points, by least squares, and the second derivative there.

    It is None if there is no minimum between the points, or if a value is NaN.
    """
    if np.isnan(y).any():
        return None
    polynomial = np.poly1d(np.polyfit(x, y, 3))
    slope, curvature = polynomial.deriv(), polynomial.deriv(2)
    minima = [root.real for root in slope.roots if not root.imag and curvature(root.real) > 0]
    inside = [root for root in minima if min(x) < root < max(x)]
    if not inside:
        return None
    [position] = inside  # a cubic polynomial has one minimum at most
    return float(position), float(curvature(position))

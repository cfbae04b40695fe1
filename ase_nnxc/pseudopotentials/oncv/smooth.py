"""Two sets of elements: those of the all-electron atom, and those of the pseudo-atom, which has no nucleus.

Both have the same nodes beyond `INNER` bohr. The many small elements that the all-electron functions need near the
nucleus are one in the second set: pseudo functions are smooth there, and derivatives on small elements are noisy.
"""

import numpy as np

from ...atoms import Elements
from ...atoms.elements import Array

INNER = 0.25
"""The first element of the second set ends at the first edge beyond this radius, bohr."""


class SmoothElements(Elements):
    """Elements for pseudo functions, made from those of an all-electron atom."""

    @classmethod
    def of(cls, elements: Elements) -> "SmoothElements":
        """Join the elements of an atom near the nucleus."""
        edges = elements.edges
        return cls(np.concatenate(([0.0], edges[edges > INNER])), elements.order)

    def outside(self, function: Array) -> Array:
        """Return an all-electron function (N,) on the nodes here; within the first element it is zero."""
        result = np.zeros(len(self.radii))
        result[self.order :] = function[len(function) - len(result) + self.order :]
        return result

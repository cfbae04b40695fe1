"""Metrics of a run: sums of losses and errors over records, and the learning curve."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass
class Totals:
    """Sums of losses and squared errors over records."""

    loss: float = 0.0
    count: int = 0  # records whose losses are summed
    squares: dict[str, float] = field(default_factory=dict)  # sums of mean squared errors, by label of the objective
    counts: dict[str, int] = field(default_factory=dict)  # records in these
    failed: dict[str, str] = field(default_factory=dict)  # messages of the records that failed, by name

    def add(self, other: "Totals") -> None:
        """Add the sums over other records."""
        self.loss, self.count = self.loss + other.loss, self.count + other.count
        for label, square in other.squares.items():
            self.squares[label] = self.squares.get(label, 0.0) + square
            self.counts[label] = self.counts.get(label, 0) + other.counts[label]
        self.failed |= other.failed

    def mean(self) -> float:
        """Return the mean loss of a record; infinity if all records failed."""
        return self.loss / self.count if self.count else math.inf

    def errors(self) -> dict[str, float]:
        """Return the root mean square error of each objective, in its unit."""
        return {label: math.sqrt(square / self.counts[label]) for label, square in self.squares.items()}


def plot_learning_curve(history: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plot loss and validation loss against the epoch.

    Parameters
    ----------
    history : sequence of dict
        Metrics of the epochs.
    path : path
        File of the picture.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for key, name in (("loss", "training"), ("validation_loss", "validation")):
        axes.semilogy([m["epoch"] for m in history], [m[key] for m in history], ".-", label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path, dpi=150)

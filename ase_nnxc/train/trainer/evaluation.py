"""Errors of a calculator's predictions on records."""

import math
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ...calculator import NNXCCalculator
from ..objectives import OBJECTIVES, Objective
from ..records import Record
from ..warm import WarmCalculators
from .losses import FAILURES, Objectives


def evaluate(calculator: NNXCCalculator, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the errors of a calculator's predictions on records, for every objective that reads them.

    Absolute energies and densities are compared if the targets were calculated with the same pseudopotentials.

    Parameters
    ----------
    calculator : NNXCCalculator
        With any functional.
    records : sequence of Record
        With targets.

    Returns
    -------
    list of dict
        For each record its name ("record"), and "errors": the root mean square ("rms") and the "unit" of each
        objective; or "error": why the calculation failed.
    """
    warm, rows = WarmCalculators(calculator, memory=1.0), []
    objectives: dict[str, Objective] = {name: cls() for name, cls in OBJECTIVES.items()}
    for record in tqdm(records, desc="records", disable=None):
        row: dict[str, Any] = {"record": record.name}
        reading = [o for o in objectives.values() if o.applies(record) and o.obstacle(record, calculator) is None]
        try:
            squares = Objectives(reading).squared_errors(warm.predict(record), record)
            row["errors"] = {n: {"rms": math.sqrt(s), "unit": objectives[n].unit} for n, s in squares.items()}
        except FAILURES as error:
            row["error"] = str(error)
        rows.append(row)
    return rows

"""Errors of a calculator's predictions on records."""

import math
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ...calculator import NNXCCalculator
from ..objectives import OBJECTIVES, Objective
from ..prediction import Prediction
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
        objective, or its "error", such as a curve without a minimum. If the structures cannot be calculated the record
        has an "error" instead of "errors".
    """
    warm, rows = WarmCalculators(calculator, memory=1.0), []
    objectives: dict[str, Objective] = {name: cls() for name, cls in OBJECTIVES.items()}
    for record in tqdm(records, desc="records", disable=None):
        row: dict[str, Any] = {"record": record.name}
        reading = {n: o for n, o in objectives.items() if o.applies(record) and o.obstacle(record, calculator) is None}
        try:
            prediction = warm.predict(record)
        except FAILURES as error:
            row["error"] = str(error)
        else:
            row["errors"] = {name: _error(objective, prediction, record) for name, objective in reading.items()}
        rows.append(row)
    return rows


def _error(objective: Objective, prediction: Prediction, record: Record) -> dict[str, Any]:
    """Return "rms" and "unit" of an objective's errors, or the "error" for which it has none."""
    try:
        [square] = Objectives([objective]).squared_errors(prediction, record).values()
    except FAILURES as error:
        return {"error": str(error)}
    return {"rms": math.sqrt(square), "unit": objective.unit}

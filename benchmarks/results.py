"""Files of results by case, one line for each, that scripts write when a case is finished and go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_results(path: Path) -> dict[str, Any]:
    """Return what `write_results` wrote, or an empty dict if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results by case, in this order."""
    lines = (f"{json.dumps(case)}: {json.dumps(result)}" for case, result in results.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")

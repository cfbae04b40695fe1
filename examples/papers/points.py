"""Points of a scan by case, kept in a file as soon as each is calculated, so that scripts resume."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import encode

from ase_nnxc import NNXCCalculator, PySCFCalculator
from benchmarks.results import read_results, write_results

Point = dict[str, Any]
FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "results.md"
END = "<!-- end of the table -->"


def complete(
    path: Path,
    case: str,
    settings: Mapping[str, Any],
    structures: Mapping[str, Atoms],
    calculate: Callable[[Atoms], Point],
) -> dict[str, Point]:
    """Return the points of a case by label of the structure, after those that the file lacks are calculated.

    A point has the item "free_energy", eV. Points of other settings, which are plain data, are discarded. The file has
    the settings, the points, and their wall times in seconds.
    """
    results = read_results(path)
    if results.get(case, {}).get("settings") != settings:
        results[case] = {"settings": settings, "points": {}}
    points = results[case]["points"]
    for label, atoms in structures.items():
        if label not in points:
            began = time.perf_counter()
            point = calculate(atoms)
            points[label] = point | {"seconds": round(time.perf_counter() - began, 1)}
            print(f"{path.stem}: {case}, {label}: {point['free_energy']:.4f} eV", flush=True)
            write_results(path, results)
    return {label: points[label] for label in structures}


def settings_of(calc: NNXCCalculator | PySCFCalculator, structures: Mapping[str, Atoms]) -> dict[str, Any]:
    """Return the settings that points of a calculator are kept by, as plain data.

    They are its parameters with the digest of a functional that is not conventional and, unless PySCF takes them by
    name, the digests of the pseudopotentials of all elements.
    """
    settings = calc.todict()
    if isinstance(calc, NNXCCalculator):
        symbols = sorted({symbol for atoms in structures.values() for symbol in atoms.symbols})
        settings["tables"] = calc.pseudopotential_digests(Atoms(symbols))
    return json.loads(encode(settings))


def results_of(calc: NNXCCalculator, *names: str) -> Callable[[Atoms], Point]:
    """Return a function that calculates the named results of a structure, such as its free energy."""

    def calculate(atoms: Atoms) -> Point:
        calc.calculate(atoms, list(names))
        return {name: np.asarray(calc.results[name]).tolist() for name in names}

    return calculate


def write_table(experiment: str, table: str) -> None:
    """Write the table of an experiment to its README and to docs/results.md, and print it."""
    begin = f"<!-- table: python -m examples.papers.{experiment} -->"
    for page in (FOLDER / experiment / "README.md", PAGE):
        before, rest = page.read_text(encoding="utf-8").split(begin)
        after = rest.split(END, 1)[1]
        page.write_text(f"{before}{begin}\n{table}\n{END}{after}", encoding="utf-8")
    print(table)

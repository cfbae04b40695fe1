"""Self-consistent equations of state of nnxc-solids and r2SCAN, each with pseudopotentials of its own.

    python examples/fit_solids/self_consistent.py SOLIDS [--solids Si Al ...]
    python examples/fit_solids/self_consistent.py SOLIDS --page

SOLIDS is the file of records.py. Five volumes within 6 % of the measured one are calculated, and more if the minimum is
not among them, with the k-points of the fit, or more of them for metals. Each result is written to self_consistent.json
as soon as it is there, and not calculated again. --page writes the table into docs/training.md: errors of r2SCAN are
those of records.py, to which the change from r2SCAN to nnxc-solids is added, so that errors of pseudopotentials and
k-points cancel.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from ase.calculators.calculator import CalculationFailed
from records import INSULATOR, METALLIC, r2scan_error, solid
from table import rewrite_part, table

from ase_nnxc import NNXCCalculator
from ase_nnxc.checkpoints.card import read_card
from ase_nnxc.eos import ScanError, scan_eos

FOLDER = Path(__file__).parent
OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python examples/fit_solids/self_consistent.py SOLIDS --page"
FUNCTIONALS = ("r2SCAN", "nnxc-solids")
METAL = 5.0  # k-points per inverse Angstrom: on the mesh of the fit energies of metals scatter around the curve


def main() -> None:
    """Calculate what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="SOLIDS")
    parser.add_argument("--solids", nargs="+", help="names of solids; all of the configuration by default")
    parser.add_argument("--page", action="store_true", help="write the table")
    args = parser.parse_args()
    config = yaml.safe_load((FOLDER / "solids.yaml").read_text())
    measured = {row["formula"]: row for row in json.loads(args.file.read_text())["solids"].values()}
    if args.page:
        rewrite_part(COMMAND, results_table(measured, config["test"]))
        return
    classes = {name: label for label, names in config["classes"].items() for name in names}
    for name in args.solids or classes:
        density = METAL if classes[name] in METALLIC else INSULATOR
        for xc in FUNCTIONALS:
            calculate(name, xc, measured[name], density)


def read() -> dict[str, dict[str, Any]]:
    """Return the results: solid -> functional -> lattice constant, Angstrom, and bulk modulus, GPa."""
    return json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}


def calculate(name: str, xc: str, row: dict[str, Any], density: float) -> None:
    """Calculate a solid with a functional and write the result, unless it is there."""
    if xc in read().get(name, {}):
        return
    record, start = solid(row, density), time.perf_counter()
    middle = record.structures[len(record.structures) // 2]
    calc = NNXCCalculator(xc, kpts={"size": record.settings[0]["kpts"], "gamma": True}, convergence={"energy": 1e-6})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts about the fit of five points are in the scan's own report
            found = scan_eos(middle, calc, points=5).todict()
    except (CalculationFailed, ScanError) as error:
        print(f"{name}, {xc}: {error}", flush=True)
        return
    result = {key: round(found[key], 4) for key in ("a0_A", "B0_GPa")}
    result["seconds"] = round(time.perf_counter() - start)
    print(f"{name}, {xc}: {result}", flush=True)
    results = read()
    results.setdefault(name, {})[xc] = result
    OUTPUT.write_text(json.dumps(results, indent=1) + "\n")


def results_table(measured: dict[str, Any], test: list[str]) -> str:
    """Return the table of errors in per cent, and their means for each part."""
    frozen = read_card("nnxc-solids")["metrics"]
    rows = [["%", "a0, r2SCAN", "change, frozen", "change", "a0, nnxc-solids", "B0, r2SCAN", "B0, nnxc-solids"]]
    parts: dict[str, list[list[float | None]]] = {"fit": [], "test": []}
    for name, results in read().items():
        if len(results) < len(FUNCTIONALS):
            continue
        part = "test" if name in test else "fit"
        numbers = errors(measured[name], results, frozen[part]["lattice_constant"][name])
        parts[part].append(numbers)
        rows.append([f"{name} ({part})", *("" if x is None else f"{x:+.2f}" for x in numbers)])
    for part, several in parts.items():
        columns = [[abs(x) for x in column if x is not None] for column in zip(*several)]
        rows.append([f"mean absolute, {part}", *(f"{mean(c):.2f}" if c else "" for c in columns)])
    return table(rows)


def errors(row: dict[str, Any], results: dict[str, Any], frozen: dict[str, float]) -> list[float | None]:
    """Return the numbers of a solid in per cent, in the order of the columns; None where nothing is known."""
    parent, own = (results[xc] for xc in FUNCTIONALS)
    known = r2scan_error(row)
    before = None if known is None else 100 * known
    change = 100 * (own["a0_A"] / parent["a0_A"] - 1)
    after = None if before is None else before + change
    b0 = row.get("B0_exp_GPa")
    moduli = [None if b0 is None else 100 * (result["B0_GPa"] / b0 - 1) for result in (parent, own)]
    return [before, 100 * (frozen["fitted"] - frozen["start"]), change, after, *moduli]


if __name__ == "__main__":
    main()

"""Self-consistent equations of state of a fitted model and of r2SCAN, each with pseudopotentials of its own.

    python examples/fit_solids/self_consistent.py SOLIDS [--model MODEL] [--solids Si Al ...]
    python examples/fit_solids/self_consistent.py SOLIDS [--model MODEL] --errors FILE
    python examples/fit_solids/self_consistent.py SOLIDS --page

SOLIDS is the file of records.py. Five volumes within 6 % of the measured one are calculated, and more if the minimum is
not among them, with the k-points of the fit, or more of them for metals and for semiconductors with a known bulk
modulus. Each result is written to self_consistent.json as soon as it is there, and not calculated again. --errors
writes the errors of the model as the `known_errors` of another fit. Errors of lattice constants are those of r2SCAN in
records.py and the change from r2SCAN to the model, so that errors of pseudopotentials and k-points cancel. --page
writes the table into docs/training.md.
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
PARENT, MODEL = "r2SCAN", "nnxc-solids@1"
METAL = 5.0  # k-points per inverse Angstrom: on the mesh of the fit energies of metals scatter around the curve
SEMICONDUCTOR = 4.0  # with a known bulk modulus, which for Ge is 12 % less on the mesh of the fit


def main() -> None:
    """Calculate what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="SOLIDS")
    parser.add_argument("--model", default=MODEL, help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--solids", nargs="+", help="names of solids; all of the configuration by default")
    parser.add_argument("--errors", type=Path, metavar="FILE", help="write the errors of the model")
    parser.add_argument("--page", action="store_true", help="write the table")
    args = parser.parse_args()
    config = yaml.safe_load((FOLDER / "solids.yaml").read_text())
    measured = {row["formula"]: row for row in json.loads(args.file.read_text())["solids"].values()}
    if args.page:
        rewrite_part(COMMAND, results_table(measured, config["test"]))
        return
    if args.errors is not None:
        args.errors.write_text(yaml.safe_dump(known_errors(measured, Path(args.model).name)))
        return
    classes = {name: label for label, names in config["classes"].items() for name in names}
    for name in args.solids or classes:
        density = density_of(classes[name], measured[name])
        for xc in (PARENT, args.model):
            calculate(name, xc, measured[name], density)


def density_of(label: str, row: dict[str, Any]) -> float:
    """Return the k-points per inverse Angstrom for a solid of a class."""
    if label in METALLIC:
        return METAL
    return INSULATOR if label == "ionic" or row.get("B0_exp_GPa") is None else SEMICONDUCTOR


def read() -> dict[str, dict[str, Any]]:
    """Return the results: solid -> functional -> lattice constant, Angstrom, and bulk modulus, GPa."""
    return json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}


def calculate(name: str, xc: str, row: dict[str, Any], density: float) -> None:
    """Calculate a solid with a functional and write the result, unless it is there."""
    label = Path(xc).name
    if label in read().get(name, {}):
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
    results.setdefault(name, {})[label] = result
    OUTPUT.write_text(json.dumps(results, indent=1) + "\n")


def results_table(measured: dict[str, Any], test: list[str]) -> str:
    """Return the table of errors in per cent, and their means for each part."""
    frozen = read_card(MODEL)["metrics"]
    rows = [["%", "a0, r2SCAN", "change, frozen", "change", f"a0, {MODEL}", "B0, r2SCAN", f"B0, {MODEL}"]]
    parts: dict[str, list[list[float | None]]] = {"fit": [], "test": []}
    for name, results in read().items():
        if not {PARENT, MODEL} <= results.keys():
            continue
        part = "test" if name in test else "fit"
        numbers = errors(measured[name], results, frozen[part]["lattice_constant"].get(name))
        parts[part].append(numbers)
        rows.append([f"{name} ({part})", *("" if x is None else f"{x:+.2f}" for x in numbers)])
    for part, several in parts.items():
        columns = [[abs(x) for x in column if x is not None] for column in zip(*several)]
        rows.append([f"mean absolute, {part}", *(f"{mean(c):.2f}" if c else "" for c in columns)])
    return table(rows)


def errors(row: dict[str, Any], results: dict[str, Any], frozen: dict[str, float] | None) -> list[float | None]:
    """Return the numbers of a solid in per cent, in the order of the columns; None where nothing is known."""
    known, change = r2scan_error(row), 100 * change_of(results, MODEL)
    at_frozen = None if frozen is None else 100 * (frozen["fitted"] - frozen["start"])
    before, after = (None, None) if known is None else (100 * known, 100 * known + change)
    b0 = row.get("B0_exp_GPa")
    moduli = [None if b0 is None else 100 * (results[xc]["B0_GPa"] / b0 - 1) for xc in (PARENT, MODEL)]
    return [before, at_frozen, change, after, *moduli]


def change_of(results: dict[str, Any], model: str) -> float:
    """Return the relative change of the lattice constant of a solid from r2SCAN to a model."""
    return results[model]["a0_A"] / results[PARENT]["a0_A"] - 1


def known_errors(measured: dict[str, Any], model: str) -> dict[str, dict[str, float]]:
    """Return the relative errors of a model by objective and solid."""
    found = {name: results for name, results in read().items() if {PARENT, model} <= results.keys()}
    lattice, moduli = {}, {}
    for name, results in found.items():
        if (known := r2scan_error(measured[name])) is not None:
            lattice[name] = round(known + change_of(results, model), 6)
        if (b0 := measured[name].get("B0_exp_GPa")) is not None:
            moduli[name] = round(results[model]["B0_GPa"] / b0 - 1, 6)
    return {"lattice_constant": lattice, "bulk_modulus": moduli}


if __name__ == "__main__":
    main()

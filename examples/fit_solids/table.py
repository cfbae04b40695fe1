"""Tables of a model of examples/fit_solids, for docs/training.md.

    python examples/fit_solids/table.py MODEL SOLIDS

MODEL is the folder of a model that `nnxc fit` has written: its card has all errors. SOLIDS is the file of records.py;
its lattice constants of PBE and PBEsol with all electrons are set beside them.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ase.units import kcal, mol

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
COMMAND = "python examples/fit_solids/table.py MODEL SOLIDS"
UNITS = {"lattice_constant": 100.0, "bulk_modulus": 100.0, "reaction_energy": mol / kcal}  # per cent, kcal/mol
NAMES = {
    "lattice_constant": "lattice constant, %",
    "bulk_modulus": "bulk modulus, %",
    "reaction_energy": "atomization energy, kcal/mol",
}


def main() -> None:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("solids", type=Path, metavar="SOLIDS")
    args = parser.parse_args()
    metrics = json.loads((args.model / "card.json").read_text())["metrics"]
    measured = {row["formula"]: row for row in json.loads(args.solids.read_text())["solids"].values()}
    rewrite_part(COMMAND, f"{means(metrics)}\n{gain(metrics)}\n\n{lattice_constants(metrics, measured)}")


def rewrite_part(command: str, text: str) -> None:
    """Replace the part of the page that a command writes."""
    begin, end = f"<!-- table: {command} -->", "<!-- end of the table -->"
    before, after = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after.split(end, 1)[1]}")


def means(metrics: dict[str, Any]) -> str:
    """Return the table of mean absolute errors of each objective."""
    rows = [["mean absolute error", "records", "r2SCAN", "fitted", "left out of the fit"]]
    for part, column in (("fit", "cross_validated"), ("test", "fitted")):
        for objective, records in metrics[part].items():
            errors = [
                [abs(row[name]) * UNITS[objective] for row in records.values() if name in row]
                for name in ("start", "fitted", column)
            ]
            numbers = [f"{mean(e):.2f}" if e else "" for e in errors]
            fitted, left_out = (numbers[1], numbers[2]) if part == "fit" else ("", numbers[1])
            rows.append([f"{NAMES[objective]}, {part}", str(len(records)), numbers[0], fitted, left_out])
    return table(rows)


def gain(metrics: dict[str, Any]) -> str:
    """Return a sentence on the decrease of the absolute errors of lattice constants that were left out of the fit."""
    parts = {
        part: [100 * (abs(row["start"]) - abs(row[column])) for row in metrics[part]["lattice_constant"].values()]
        for part, column in (("fit", "cross_validated"), ("test", "fitted"))
    }
    decreases = {"the test": parts["test"], "all solids": parts["fit"] + parts["test"]}
    phrases = [
        f"{mean(d):.2f} % with a standard error of {stdev(d) / len(d) ** 0.5:.2f} % for {name}"
        for name, d in decreases.items()
    ]
    better = sum(d > 0 for d in decreases["all solids"])
    count = len(decreases["all solids"])
    head = "Mean decrease of the absolute error of lattice constants that were left out of the fit"
    return f"{head}: {', '.join(phrases)}; {better} of {count} improve."


def lattice_constants(metrics: dict[str, Any], measured: dict[str, Any]) -> str:
    """Return the table of errors of lattice constants in per cent, with their means for each part."""
    rows = [["a0, %", "PBE", "PBEsol", "r2SCAN", "fitted", "left out of the fit", "standard deviation"]]
    for part, column in (("fit", "cross_validated"), ("test", "fitted")):
        errors: list[list[float | None]] = []
        for name, row in metrics[part]["lattice_constant"].items():
            known = [all_electron_error(measured[name], xc) for xc in ("PBE", "PBEsol")]
            ours = [row["start"], row["fitted"] if part == "fit" else None, row.get(column)]
            errors.append([*known, *ours])
            deviation = f"{100 * row['standard_deviation']:.2f}" if part == "test" else ""
            rows.append([name, *("" if e is None else f"{100 * e:+.2f}" for e in errors[-1]), deviation])
        columns = [[100 * abs(e) for e in column if e is not None] for column in zip(*errors)]
        rows.append([f"mean absolute, {part}", *(f"{mean(c):.2f}" if c else "" for c in columns), ""])
    return table(rows)


def all_electron_error(row: dict[str, Any], xc: str) -> float | None:
    """Return the relative error of a lattice constant with all electrons, None if it is unknown."""
    value = row.get("zhang64", {}).get(f"{xc}-uncorr")
    return None if value is None else value / row["a0_exp_zpc_A"] - 1


def table(rows: list[list[str]]) -> str:
    """Return a table in Markdown, whose first row is its head."""
    lines = [rows[0], ["---", *["--:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


if __name__ == "__main__":
    main()

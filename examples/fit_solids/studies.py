"""Seeds, learning curve and ablations of the fit of solids.yaml, at the densities that it has collected.

    python examples/fit_solids/studies.py
    python examples/fit_solids/studies.py --page

Run `nnxc fit examples/fit_solids/solids.yaml` first: its densities are used. Each fit takes half a minute; what is in
studies.json is not fitted again. The learning curve has DRAWS random choices of some of the solids, with the ridge of
the fit to all. Fits of other records or settings are made again. --page writes the table into docs/training.md.
"""

import argparse
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ase.units import kcal, mol
from table import rewrite_part, table

from ase_nnxc.registry import get_functional
from ase_nnxc.train.fit_config import Fit, read_fit
from ase_nnxc.train.frozen_fit import fit_frozen
from ase_nnxc.train.records import digest
from ase_nnxc.xc import NeuralFactors

FOLDER = Path(__file__).parent
OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python examples/fit_solids/studies.py --page"
UNITS = {"lattice_constant": 100.0, "bulk_modulus": 100.0, "reaction_energy": mol / kcal}  # per cent, kcal/mol
RIDGE = 10.0  # of the fit to all
SEEDS = (1, 2, 3, 4)
COUNTS, DRAWS = (5, 8, 11, 14), 4


def main() -> None:
    """Complete the fits, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the table")
    if parser.parse_args().page:
        rewrite_part(COMMAND, results_table(read()))
        return
    for name, fit in variants(read_fit(FOLDER / "studies.yaml")):
        identity = identity_of(fit)
        if read().get(name, {}).get("identity") == identity:
            continue
        start = time.perf_counter()
        result = {"identity": identity, **errors(fit), "seconds": round(time.perf_counter() - start)}
        OUTPUT.write_text(json.dumps(read() | {name: result}, indent=1) + "\n")
        print(name, result["means"], flush=True)


def read() -> dict[str, dict[str, Any]]:
    """Return the results by name."""
    return json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}


def variants(fit: Fit) -> Iterator[tuple[str, Fit]]:
    """Yield the fit and its variants with their names."""
    factors = fit.functional.config()
    solids = [record for record in fit.records if record.name in fit.classes]
    molecules = [record for record in fit.records if record.name not in fit.classes]
    fixed = replace(fit.settings, ridges=(RIDGE,))

    def without(objective: str) -> Any:
        terms = {name: term for name, term in fit.settings.terms.items() if name != objective}
        return replace(fit.settings, terms=terms)

    yield "all", fit
    for seed in SEEDS:
        yield f"seed {seed}", replace(fit, functional=NeuralFactors(**factors | {"seed": seed}))
    yield "no molecules", replace(fit, records=solids, settings=without("reaction_energy"))
    yield "no bulk moduli", replace(fit, settings=without("bulk_modulus"))
    yield "no known errors", replace(fit, settings=replace(fit.settings, known_errors={}))
    yield "all layers", replace(fit, settings=replace(fit.settings, steps=10))
    yield "one hidden layer of 8", replace(fit, functional=NeuralFactors(**factors | {"widths": [8]}))
    for count in COUNTS:
        for draw in range(DRAWS):
            chosen = random.Random(1000 * count + draw).sample(solids, count)
            yield f"{count} solids, draw {draw}", replace(fit, records=[*chosen, *molecules], settings=fixed)


def identity_of(fit: Fit) -> str:
    """Return the SHA-256 of what a fit depends on: records, settings and form."""
    content = f"{digest([*fit.records, *fit.test])} {fit.settings!r} {fit.functional.config()!r}"
    return hashlib.sha256(content.encode()).hexdigest()


def errors(fit: Fit) -> dict[str, Any]:
    """Fit a new functional of the same form; return mean absolute errors of the test, and its lattice constants."""
    functional = NeuralFactors(**fit.functional.config())
    data, test = fit.densities.load(fit.records), fit.densities.load(fit.test)
    parent = get_functional(fit.densities.calculator.get_xc_functional())
    report = fit_frozen(functional, parent, data, test, fit.classes, fit.settings)
    return {
        "ridge": report["ridge"],
        "means": {
            name: round(UNITS[name] * mean(abs(row["fitted"]) for row in rows.values()), 4)
            for name, rows in report["test"].items()
        },
        "lattice_constants": {name: row["fitted"] for name, row in report["test"]["lattice_constant"].items()},
    }


def results_table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of the errors of the test."""
    rows = [["fit", "lambda", "a0, %", "B0, %", "atomization, kcal/mol"]]
    for name, result in results.items():
        if "draw" not in name:
            numbers = [
                f"{result['means'][objective]:.2f}" if objective in result["means"] else "" for objective in UNITS
            ]
            rows.append([name, f"{result['ridge']:g}", *numbers])
    for count in COUNTS:
        draws = [result["means"] for name, result in results.items() if name.startswith(f"{count} solids")]
        columns = [[means[objective] for means in draws] for objective in UNITS]
        rows.append(
            [f"{count} solids, {DRAWS} draws", f"{RIDGE:g}", *(f"{mean(c):.2f} ± {stdev(c):.2f}" for c in columns)]
        )
    return table(rows)


if __name__ == "__main__":
    main()

"""Self-consistent reaction energies of nnxc-solids and r2SCAN with all electrons, from sets of GMTKN55.

    python examples/fit_solids/reactions.py FILE [FILE ...] [--functionals NAME ...]
    python examples/fit_solids/reactions.py FILE [FILE ...] --page

FILE is a JSON file of one set, or of several under "subsets", which is not part of this repository: systems with xyz_A,
Angstrom, charge and unpaired, and reactions with systems, stoich and ref_kcal (L. Goerigk et al., Phys. Chem. Chem.
Phys. 19, 32184 (2017)). The sets are SETS. PySCF calculates each system once, in BASIS, and its energy is written to
reactions.json as soon as it is there. --page writes the mean absolute errors into docs/training.md; reactions of
molecules that were fitted stand apart.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.units import kcal, mol
from table import rewrite_part, table

from ase_nnxc import PySCFCalculator
from ase_nnxc.checkpoints.card import read_card

OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python examples/fit_solids/reactions.py FILE [FILE ...] --page"
SETS = ("W4-11", "BH76")
PARENT, MODEL = "r2SCAN", "nnxc-solids@1"
BASIS, GRID_LEVEL = "def2-tzvp", 2


def main() -> None:
    """Calculate what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--functionals", nargs="+", default=[PARENT, MODEL], metavar="NAME")
    parser.add_argument("--page", action="store_true", help="write the table")
    args = parser.parse_args()
    sets = read_sets(args.files)
    if args.page:
        rewrite_part(COMMAND, errors_table(sets))
        return
    for name, data in sets.items():
        for label, system in sorted(data["systems"].items(), key=lambda item: len(item[1]["xyz_A"])):
            for xc in args.functionals:
                calculate(f"{name} {label}", xc, system)


def read_sets(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Return systems and reactions of the sets in the files; a file without subsets is W4-11."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        data = json.loads(path.read_text())
        found |= data.get("subsets", {"W4-11": data})
    return {name: found[name] for name in SETS if name in found}


def read() -> dict[str, dict[str, float]]:
    """Return the energies that are there: functional -> set and system -> eV."""
    return json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}


def calculate(label: str, xc: str, system: dict[str, Any]) -> None:
    """Calculate a system with a functional and write its energy, unless it is there."""
    if label in read().get(xc, {}):
        return
    symbols, positions = [row[0] for row in system["xyz_A"]], [row[1:] for row in system["xyz_A"]]
    moments = [system["unpaired"] / len(symbols)] * len(symbols) if system["unpaired"] else None
    calc = PySCFCalculator(xc, basis=BASIS, grid_level=GRID_LEVEL, charge=system["charge"])
    atoms = Atoms(symbols, positions, magmoms=moments, calculator=calc)
    try:
        energy = atoms.get_potential_energy()
    except CalculationFailed as error:
        print(f"{label}, {xc}: {error}", flush=True)
        return
    print(f"{label}, {xc}: {energy:.4f} eV", flush=True)
    energies = read()
    energies.setdefault(xc, {})[label] = energy
    OUTPUT.write_text(json.dumps(energies, indent=1) + "\n")


def errors_table(sets: dict[str, dict[str, Any]]) -> str:
    """Return mean absolute errors of the reactions of which all systems are there, kcal/mol."""
    fitted, energies = set(read_card(MODEL)["training"]["records"]), read()
    rows = [["mean absolute error, kcal/mol", "reactions", PARENT, MODEL]]
    for name, data in sets.items():
        parts: dict[str, list[list[float] | None]] = {}
        for reaction in data["reactions"]:
            labels = [f"{name} {system}" for system in reaction["systems"]]
            complete = all(label in energies[xc] for xc in (PARENT, MODEL) for label in labels)
            part = f"{name}, fitted" if name == "W4-11" and reaction["systems"][0] in fitted else name
            parts.setdefault(part, []).append(
                [error(reaction, [energies[xc][label] for label in labels]) for xc in (PARENT, MODEL)]
                if complete
                else None
            )
        for part, several in parts.items():
            known = [errors for errors in several if errors is not None]
            means = [f"{mean(column):.2f}" for column in zip(*known)] or ["", ""]
            rows.append([part, f"{len(known)} of {len(several)}", *means])
    return table(rows)


def error(reaction: dict[str, Any], energies: list[float]) -> float:
    """Return the absolute error of a reaction energy, kcal/mol."""
    total = sum(n * energy for n, energy in zip(reaction["stoich"], energies))
    return abs(total * mol / kcal - reaction["ref_kcal"])


if __name__ == "__main__":
    main()

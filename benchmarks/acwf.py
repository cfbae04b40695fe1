"""Compare equations of state with those of all electrons by the measure epsilon, and write benchmarks/acwf.json.

    python benchmarks/acwf.py FILE [Al-FCC Si-Diamond Mg-XO ...]
    python benchmarks/acwf.py --page

FILE holds all-electron V0 (Angstrom^3 per atom), B0 (GPa) and B0' by element, PBE, not magnetic, of unaries (FCC, BCC,
SC, Diamond) and oxides (X2O, XO, XO2: antifluorite, rocksalt, fluorite): data of the ACWF verification, E. Bosoni et
al., Nat. Rev. Phys. 6, 45 (2024), which are not part of this repository. Seven volumes within 6 % of V0 are calculated
with generated pseudopotentials, the recommended cutoff, which is made smooth, Fermi-Dirac smearing of 0.0045 Ry, as in
the verification, and 9 k-points per inverse Angstrom; for oxides, noble gases and the diamond structure 4. (With cold
smearing of 0.1 eV the volume of fcc F is 0.8 % smaller and that of simple cubic K 0.2 %; with 7 k-points per inverse
Angstrom that of bcc P is 0.4 % larger. The verification has 17.) Crystals that are in the output, or that FILE does not
have, are left out. --page rewrites the table in docs/pseudopotentials.md.

epsilon compares the curves E(V) less their minima over 6 % around the mean V0 (their eq. 2): below 0.06 they agree
excellently, below 0.2 well. The column of PseudoDojo 0.4 is from FILE.
"""

import json
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import SCFError
from ase.units import GPa, Rydberg
from results import read_results, write_results
from scans import SETTINGS, equation_of_state

from ase_nnxc import NNXCCalculator

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "pseudopotentials.md"
BEGIN, END = "<!-- table: python benchmarks/acwf.py --page -->", "<!-- end of the table -->"
DENSITY, COARSE = 9.0, 4.0  # k-points per inverse Angstrom; the latter for crystals with a gap
SMEARING = {"name": "fermi-dirac", "width": 0.0045 * Rydberg}
NOBLE_GASES = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
PER_CELL = {"FCC": 4, "BCC": 2, "SC": 1, "Diamond": 8, "X2O": 12, "XO": 8, "XO2": 12}  # atoms in the conventional cell
OXIDES = {"X2O": ("O{}2", "fluorite"), "XO": ("{}O", "rocksalt"), "XO2": ("{}O2", "fluorite")}
COLUMNS = 3  # of the table


def crystal(symbol: str, structure: str, volume: float) -> Atoms:
    """Return the primitive cell of a structure with a volume per atom, Angstrom^3."""
    formula, lattice = OXIDES.get(structure, ("{}", structure.lower()))
    return bulk(formula.format(symbol), lattice, a=(PER_CELL[structure] * volume) ** (1 / 3))


def birch_murnaghan(volumes: np.ndarray, v0: float, b0: float, b1: float) -> np.ndarray:
    """Return E(V) - E(V0), eV per atom, for B0 in GPa."""
    x = (v0 / volumes) ** (2 / 3)
    return 9 / 16 * v0 * b0 * GPa * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x))


def epsilon(a: list[float], b: list[float]) -> float:
    """Return sqrt(<(Ea - Eb)^2> / sqrt(<(Ea - <Ea>)^2> <(Eb - <Eb>)^2>)) of two curves (V0, B0, B0')."""
    volumes = 0.5 * (a[0] + b[0]) * np.linspace(0.94, 1.06, 401)
    ea, eb = birch_murnaghan(volumes, *a), birch_murnaghan(volumes, *b)
    return float(np.sqrt(((ea - eb) ** 2).mean() / np.sqrt(ea.var() * eb.var())))


def calculate(path: Path, names: list[str]) -> None:
    """Calculate what is not in the output."""
    data = json.loads(path.read_text())
    results = read_results(OUTPUT)
    for name in names:
        symbol, structure = name.split("-")
        references = data["unaries"].get(symbol, {}) | data["oxides"].get(symbol, {})
        if name in results or structure not in references:
            continue
        reference, start = references[structure], time.perf_counter()
        density = COARSE if structure in {*OXIDES, "Diamond"} or symbol in NOBLE_GASES else DENSITY
        try:
            settings = SETTINGS | {"smearing": SMEARING, "kpts": {"density": density, "gamma": True}}
            calc = NNXCCalculator("PBE", **settings)
            ours = equation_of_state(calc, partial(crystal, symbol, structure), reference["ae"][0])
        except SCFError as error:
            print(name, error, flush=True)
            continue
        results[name] = {
            "v0_b0_b1": [round(number, 4) for number in ours],
            "volume_error_percent": round(100 * (ours[0] / reference["ae"][0] - 1), 3),
            "epsilon": round(epsilon(ours, reference["ae"]), 3),
            "epsilon_pseudodojo": reference.get("eps04"),
            "seconds": round(time.perf_counter() - start),
        }
        print(name, results[name], flush=True)
        write_results(OUTPUT, dict(sorted(results.items())))


def summary(results: dict[str, Any]) -> str:
    """Return medians and largest values of ε."""
    ours = [result["epsilon"] for result in results.values()]
    theirs = [result["epsilon_pseudodojo"] for result in results.values() if result["epsilon_pseudodojo"]]
    return (
        f"{len(ours)} crystals, ε: median {median(ours):.3f}, largest {max(ours):.3f}; PseudoDojo 0.4: median "
        f"{median(theirs):.3f}, largest {max(theirs):.3f}"
    )


def table(results: dict[str, Any]) -> str:
    """Return the results as a table, several crystals in a row."""
    cells = [
        f"{name} | {result['volume_error_percent']:+.2f} | {result['epsilon']:.3f} | {result['epsilon_pseudodojo']:.3f}"
        for name, result in results.items()
    ]
    cells += [" | | | "] * (-len(cells) % COLUMNS)
    rows = len(cells) // COLUMNS
    lines = [" | ".join(cells[row::rows]) for row in range(rows)]
    head = " | ".join(COLUMNS * ["crystal | V0, % | ε | PseudoDojo"])
    rule = " | ".join(COLUMNS * ["--- | --: | --: | --:"])
    return "".join(f"| {line} |\n" for line in (head, rule, *lines))


def main() -> None:
    """Calculate what is asked for, or write the table."""
    warnings.simplefilter("ignore")
    if sys.argv[1:] != ["--page"]:
        calculate(Path(sys.argv[1]), sys.argv[2:])
    results = read_results(OUTPUT)
    if sys.argv[1:] == ["--page"]:
        text = PAGE.read_text()
        content = f"{summary(results)}.\n\n{table(results)}"
        PAGE.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{content}{END}{text.split(END, 1)[1]}")
    if results:
        print(summary(results))


if __name__ == "__main__":
    main()

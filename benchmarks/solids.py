"""Compare lattice constants of several functionals with those of all electrons, and write benchmarks/solids.json.

    python benchmarks/solids.py FILE [--solids Si Al ...] [--xc PBE SCAN ...] [--fixed]
    python benchmarks/solids.py --page

FILE holds lattice constants without zero-point expansion by solid, which are not part of this repository. Those of all
electrons are under "zhang64" (LDA, PBE, PBEsol, SCAN; FHI-aims, three decimals; G.-X. Zhang et al., New J. Phys. 20,
063020 (2018)). Of other codes only the change from PBE is used: "sol62" for r2SCAN (VASP; K. Trepte and J. Voss, J.
Comput. Chem. 43, 1104 (2022)) and "da_A_sol58lc" for RPBE (GPAW; supplement of Phys. Rev. B 93, 235162 (2016)).

Seven volumes within 6 % of this lattice constant are calculated with pseudopotentials generated for the functional
(SCAN has those of r2SCAN), the recommended cutoff, which is made smooth, cold smearing of 0.1 eV, and the mesh of
k-points that belongs to PBE's lattice constant. With --fixed the pseudopotentials are those generated for PBE. Results
that are in the output are left out. --page rewrites the tables in docs/pseudopotentials.md.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import SCFError
from results import read_results, write_results
from scans import SETTINGS, equation_of_state

from ase_nnxc import NNXCCalculator

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "pseudopotentials.md"
BEGIN, END = "<!-- tables: python benchmarks/solids.py --page -->", "<!-- end of the tables -->"
FUNCTIONALS = ("PBE", "PBEsol", "LDA", "RPBE", "SCAN", "r2SCAN")
ALL_ELECTRON = ("PBE", "PBEsol", "LDA", "SCAN")  # in FILE
CODES = {"RPBE": "GPAW", "r2SCAN": "VASP"}  # whose changes from PBE are in FILE
SOLIDS = {  # structure, k-points per inverse Angstrom
    "Si": ("diamond", 4.0),
    "Al": ("fcc", 9.0),
    "NaCl": ("rocksalt", 4.0),
    "MgO": ("rocksalt", 4.0),
    "C": ("diamond", 4.0),
    "SiC": ("zincblende", 4.0),
    "BN": ("zincblende", 4.0),
    "AlP": ("zincblende", 4.0),
    "LiF": ("rocksalt", 4.0),
    "MgS": ("rocksalt", 4.0),
    "Li": ("bcc", 7.0),
    "Na": ("bcc", 7.0),
    "Ca": ("fcc", 7.0),
    "Ge": ("diamond", 4.0),
    "GaAs": ("zincblende", 4.0),
    "Cu": ("fcc", 7.0),
    "Pd": ("fcc", 7.0),
    "V": ("bcc", 7.0),
}
CELLS_PER_CUBE = {"fcc": 4, "bcc": 2, "diamond": 4, "zincblende": 4, "rocksalt": 4}


def reference(record: dict[str, Any], xc: str) -> float | None:
    """Return the lattice constant of a solid in FILE, Angstrom; for RPBE and r2SCAN PBE's plus the change; or None."""
    all_electron = record.get("zhang64", {})
    if f"{xc}-uncorr" in all_electron:
        return all_electron[f"{xc}-uncorr"]
    others = record.get("da_A_sol58lc", {}) if xc == "RPBE" else record.get("sol62", {}).get("a0_A", {})
    if xc in others and "PBE-uncorr" in all_electron:
        return round(all_electron["PBE-uncorr"] + others[xc] - others["PBE"], 4)
    return None


def lattice_constant(solid: str, xc: str, start: float, pbe: float, fixed: bool) -> dict[str, Any]:
    """Return a0, Angstrom, and B0, GPa, from volumes around a lattice constant, with the mesh of that of PBE."""
    structure, density = SOLIDS[solid]
    cells = CELLS_PER_CUBE[structure]
    count = len(bulk(solid, structure, a=start))

    def crystal(volume: float) -> Atoms:
        return bulk(solid, structure, a=(cells * count * volume) ** (1 / 3))

    pseudos = "oncv-PBE" if fixed else "oncv"
    calc = NNXCCalculator(xc, pseudos=pseudos, kpts={"density": density, "gamma": True}, **SETTINGS)
    kpts = calc.resolve(bulk(solid, structure, a=pbe))["kpts"]
    calc.set(kpts=kpts)
    v0, b0, _ = equation_of_state(calc, crystal, start**3 / (cells * count))
    ecut = calc.resolve(crystal(v0))["ecut"]
    return {
        "a0_A": round((cells * count * v0) ** (1 / 3), 4),
        "B0_GPa": round(b0, 2),
        "kpts": list(kpts["size"] if isinstance(kpts, dict) else kpts),
        "ecut_eV": round(ecut, 1),
    }


def key_of(solid: str, xc: str, fixed: bool = False) -> str:
    """Return the name of a result."""
    return f"{solid} {xc}, pseudopotential of PBE" if fixed else f"{solid} {xc}"


def calculate(path: Path, solids: list[str], functionals: list[str], fixed: bool) -> None:
    """Calculate what is not in the output."""
    records = {record["formula"]: record for record in json.loads(path.read_text())["solids"].values()}
    for solid in solids:
        record = records.get(solid, {})
        pbe = reference(record, "PBE")
        for xc in functionals:
            key, start = key_of(solid, xc, fixed), reference(record, xc)
            if key in read_results(OUTPUT):
                continue
            if pbe is None or start is None:
                print(f"{key}: not in {path}", flush=True)
                continue
            began = time.perf_counter()
            try:
                result = lattice_constant(solid, xc, start, pbe, fixed)
            except SCFError as error:
                print(f"{key}: {error}", flush=True)
                continue
            result["reference_A"] = start
            result["error_percent"] = round(100 * (result["a0_A"] / start - 1), 3)
            result["seconds"] = round(time.perf_counter() - began)
            print(key, result, flush=True)
            write_results(OUTPUT, {**read_results(OUTPUT), key: result})


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def constants(results: dict[str, Any]) -> str:
    """Return the table of lattice constants, and the means of the differences from all electrons."""
    rows, means = [], ["mean absolute difference, %"]
    for solid in SOLIDS:
        found = [results.get(key_of(solid, xc)) for xc in ALL_ELECTRON]
        if any(found):
            pairs = [(f"{r['a0_A']:.4f}", f"{r['reference_A']:.3f} ({r['error_percent']:+.2f} %)") for r in found if r]
            cells = iter(pairs)
            rows.append([solid, *(text for r in found for text in (next(cells) if r else ("", "")))])
    for xc in ALL_ELECTRON:
        errors = [abs(results[key_of(s, xc)]["error_percent"]) for s in SOLIDS if key_of(s, xc) in results]
        means += ["", f"{mean(errors):.3f}" if errors else ""]
    head = ["a0, Å", *(text for xc in ALL_ELECTRON for text in (xc, "all electrons"))]
    return table(head, [*rows, means])


def changes(results: dict[str, Any]) -> str:
    """Return the table of the changes of lattice constants from PBE."""

    def change(solid: str, key: str, quantity: str) -> str:
        if key not in results or key_of(solid, "PBE") not in results:
            return ""
        return f"{100 * (results[key][quantity] / results[key_of(solid, 'PBE')][quantity] - 1):+.2f}"

    rows = []
    for solid in SOLIDS:
        cells = [solid]
        for xc in FUNCTIONALS[1:]:
            own = key_of(solid, xc)
            cells.append(change(solid, own, "a0_A"))
            cells.append(change(solid, key_of(solid, xc, fixed=True), "a0_A"))
            cells.append(change(solid, own, "reference_A"))
        if any(cells[1:]):
            rows.append(cells)
    head = ["change from PBE, %"]
    for xc in FUNCTIONALS[1:]:
        head += [xc, "fixed", CODES.get(xc, "all electrons")]
    return table(head, rows)


def write_page(results: dict[str, Any]) -> None:
    """Rewrite the tables of the page."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{constants(results)}\n{changes(results)}{END}{after}")


def main() -> None:
    """Calculate what is asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    parser.add_argument("--solids", nargs="+", default=list(SOLIDS), choices=list(SOLIDS))
    parser.add_argument("--xc", nargs="+", default=list(FUNCTIONALS), choices=FUNCTIONALS)
    parser.add_argument("--fixed", action="store_true", help="use the pseudopotentials of PBE")
    parser.add_argument("--page", action="store_true", help="write the tables")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.file:
        calculate(arguments.file, arguments.solids, arguments.xc, arguments.fixed)
    if arguments.page:
        write_page(read_results(OUTPUT))


if __name__ == "__main__":
    main()

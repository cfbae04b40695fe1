"""The data of arXiv:2309.15985 and of XCNN, from which they derive, as records of all electrons."""

import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ase_nnxc.interop.deepchem import read_deepchem
from ase_nnxc.train.records import Record

GRID_LEVEL = 1
LARGEST = 14
"""Electrons of the largest molecule of the test; larger ones take minutes each in this basis."""

FITTED = ("H2", "LiH", "O2", "CO", "O+", "Ne+")
VALIDATION = ("N2", "NO", "F2", "HF", "N+", "F+")
"""The split of XCNN: N and F are in the validation set."""


def read_sets(path: Path) -> tuple[list[Record], list[Record], list[Record]]:
    """Return the records that are fitted, those of the validation, and those of the test.

    The names are formulas, with "+" for an ionization potential. The test has the ionization potentials of H to Ar and
    the atomization energies of G2/97 of molecules with at most `LARGEST` electrons, without those of the other sets.

    Parameters
    ----------
    path : Path
        JSON file with the lists of XCNN's YAML files under "sets": train1, test_ie_atoms and ae_gauss2.
    """
    sets = json.loads(path.read_text())["sets"]
    known = {record.name: record for record in read_records(sets["train1"])}
    test = {record.name: record for record in read_records(sets["test_ie_atoms"] + sets["ae_gauss2"])}
    kept = [r for name, r in test.items() if name not in known and electrons(r) <= (18 if "+" in name else LARGEST)]
    return [known[name] for name in FITTED], [known[name] for name in VALIDATION], kept


def electrons(record: Record) -> int:
    """Return the number of electrons of the neutral molecule of a record."""
    return int(record.structures[0].numbers.sum())


def read_records(entries: Sequence[dict]) -> list[Record]:
    """Return the records of the energies among entries of XCNN, with formulas as names; the first of equal names."""
    energies = [entry | {"name": _formula(entry)} for entry in entries if entry["type"] in ("ae", "ie")]
    names = [entry["name"] for entry in energies]
    unique = [entry for i, entry in enumerate(energies) if entry["name"] not in names[:i]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "entries.yaml"
        file.write_text(json.dumps(unique))  # JSON is YAML
        records = read_deepchem(file)
    return [with_grid(record) for record in records]


def with_grid(record: Record, level: int = GRID_LEVEL) -> Record:
    """Return a record whose structures are calculated on a grid of this level."""
    settings = tuple(one | {"grid_level": level} for one in record.settings)
    return replace(record, settings=settings)


def _formula(entry: dict) -> str:
    """Return the formula in a name such as "Atomization energy of CH (Methylidyne)"."""
    return entry["name"].split(" of ")[1].split(" ")[0] + ("+" if entry["type"] == "ie" else "")


def read_curve(path: Path) -> dict[float, float]:
    """Return the exact energies of H2, Hartree, by distance, bohr, from a JSON file of points with R and E."""
    return {point["R"]: point["E"] for point in json.loads(path.read_text())["sims_hagstrom_2006"]}


def reported_errors(path: Path) -> dict[str, dict[str, float]]:
    """Return the errors of functionals that XCNN's authors report, kcal/mol, by functional and name of the record."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    errors: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(lines):
        name = row["Atom/Molecule"].split(" ")[0] + ("+" if row["Group"].startswith("IP") else "")
        for functional in list(row)[3:]:
            if np.isfinite(error := float(row[functional])) and abs(error) < 1e9:
                errors.setdefault(functional, {}).setdefault(name, error)
    return errors

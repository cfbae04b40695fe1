"""The reference records of tests/data as structures and calculators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.units import Hartree

if TYPE_CHECKING:
    from ase_nnxc import NNXCCalculator

DATA = Path(__file__).parents[1] / "tests/data"
SMEARING = {"cold": "marzari-vanderbilt"}  # name in the other programs: name in ase_nnxc


def load(code: str) -> dict[str, dict[str, Any]]:
    """Return the records of "qe" or "abinit" by name."""
    return json.loads((DATA / f"{code}_gth.json").read_text())["records"]


def structure(record: dict[str, Any]) -> Atoms:
    """Return the crystal of a record."""
    atoms = Atoms(record["symbols"], cell=record["cell_A"], positions=record["positions_A"], pbc=True)
    if record["settings"]["magmoms"] is not None:
        atoms.set_initial_magnetic_moments(record["settings"]["magmoms"])
    return atoms


def fft_box(record: dict[str, Any], code: str) -> tuple[int, ...]:
    """Return the FFT box that the other program used."""
    return tuple(int(n) for n in record[code]["fft"].split(","))


def calculator(record: dict[str, Any], code: str, **changes: Any) -> NNXCCalculator:
    """Return a calculator with the settings, pseudopotentials and FFT box of a record; `changes` are more keywords."""
    from ase_nnxc import NNXCCalculator

    settings = record["settings"]
    keywords = {
        "ecut": settings["ecut"] * Hartree,
        "kpts": {"size": settings["kpts"], "gamma": True},
        "smearing": {
            "name": SMEARING.get(settings["smearing"], settings["smearing"]),
            "width": settings["width"] * Hartree,
        },
        "pseudos": {symbol: f"{settings['pseudo']}-q{q}" for symbol, q in record[code]["valence"].items()},
        "gpts": fft_box(record, code),
    }
    return NNXCCalculator(settings["xc"], **keywords | changes)

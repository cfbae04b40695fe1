"""The reference records of tests/data as structures and calculators, for benchmarks and tests."""

from __future__ import annotations

import json
from collections.abc import Callable
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
        "convergence": {"energy": 1e-8},
        "fixed_magmom": settings.get("moment", False),
    }
    return NNXCCalculator(settings["xc"], **keywords | changes)


def in_state_of(name: str, record: dict[str, Any], code: str) -> Atoms:
    """Return the crystal of a record with its calculator, in which an SCF starts where the other program's state is."""
    atoms = structure(record)
    atoms.calc = calculator(record, code)
    if name in STARTS:
        STARTS[name](atoms)
    return atoms


def _turned(atoms: Atoms) -> None:
    """Put the odd p electron along the shortest side, where pw.x has it; by itself it goes along the longest."""
    cell, box = atoms.cell.lengths(), atoms.calc.parameters["gpts"]
    atoms.set_cell(cell[::-1])
    atoms.calc.set(gpts=(max(box),) * 3)
    atoms.get_potential_energy()
    atoms.set_cell(cell)
    atoms.calc.set(gpts=box)


def _narrowed(atoms: Atoms) -> None:
    """Reduce the width in steps: whole electrons at once have several states."""
    smearing = atoms.calc.parameters["smearing"]
    for width in (0.02, 0.01, 0.005, 0.002):
        atoms.calc.set(smearing=smearing | {"width": width * Hartree})
        atoms.get_potential_energy()
    atoms.calc.set(smearing=smearing)


STARTS: dict[str, Callable[[Atoms], None]] = {"o-atom": _turned, "fe-atom": _narrowed}

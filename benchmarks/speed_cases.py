"""Crystals that `speed.py` calculates, with the settings of both codes.

A case has one crystal, or several that are calculated in turn by one calculator. There are records of
tests/data/qe_gth.json, with their GTH pseudopotentials and FFT boxes; crystals with our defaults, for which pw.x gets
the same generated pseudopotentials as UPF files; and cells of growing size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree
from records import SMEARING, fft_box, load, structure

SCALES = (0.94, 0.96, 0.98, 1.00, 1.02, 1.04, 1.06)  # volumes of a scan
WIDTH = 0.2 / Hartree  # our default smearing, cold


@dataclass(frozen=True)
class Case:
    """Crystals and keywords of both codes.

    Attributes
    ----------
    crystals : list of Atoms
        What is calculated.
    ours : dict
        Keywords of NNXCCalculator.
    qe : dict
        Keywords of `qe.run_qe`.
    timed : {"calculation", "start", "process"}
        What our time is: that of the calculation without imports, that from the start of Python until the results are
        printed, or that of the whole process.
    records : list of dict
        Converged results of pw.x for each crystal, where they are known.
    """

    crystals: list[Atoms]
    ours: dict[str, Any]
    qe: dict[str, Any]
    timed: str = "calculation"
    records: list[dict[str, Any]] = field(default_factory=list)


def recorded(*names: str, timed: str = "calculation") -> Case:
    """Return crystals of tests/data/qe_gth.json that share their settings."""
    records = [load("qe")[name] for name in names]
    settings = records[0]["settings"]
    box = tuple(max(sizes) for sizes in zip(*(fft_box(record, "qe") for record in records)))
    ours = gth(settings["ecut"], settings["kpts"], settings["smearing"], settings["width"]) | {
        "xc": settings["xc"],
        "gpts": box,
        "pseudos": {s: f"{settings['pseudo']}-q{q}" for s, q in records[0]["qe"]["valence"].items()},
    }
    keys = ("xc", "pseudo", "q", "nbands", "ecut", "kpts", "smearing", "width")
    qe = {key: settings[key] for key in keys}
    return Case([structure(record) for record in records], ours, qe, timed, [record["qe"] for record in records])


def gth(ecut: float, kpts: Any, smearing: str, width: float) -> dict[str, Any]:
    """Return keywords of NNXCCalculator: cutoff and width in Hartree, a mesh with Gamma, gth-pbe."""
    smear = {"name": SMEARING.get(smearing, smearing), "width": width * Hartree}
    return {
        "ecut": ecut * Hartree,
        "kpts": {"size": tuple(kpts), "gamma": True},
        "smearing": smear,
        "pseudos": "gth-pbe",
    }


def growing(atoms: Atoms, ecut: float, kpts: int, smearing: str, width: float) -> Case:
    """Return a cell, atoms of which are displaced, with gth-pbe and a mesh (kpts, kpts, kpts) that contains Gamma."""
    if len(atoms) > 1:
        atoms.rattle(0.02, seed=1)
    mesh = (kpts,) * 3
    qe = {"ecut": ecut, "kpts": mesh, "smearing": smearing, "width": width}
    return Case([atoms], gth(ecut, mesh, smearing, width), qe)


def with_defaults(*crystals: Atoms, kpts: tuple[int, int, int] | None = None, timed: str = "calculation") -> Case:
    """Return crystals with our defaults; cutoff and, unless given, mesh of both codes are those of the middle one."""
    from ase_nnxc import NNXCCalculator

    found = NNXCCalculator().resolve(crystals[len(crystals) // 2])
    mesh = found["kpts"] if kpts is None else {"size": kpts, "gamma": True}
    ours = {"ecut": found["ecut"], "kpts": mesh}
    qe = {"ecut": found["ecut"] / Hartree, "kpts": mesh["size"], "smearing": "cold", "width": WIDTH}
    return Case(list(crystals), ours, qe, timed)


def upf_files(case: Case, folder: Path) -> dict[str, Path]:
    """Write the generated pseudopotentials of PBE for pw.x; return the file of each element."""
    from ase_nnxc.pseudopotentials import generate
    from ase_nnxc.pseudopotentials.writing import write_pseudo
    from ase_nnxc.xc import PBE

    files = {s: folder / f"{s}.upf" for s in set(case.crystals[0].symbols)}
    for symbol, path in files.items():
        write_pseudo(generate(symbol, PBE()), path, "PBE")
    return files


def scan(atoms: Atoms) -> list[Atoms]:
    """Return a crystal with the volumes of SCALES."""
    scaled = [atoms.copy() for _ in SCALES]
    for crystal, scale in zip(scaled, SCALES):
        crystal.set_cell(atoms.cell.array * np.cbrt(scale), scale_atoms=True)
    return scaled


def fluorite() -> Atoms:
    """Return CaF2."""
    cell = 5.46 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Atoms("CaF2", scaled_positions=[[0] * 3, [0.25] * 3, [0.75] * 3], cell=cell, pbc=True)


def bulk(name: str, structure: str | None = None, **keywords: Any) -> Atoms:
    """Return a crystal of `ase.build`, which loads SciPy: whole processes that do not need it are timed, too."""
    from ase.build import bulk as build

    return build(name, structure, **keywords)


def magnesia() -> Atoms:
    """Return MgO."""
    return bulk("MgO", "rocksalt", a=4.21)


def silicon(atoms: Atoms, kpts: int) -> Case:
    """Return a cell of the growth of silicon."""
    return growing(atoms, 12, kpts, "gaussian", 0.001)


def aluminium(atoms: Atoms, kpts: int) -> Case:
    """Return a cell of the growth of aluminium."""
    return growing(atoms, 10, kpts, "gaussian", 0.01)


SINGLE = ("al-eos-1.00", "si-rattled", "cu", "ni-ferro", "graphene-periodic")
CASES: dict[str, Callable[[], Case]] = {
    "al-eos": lambda: recorded(*(f"al-eos-{scale:.2f}" for scale in SCALES), timed="process"),
    **{name: partial(recorded, name) for name in SINGLE},
    "mgo": lambda: with_defaults(magnesia()),
    "caf2": lambda: with_defaults(fluorite()),
    "al-start": lambda: with_defaults(bulk("Al"), timed="start"),
    "cu-eos": lambda: with_defaults(*scan(bulk("Cu", a=3.64)), timed="process"),
    "mgo-eos": lambda: with_defaults(*scan(magnesia()), timed="process"),
    "si2": lambda: silicon(bulk("Si"), 4),
    "si8": lambda: silicon(bulk("Si", cubic=True), 3),
    "si16": lambda: silicon(bulk("Si") * 2, 2),
    "si64": lambda: silicon(bulk("Si", cubic=True) * 2, 1),
    "al1": lambda: aluminium(bulk("Al"), 8),
    "al4": lambda: aluminium(bulk("Al", cubic=True), 5),
    "al32": lambda: aluminium(bulk("Al", cubic=True) * 2, 3),
}

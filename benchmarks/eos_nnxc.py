"""Lattice constants and bulk moduli with ase_nnxc beside Quantum ESPRESSO's at the same settings, PBE.

    python benchmarks/eos_nnxc.py [NAME ...]

Completes the scans of the named solids (all of benchmarks/eos_references.py without names) in benchmarks/eos_nnxc.json:
the volumes, settings and fit of benchmarks/eos_qe.json, and its FFT box where it has one, without the blow-up of the
kinetic energy. Each point is kept as it ends. Prints the result of each solid with its row of the comparison, and
rewrites docs/lattice-constants.md with all solids that both files hold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eos_references
from ase.units import Hartree
from eos_references import SOLIDS, VOLUMES, Solid, fit

from ase_nnxc import NNXCCalculator, __version__

PATH = Path(__file__).parent / "eos_nnxc.json"
FILES = Path(__file__).parent / "pseudodojo.json"
NICKEL = Path(__file__).parent / "nickel_moment.json"
TABLE = Path(__file__).parents[1] / "docs" / "lattice-constants.md"
SOURCE = (
    f"Computed with ase_nnxc {__version__} by `python benchmarks/eos_nnxc.py` at the settings of eos_qe.json. a_A is "
    "the lattice constant of the cubic cell, volume_A3 the volume of the primitive cell, energy the free energy F in "
    "Hartree."
)
SMEARING = {"cold": "marzari-vanderbilt"}  # pw.x's name: ours
GTH_PW = {  # Angstrom; plane waves and the same table (HGH-K): ABINIT's entries in DeltaCodesDFT's history
    "Al-q3": 4.038,
    "Ag-q11": 4.157,
    "Ag-q19": 4.162,
    "Ca-q10": 5.530,
    "Cu-q11": 3.648,
    "Cu-q19": 3.630,
    "Ni-ferro": 3.522,
    "Pd-q18": 3.947,
    "Rh-q17": 3.834,
}
ALL_ELECTRON = {  # Angstrom and GPa; FLEUR and WIEN2k, Bosoni et al., Nat. Rev. Phys. 6, 45 (2024); Ni-ferro: WIEN2k
    "Al-q3": (4.0409, 77.5),
    "Ag-q11": (4.1477, 91.0),
    "Ag-q19": (4.1477, 91.0),
    "Ca-q10": (5.5263, 17.4),
    "Cu-q11": (3.6294, 141.0),
    "Cu-q19": (3.6294, 141.0),
    "MgO-rocksalt": (4.2543, 149.0),
    "MgO-rocksalt-q2": (4.2543, 149.0),
    "Ni-ferro": (3.5183, 200.4),
    "Ni-nonmagnetic": (3.5126, 202.1),
    "Pd-q18": (3.9430, 168.0),
    "Rh-q17": (3.8305, 256.8),
}
OF_FILES = """
For silicon there is no number of ABINIT; pw.x 6.7 has 5.4701 Å with the same file, cutoff, mesh and smearing (seven
volumes, constant cutoff). Nickel has 3.5199 Å with 8x8x8; a width of 0.01 Ha takes a fifth of its moment, and with it
about 0.2 % of the lattice constant.
"""
PSEUDODOJO = {"CaF2": (5.5045, 77.9)}  # Angstrom and GPa; ABINIT 9.6.2 with PseudoDojo 0.4, computed for this project
HEAD = """\
# Lattice constants and bulk moduli

PBE, cold (Marzari-Vanderbilt) or Gaussian smearing, meshes that contain Gamma, GTH tables of PySCF, seven volumes
within 6 % of a start, each with its own sphere of plane waves at constant cutoff; Birch-Murnaghan fits of the free
energy F. Quantum ESPRESSO 6.7 (QE) reads the same tables and uses the same volumes, meshes and FFT boxes. dF is the
largest difference of F (per primitive cell) between the two programs over the volumes, moments (at the start) are in
Bohr magnetons. Written by `python benchmarks/eos_nnxc.py`, QE's side by `python benchmarks/eos_references.py`.

| solid | tables | Ecut, Ha | mesh | width, Ha | a0, Å | QE | diff. % | B0, GPa | QE | diff. % | dF, µHa | moment | QE |
| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
"""
OTHERS = """
Silver differs most, and dF tells why: with cold smearing three Fermi levels hold its electrons, and pw.x takes another
of them at some volumes, while ours follow one smooth curve (scatter about the Birch-Murnaghan fit 0.06 µHa against
2.5 µHa).

The same lattice constants beside published ones, in Å: plane waves with the same table (ABINIT with HGH-K, from the
history of DeltaCodesDFT) and all-electron PBE (average of FLEUR and WIEN2k, Bosoni et al., Nat. Rev. Phys. 6, 45
(2024); ferromagnetic Ni: WIEN2k, from ASE's collection dcdft), for CaF2 other pseudopotentials (ABINIT 9.6.2 with
PseudoDojo 0.4, PBE).

| solid | tables | a0 | same table | all-electron | PseudoDojo | B0, GPa | published |
| --- | --- | --: | --: | --: | --: | --: | --: |
"""


def scans(path: Path) -> dict[str, Any]:
    """What a file of scans holds, by solid."""
    return json.loads(path.read_text())["scans"] if path.exists() else {}


def calculator(solid: Solid, fft: Sequence[int] | None) -> NNXCCalculator:
    """Our calculator at the settings of QE's scan."""
    return NNXCCalculator(
        "PBE",
        ecut=solid.ecut * Hartree,
        kpts={"size": [solid.kpts] * 3, "gamma": True},
        smearing={
            "name": {"cold": "marzari-vanderbilt"}.get(solid.smearing, solid.smearing),
            "width": solid.width * Hartree,
        },
        pseudos={symbol: f"gth-pbe-q{q}" for symbol, q in solid.q.items()},
        gpts=None if fft is None else tuple(fft),
    )


def complete(name: str, fft: Sequence[int] | None) -> dict[str, Any]:
    """Compute the points of a scan that the file lacks; the largest volume, computed first, sets a box not given."""
    solid = SOLIDS[name]
    common = {key: value for key, value in solid.settings().items() if key not in ("conv_thr", "nbands")}
    settings = {"start_a_A": solid.a, "moment": solid.moment, **common, "fft": fft}
    scan = scans(PATH).get(name)
    if scan is None or scan["settings"] != settings:
        scan = {"settings": settings, "points": []}
    calc = calculator(solid, fft)
    for scale in VOLUMES[len(scan["points"]) :]:
        a = solid.a * scale ** (1 / 3)
        atoms = solid.atoms(a)
        atoms.calc = calc
        energy = atoms.get_potential_energy(force_consistent=True) / Hartree
        magmom = calc.results["magmom"]
        scan["points"].append({"a_A": a, "volume_A3": atoms.get_volume(), "energy": energy, "magmom": magmom})
        if len(scan["points"]) == len(VOLUMES):
            scan.update(fit(scan["points"]))
        PATH.write_text(json.dumps({"source": SOURCE, "scans": {**scans(PATH), name: scan}}, indent=1) + "\n")
    return scan


def label(solid: Solid) -> str:
    """Formula, structure and order of the moments."""
    return f"{solid.formula}, {solid.structure}{', magnetic' if solid.moment else ''}"


def tables(solid: Solid) -> str:
    """Elements with the valences of their tables."""
    return ", ".join(f"{symbol} q{q}" for symbol, q in solid.q.items())


def percent(value: float, reference: float) -> float:
    """Relative difference in per cent."""
    return 100 * (value / reference - 1)


def moment(scan: dict[str, Any]) -> str:
    """Magnetic moment at the start's lattice constant, empty without moments."""
    return f"{scan['points'][VOLUMES.index(1.00)]['magmom']:.3f}" if scan["settings"]["moment"] else ""


def comparison(name: str, ours: dict[str, Any], qe: dict[str, Any]) -> str:
    """A row of the first table."""
    solid = SOLIDS[name]
    worst = max(abs(a["energy"] - b["energy"]) for a, b in zip(ours["points"], qe["points"]))
    cells = [
        label(solid),
        tables(solid),
        str(solid.ecut),
        "x".join([str(solid.kpts)] * 3),
        f"{solid.smearing} {solid.width}",
        *(f"{scan['a0_A']:.4f}" for scan in (ours, qe)),
        f"{percent(ours['a0_A'], qe['a0_A']):+.4f}",
        *(f"{scan['B0_GPa']:.2f}" for scan in (ours, qe)),
        f"{percent(ours['B0_GPa'], qe['B0_GPa']):+.3f}",
        f"{1e6 * worst:.1f}",
        *(moment(scan) for scan in (ours, qe)),
    ]
    return "| " + " | ".join(cells) + " |\n"


def literature(name: str, ours: dict[str, Any]) -> str:
    """A row of the second table."""
    a0, solid = ours["a0_A"], SOLIDS[name]
    cells = [label(solid), tables(solid), f"{a0:.4f}"]
    for published in (GTH_PW.get(name), ALL_ELECTRON.get(name, (None,))[0], PSEUDODOJO.get(name, (None,))[0]):
        cells.append("" if published is None else f"{published:.4f} ({percent(a0, published):+.2f} %)")
    bulk = {**ALL_ELECTRON, **PSEUDODOJO}.get(name, (None, None))[1]
    cells += [f"{ours['B0_GPa']:.1f}", "" if bulk is None else f"{bulk:.1f}"]
    return "| " + " | ".join(cells) + " |\n"


def write_table() -> list[str]:
    """Rewrite docs/lattice-constants.md; the solids in it."""
    ours, qe = scans(PATH), scans(eos_references.PATH)
    both = [name for name in SOLIDS if "a0_A" in ours.get(name, {}) and "a0_A" in qe.get(name, {})]
    rows = [comparison(name, ours[name], qe[name]) for name in both]
    TABLE.parent.mkdir(exist_ok=True)
    published = "".join(literature(name, ours[name]) for name in both)
    TABLE.write_text(HEAD + "".join(rows) + OTHERS + published + nickel() + files())
    return both


def nickel() -> str:
    """What benchmarks/nickel_moment.py found, in words."""
    found = json.loads(NICKEL.read_text())
    series = ", ".join(f"{row['moment_muB']:.3f} ({n}x{n}x{n})" for n, row in found["meshes"].items())
    facts = "a = {a_A} Å, {ecut_Ha:.0f} Ha, {smearing} smearing of {width_Ha} Ha".format(**found["settings"])
    return f"\nThe moment of nickel needs denser meshes than its lattice constant. At {facts}, in µB: {series}.\n"


def files() -> str:
    """What benchmarks/pseudodojo.py found, as a table."""
    head = """
With pseudopotentials from files (PseudoDojo NC SR 0.4, PBE standard), beside plane waves with the same ones (ABINIT,
Bosoni et al.) and all-electron PBE; seven volumes or more with the smooth cutoff, cold smearing. Written by
`python benchmarks/pseudodojo.py`.

| solid | Ecut, Ha | mesh | width, Ha | a0, Å | ABINIT | all-electron | B0, GPa | moment, µB |
| --- | --: | --: | --: | --: | --: | --: | --: | --: |
"""
    rows = []
    for name, result in json.loads(FILES.read_text())["results"].items():
        found = result["lattice"]
        beside = [
            "" if a is None else f"{a:.4f} ({percent(found['a_A'], a):+.2f} %)"
            for a in (found["abinit_A"], found["all_electron_A"])
        ]
        mesh = "x".join([str(found["kpts"])] * 3)
        cells = [name, str(found["ecut"]), mesh, str(found["width"]), f"{found['a_A']:.4f}", *beside]
        cells += [f"{found['B_GPa']:.1f}", f"{found['magmom_muB']:.3f}" if found["magmom_muB"] else ""]
        rows.append("| " + " | ".join(cells) + " |\n")
    return head + "".join(rows) + OF_FILES


def main() -> None:
    """Complete the scans of the solids named on the command line and write the comparison of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"solids to scan, of {', '.join(SOLIDS)}; default all")
    for name in parser.parse_args().names or SOLIDS:
        qe = scans(eos_references.PATH).get(name, {})
        ours = complete(name, qe.get("fft"))
        print(f"{name:14s} a0 {ours['a0_A']:.4f} Angstrom, B0 {ours['B0_GPa']:.2f} GPa", flush=True)
        if name in write_table():
            print(comparison(name, ours, qe), end="", flush=True)


if __name__ == "__main__":
    main()

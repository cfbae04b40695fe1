"""Write benchmarks/eos_qe.json: PBE lattice constants and bulk moduli by Quantum ESPRESSO with PySCF's GTH tables.

    python benchmarks/eos_references.py [NAME ...]

A scan has seven volumes around a known lattice constant. Each volume has its own sphere of plane waves at constant
cutoff, and all have the FFT box of the largest volume. The free energies are fitted with ASE's Birch-Murnaghan form.
Each point is saved as soon as it is calculated, and is recalculated only if the settings of its solid have changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa, Hartree
from qe import run_qe

PATH = Path(__file__).parent / "eos_qe.json"
SOURCE = (
    "Computed with Quantum ESPRESSO 6.7 (pw.x, Debian quantum-espresso 6.7-2) and the GTH tables of PySCF's "
    "GTH_POTENTIALS file, PBE, by `python benchmarks/eos_references.py`. a_A is the lattice constant of the cubic "
    "cell, volume_A3 the volume of the primitive cell, ecut and width are in Hartree, meshes contain Gamma, energy is "
    "the free energy F."
)
# relative to the volume at the start; the largest sets the FFT box
VOLUMES = (1.06, 1.04, 1.02, 1.00, 0.98, 0.96, 0.94)


@dataclass(frozen=True)
class Solid:
    """A cubic crystal and the settings of its scan.

    Parameters
    ----------
    formula, structure
        As for `ase.build.bulk`.
    a
        Lattice constant around which to scan, in Angstrom.
    q
        Valence charge of the pseudopotential by element.
    ecut, kpts, width
        Cutoff in Hartree, divisions of the mesh along each axis, width of the smearing in Hartree.
    moment
        Initial magnetic moment of every atom in Bohr magnetons.
    smearing
        As for `run_qe`.
    nbands
        Number of bands for pw.x; None is its choice.
    """

    formula: str
    structure: str
    a: float
    q: dict[str, int]
    ecut: float
    kpts: int
    width: float = 0.005
    moment: float = 0.0
    smearing: str = "cold"
    nbands: int | None = None

    def atoms(self, a: float) -> Atoms:
        """Return the primitive cell for a lattice constant in Angstrom."""
        atoms = bulk(self.formula, self.structure, a=a)
        atoms.set_initial_magnetic_moments([self.moment] * len(atoms))
        return atoms

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `run_qe`, without the FFT box."""
        smearing = {"smearing": self.smearing, "width": self.width}
        bands = {} if self.nbands is None else {"nbands": self.nbands}
        other = {"conv_thr": 1e-9, **smearing, **bands}
        return {"xc": "PBE", "q": self.q, "ecut": self.ecut, "kpts": [self.kpts] * 3, **other}


# Cold smearing can hold the electrons at several Fermi levels. pw.x changes from one to another within a scan of Ag-q11
# and Ag-q19 (F jumps by 13 and 15 microhartrees; with more bands it does not) and of MgO-CsCl (by 79; hence Gaussian
# smearing).
SOLIDS = {
    "Al-q3": Solid("Al", "fcc", 4.038, {"Al": 3}, 30, 16),
    "Ag-q11": Solid("Ag", "fcc", 4.157, {"Ag": 11}, 60, 9, nbands=14),
    "Cu-q11": Solid("Cu", "fcc", 3.648, {"Cu": 11}, 100, 9),
    "Pd-q18": Solid("Pd", "fcc", 3.947, {"Pd": 18}, 70, 9),
    "Rh-q17": Solid("Rh", "fcc", 3.834, {"Rh": 17}, 70, 9),
    "Ca-q10": Solid("Ca", "fcc", 5.53, {"Ca": 10}, 60, 9),
    "CaF2": Solid("CaF2", "fluorite", 5.505, {"Ca": 10, "F": 7}, 120, 3),
    "MgO-CsCl": Solid("MgO", "cesiumchloride", 2.661, {"Mg": 10, "O": 6}, 200, 5, smearing="gaussian"),
    "MgO-rocksalt": Solid("MgO", "rocksalt", 4.254, {"Mg": 10, "O": 6}, 200, 4),
    "MgO-rocksalt-q2": Solid("MgO", "rocksalt", 4.26, {"Mg": 2, "O": 6}, 100, 4, smearing="gaussian"),
    "Ag-q19": Solid("Ag", "fcc", 4.162, {"Ag": 19}, 60, 9, nbands=20),
    "Cu-q19": Solid("Cu", "fcc", 3.63, {"Cu": 19}, 120, 9),
    "Ni-nonmagnetic": Solid("Ni", "fcc", 3.522, {"Ni": 18}, 120, 8),
    "Ni-ferro": Solid("Ni", "fcc", 3.522, {"Ni": 18}, 120, 8, moment=0.6),
}


def fit(points: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the equilibrium of a Birch-Murnaghan curve through the free energies of a scan.

    Parameters
    ----------
    points
        Records with a_A, volume_A3 and energy (Hartree).

    Returns
    -------
    dict
        a0_A, B0_GPa.
    """
    volumes = [point["volume_A3"] for point in points]
    curve = EquationOfState(volumes, [point["energy"] * Hartree for point in points], eos="birchmurnaghan")
    v0, _, bulk_modulus = curve.fit()
    return {"a0_A": points[0]["a_A"] * (v0 / volumes[0]) ** (1 / 3), "B0_GPa": bulk_modulus / GPa}


def compute(solid: Solid, a: float, fft: Sequence[int] | None) -> tuple[dict[str, float], list[int]]:
    """Calculate one point of a scan; return it and the FFT box that was used.

    Parameters
    ----------
    solid
        Crystal and settings.
    a
        Lattice constant in Angstrom.
    fft
        FFT box (n1, n2, n3); None is pw.x's choice.
    """
    atoms = solid.atoms(a)
    result = run_qe(atoms, **solid.settings(), fft=fft)
    kept = {key: result[key] for key in ("energy", "magmom", "nk", "scf_steps", "wall_s", "cpu_s")}
    return {"a_A": a, "volume_A3": atoms.get_volume(), **kept}, [int(n) for n in result["fft"].split(",")]


def main() -> None:
    """Complete the scans of the solids named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"solids, from {', '.join(SOLIDS)} (default: all)")
    scans = json.loads(PATH.read_text())["scans"] if PATH.exists() else {}
    for name in parser.parse_args().names or SOLIDS:
        solid = SOLIDS[name]
        description = {"formula": solid.formula, "structure": solid.structure, "moment": solid.moment}
        settings = {**description, "start_a_A": solid.a, **solid.settings()}
        scan = scans.get(name)
        if scan is None or scan["settings"] != settings:
            scan = scans[name] = {"settings": settings, "fft": None, "points": []}
        for scale in VOLUMES[len(scan["points"]) :]:
            point, scan["fft"] = compute(solid, solid.a * scale ** (1 / 3), scan["fft"])
            scan["points"].append(point)
            if len(scan["points"]) == len(VOLUMES):
                scan.update(fit(scan["points"]))
            PATH.write_text(json.dumps({"source": SOURCE, "scans": scans}, indent=1) + "\n")
        print(f"{name:12s} a0 {scan['a0_A']:.4f} Angstrom, B0 {scan['B0_GPa']:.1f} GPa", flush=True)


if __name__ == "__main__":
    main()

"""Records for examples/fit_solids: measured cubic solids, and molecules of W4-11.

    python examples/fit_solids/records.py SOLIDS W4_11

SOLIDS and W4_11 are JSON files that are not part of this repository. "solids" of the first has for each solid its
formula, structure, lattice constant without zero-point expansion (a0_exp_zpc_A, Angstrom) and, where it is known, its
bulk modulus (B0_exp_GPa). It has calculated lattice constants, too: those of PBE and PBEsol with all electrons
(zhang64; G.-X. Zhang et al., New J. Phys. 20, 063020 (2018)) and those of PBE and r2SCAN with projectors (sol62, VASP;
K. Trepte and J. Voss, J. Comput. Chem. 43, 1104 (2022)). The second has systems (xyz_A, unpaired) and reactions
(systems, ref_kcal) of the atomization energies of A. Karton, S. Daon and J. M. L. Martin, Chem. Phys. Lett. 510, 165
(2011). solids.json, molecules.json, r2scan_errors.yaml and pbesol_errors.yaml are written beside this script; solids
and molecules are those of the configuration.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.units import kcal, mol

from ase_nnxc.train.records import Record, all_electron, atomization_energy, experimental_solid, write_records

FOLDER = Path(__file__).parent
# k-points per inverse Angstrom, and the solids without a gap
INSULATOR, METAL = 2.0, 2.4
METALLIC = {"alkali and alkaline earth", "transition metals", "simple metals", "carbides and nitrides"}
MOMENTS = {"Ni": [0.7]}  # Bohr magnetons, initial
# molecules of at most three atoms without strong multireference character
MOLECULES = (
    *("h2", "bh", "ch", "ch2-sing", "ch2-trip", "nh", "nh2", "oh", "h2o", "hs", "hf", "hnc", "hcl", "f2", "co", "p2"),
    *("n2", "so", "hcn", "s2", "co2", "clf", "cs", "bf", "no", "ocs", "o2", "n2o", "cl2", "sih", "h2s", "alf", "sio"),
    "so2",
)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solids", type=Path, metavar="SOLIDS")
    parser.add_argument("molecules", type=Path, metavar="W4_11")
    args = parser.parse_args()
    config = yaml.safe_load((FOLDER / "solids.yaml").read_text())
    classes = {name: label for label, names in config["classes"].items() for name in names}
    measured = {row["formula"]: row for row in json.loads(args.solids.read_text())["solids"].values()}
    solids = [solid(measured[name], METAL if label in METALLIC else INSULATOR) for name, label in classes.items()]
    write_records(FOLDER / "solids.json", solids)
    for label, error_of in (("r2scan", r2scan_error), ("pbesol", pbesol_error)):
        known = {name: error for name in classes if (error := error_of(measured[name])) is not None}
        (FOLDER / f"{label}_errors.yaml").write_text(yaml.safe_dump({"lattice_constant": known}))
    data = json.loads(args.molecules.read_text())
    write_records(FOLDER / "molecules.json", [molecule(name, data) for name in MOLECULES])


def solid(row: dict[str, Any], density: float) -> Record:
    """Return the record of a solid at three volumes, with a fixed mesh of k-points."""
    a = row["a0_exp_zpc_A"]
    atoms = bulk(row["formula"], row["structure"], a=a)
    if row["formula"] in MOMENTS:
        atoms.set_initial_magnetic_moments(MOMENTS[row["formula"]])
    record = experimental_solid(row["formula"], atoms, a, a, row.get("B0_exp_GPa"), points=3)
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    return replace(record, settings=({"kpts": [math.ceil(density * length) for length in lengths]},) * 3)


def r2scan_error(row: dict[str, Any]) -> float | None:
    """Return the relative error of the lattice constant of r2SCAN, a(PBE) + a(r2SCAN) - a(PBE), if it is known."""
    if "zhang64" not in row or "sol62" not in row:
        return None
    projector = row["sol62"]["a0_A"]
    calculated = row["zhang64"]["PBE-uncorr"] + projector["r2SCAN"] - projector["PBE"]
    return round(calculated / row["a0_exp_zpc_A"] - 1, 6)


def pbesol_error(row: dict[str, Any]) -> float | None:
    """Return the relative error of the lattice constant of PBEsol with all electrons, if it is known."""
    if "zhang64" not in row:
        return None
    return round(row["zhang64"]["PBEsol-uncorr"] / row["a0_exp_zpc_A"] - 1, 6)


def molecule(name: str, data: dict[str, Any]) -> Record:
    """Return the record of the atomization energy of a molecule with all electrons."""
    (energy,) = (row["ref_kcal"] for row in data["reactions"] if row["systems"][0] == name)
    system = data["systems"][name]
    symbols, positions = [row[0] for row in system["xyz_A"]], [row[1:] for row in system["xyz_A"]]
    unpaired = system["unpaired"]
    atoms = Atoms(symbols, positions, magmoms=[unpaired / len(symbols)] * len(symbols) if unpaired else None)
    return all_electron(atomization_energy(name, atoms, energy * kcal / mol), "def2-tzvp", grid_level=2)


if __name__ == "__main__":
    main()

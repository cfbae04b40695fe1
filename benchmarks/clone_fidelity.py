"""Self-consistent differences between clones and their parents, for crystals and molecules that were not fitted.

    python benchmarks/clone_fidelity.py [MODEL ...]       (default: the four that are shipped; half an hour)

The benchmark compares free energies of Al, Si, MgO and Cu at seven volumes, their Birch-Murnaghan fits, and total
energies of molecules from PySCF, with the same settings for both functionals. It prints a table and writes
benchmarks/clone_fidelity.json after each crystal; energies of the parents that are in this file are not recalculated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.units import GPa, Hartree

from ase_nnxc import NNXCCalculator, __version__
from ase_nnxc.checkpoints import load_functional, read_card
from ase_nnxc.eos.birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
from ase_nnxc.registry import get_functional
from ase_nnxc.train.certificate import compare_molecules

OUTPUT = Path(__file__).with_suffix(".json")
MODELS = ("pbe-clone", "pbe-clone-mlp", "r2scan-clone", "r2scan-clone-mlp")
CRYSTALS = {"Al": bulk("Al"), "Si": bulk("Si"), "MgO": bulk("MgO", "rocksalt", a=4.25), "Cu": bulk("Cu", a=3.65)}
SETTINGS: dict[str, dict[str, Any]] = {
    "Al": {"ecut": 400, "kpts": {"size": (8, 8, 8), "gamma": True}, "pseudos": "gth-pbe-q3"},
    "Si": {"ecut": 500, "kpts": {"size": (6, 6, 6), "gamma": True}, "pseudos": "gth-pbe-q4"},
    "MgO": {
        "ecut": 1500,
        "kpts": {"size": (4, 4, 4), "gamma": True},
        "pseudos": {"Mg": "gth-pbe-q2", "O": "gth-pbe-q6"},
    },
    "Cu": {"ecut": 2000, "kpts": {"size": (5, 5, 5), "gamma": True}, "pseudos": "gth-pbe-q11"},
}
VOLUMES = [0.94 + 0.02 * i for i in range(7)]
MOLECULES = ("NH3", "CO", "C2H4", "F2", "CH3", "CH3OH", "PH3", "ClF")
BASIS = "def2-tzvp"


def main() -> None:
    """Compare every model with its parent."""
    results: dict[str, Any] = {"version": __version__, "settings": described(), "free_energies_eV": {}, "models": {}}
    if OUTPUT.exists():
        results |= json.loads(OUTPUT.read_text())
    for name in sys.argv[1:] or MODELS:
        card = read_card(name)
        results["free_energies_eV"].pop(name, None)
        for xc in (card["parent"], name):
            known = results["free_energies_eV"].setdefault(xc, {})
            for crystal in (c for c in CRYSTALS if c not in known):
                known[crystal] = scan(xc, crystal)
                OUTPUT.write_text(json.dumps(results, indent=1) + "\n")
        energies = [results["free_energies_eV"][xc] for xc in (name, card["parent"])]
        results["models"][name] = {
            "sha256": card["sha256"],
            "parent": card["parent"],
            "crystals": {c: differences(c, *(e[c] for e in energies)) for c in CRYSTALS},
            "molecules_mHa": compare_molecules(load_functional(name), get_functional(card["parent"]), MOLECULES, BASIS),
        }
        report(name, results["models"][name])
        OUTPUT.write_text(json.dumps(results, indent=1) + "\n")


def scan(xc: str, crystal: str) -> list[float]:
    """Return the free energies at the volumes, eV."""
    calculator = NNXCCalculator(xc, smooth_cutoff=True, **SETTINGS[crystal])
    cells = [scaled(CRYSTALS[crystal], volume) for volume in VOLUMES]
    calculator.set(gpts=calculator.resolve(cells[-1])["gpts"])
    return [float(calculator.get_property("free_energy", atoms)) for atoms in cells]


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """Return the crystal at a multiple of its volume."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell * volume ** (1 / 3), scale_atoms=True)
    return atoms


def differences(crystal: str, energies: list[float], reference: list[float]) -> dict[str, float]:
    """Return clone minus parent: largest energy difference, differences of lattice constant and bulk modulus."""
    natoms = len(CRYSTALS[crystal])
    clone, parent = fit(crystal, energies), fit(crystal, reference)
    largest = max((e - r for e, r in zip(energies, reference)), key=abs)
    return {
        "energy_mHa_per_atom": 1e3 * largest / Hartree / natoms,
        "parent_a0_A": float((4 * parent.volume) ** (1 / 3)),  # the primitive cell of each is a quarter of the cube
        "a0_percent": 100 * float((clone.volume / parent.volume) ** (1 / 3) - 1),
        "parent_B0_GPa": float(parent.bulk_modulus) / GPa,
        "B0_percent": 100 * float(clone.bulk_modulus / parent.bulk_modulus - 1),
    }


def fit(crystal: str, energies: list[float]) -> BirchMurnaghan:
    """Fit the equation of state, eV and Angstrom."""
    volumes = [scaled(CRYSTALS[crystal], volume).get_volume() for volume in VOLUMES]
    return fit_birch_murnaghan(*(torch.tensor(x, dtype=torch.float64, device="cpu") for x in (volumes, energies)))


def described() -> dict[str, Any]:
    """Return the settings for the file."""
    crystals = {
        name: {**settings, "a_A": CRYSTALS[name].cell.cellpar()[0] * 2**0.5} for name, settings in SETTINGS.items()
    }
    return {"crystals": crystals, "volumes": VOLUMES, "smooth_cutoff": True, "molecules_basis": BASIS}


def report(name: str, result: dict[str, Any]) -> None:
    """Print the differences of a model."""
    print(f"{name} - {result['parent']}")
    for crystal, d in result["crystals"].items():
        print(
            f"  {crystal:4} dE {d['energy_mHa_per_atom']:+8.4f} mHa/atom   a0 {d['a0_percent']:+8.4f} %"
            f"   B0 {d['B0_percent']:+7.3f} %"
        )
    molecules = {m: "unconverged" if d is None else f"{d:+.4f}" for m, d in result["molecules_mHa"].items()}
    print("  " + ", ".join(f"{m} {d}" for m, d in molecules.items()) + "  mHa", flush=True)


if __name__ == "__main__":
    main()

"""Clamped-atom elastic constants of silicon and aluminium from finite strains, by this code, ABINIT and pw.x.

    python benchmarks/elastic.py

Strain derivatives of the stress are compared with those of ABINIT. pw.x 6.7 omits a traceless part of the stress for
GTH pseudopotentials (docs/accuracy.md). Only the trace of its stress is compared, which gives the bulk modulus, and for
the other combinations the curvature of the free energy. Cells, pseudopotentials, cutoffs, meshes, boxes and smearing
are the same in all programs.
"""

from collections.abc import Callable

import numpy as np
from abinit import run_abinit
from ase import Atoms
from ase.build import bulk
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, GPa, Hartree
from qe import run_qe

from ase_nnxc import NNXCCalculator

STEP = 0.01
CRYSTALS = {
    "Si": {"a": 5.47, "ecut": 20, "kpts": (4, 4, 4), "fft": (36, 36, 36), "smearing": "gaussian", "width": 0.002},
    "Al": {"a": 4.04, "ecut": 15, "kpts": (8, 8, 8), "fft": (24, 24, 24), "smearing": "gaussian", "width": 0.02},
}
# strains xx, yy, zz, yz, xz, xy in Voigt's notation: yz is twice the component of the tensor
MODES = {"xx": (1, 0, 0, 0, 0, 0), "yz": (0, 0, 0, 1, 0, 0), "xx-yy": (1, -1, 0, 0, 0, 0)}
# free energy F (eV) and stress (6,) (eV/Angstrom^3) of a crystal
Program = Callable[[Atoms], tuple[float, np.ndarray]]


def strained(atoms: Atoms, mode: str, size: float) -> Atoms:
    """Return the crystal strained by one of the `MODES`."""
    xx, yy, zz, yz, xz, xy = MODES[mode]
    strain = size * np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def ours(settings: dict) -> Program:
    """Return the function that calculates free energy and stress by this code."""
    calc = NNXCCalculator(
        "PBE",
        ecut=settings["ecut"] * Hartree,
        kpts={"size": settings["kpts"], "gamma": True},
        gpts=settings["fft"],
        smearing={"name": settings["smearing"], "width": settings["width"] * Hartree},
        convergence={"energy": 1e-10},
        pseudos="gth-pbe",
    )
    return lambda atoms: (calc.get_property("free_energy", atoms), calc.get_stress(atoms))


def other(run: Callable[..., dict], settings: dict) -> Program:
    """Return the function that calculates free energy and stress by `run_qe` or `run_abinit`."""
    options = {name: value for name, value in settings.items() if name != "a"}

    def program(atoms: Atoms) -> tuple[float, np.ndarray]:
        result = run(atoms, **options)
        stress = full_3x3_to_voigt_6_stress(np.array(result["stress"]))
        return result["energy"] * Hartree, stress * Hartree / Bohr**3

    return program


def constants(program: Program, atoms: Atoms) -> dict[str, float]:
    """Return strain derivatives of the stress and curvatures (1/V) d2F/de2 of the free energy, GPa."""
    middle, _ = program(atoms)
    slope, curvature = {}, {}
    for mode in MODES:
        (f_plus, s_plus), (f_minus, s_minus) = (program(strained(atoms, mode, sign * STEP)) for sign in (1, -1))
        slope[mode] = (s_plus - s_minus) / (2 * STEP) / GPa
        curvature[mode] = (f_plus + f_minus - 2 * middle) / STEP**2 / atoms.get_volume() / GPa
    return {
        "C11, stress": slope["xx"][0],
        "C12, stress": slope["xx"][1:3].mean(),
        "C44, stress": slope["yz"][3],
        "B, trace of the stress": slope["xx"][:3].mean(),
        "C11, energy": curvature["xx"],
        "C11 - C12, energy": curvature["xx-yy"] / 2,
        "C44, energy": curvature["yz"],
    }


def main() -> None:
    """Print the table of docs/accuracy.md."""
    print("| crystal | GPa | ase_nnxc | ABINIT | pw.x |\n| --- | --- | --: | --: | --: |")
    for symbol, settings in CRYSTALS.items():
        atoms = bulk(symbol, a=settings["a"])
        programs = (ours(settings), other(run_abinit, settings), other(run_qe, settings))
        columns = [constants(program, atoms) for program in programs]
        for name in columns[0]:
            print(f"| {symbol} | {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns) + " |")


if __name__ == "__main__":
    main()

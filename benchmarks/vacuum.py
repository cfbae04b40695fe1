"""Effect of the vacuum and the grid on energies of molecules and layers: the table of docs/molecules-and-slabs.md.

    python benchmarks/vacuum.py [WHAT ...] [--ecut 400 800 1600]

WHAT is graphene, water, hydronium, water-smooth, hydronium-smooth (with the smooth cutoff), eggbox, or lattice
(default: all).

The vacuum on each side of a system increases from 6 to 10 Angstrom in whole grid steps, so that the positions of the
atoms relative to the grid stay the same. The eggbox effect is the change of the energy for a shift by half a step.
"""

import argparse
import dataclasses
import math

import numpy as np
import torch
from ase import Atoms
from ase.build import graphene, molecule
from ase.units import Bohr, Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.basis import smooth_size

A = 2.4665  # Angstrom, of graphene
NEAR, FAR = 6.0, 10.0  # Angstrom of vacuum


def in_box(atoms: Atoms, vacuum: float, step: float) -> tuple[Atoms, list[int | None]]:
    """Return a copy with vacuum along non-periodic directions, and the number of grid points (step in bohr) there."""
    copy, points = atoms.copy(), [None] * 3
    cell = atoms.cell.array.copy()
    for axis in np.flatnonzero(~atoms.pbc):
        extent = np.ptp(atoms.positions[:, axis]) + 2 * vacuum
        points[axis] = smooth_size(math.ceil(extent / Bohr / step))
        cell[axis] = 0.0
        cell[axis, axis] = points[axis] * step * Bohr
    copy.cell = cell
    return copy, points


def energy(atoms: Atoms, vacuum: float, step: float, ecut: float, **parameters) -> float:
    """Return the free energy in the box, Hartree."""
    boxed, points = in_box(atoms, vacuum, step)
    calc = NNXCCalculator(ecut=ecut, pseudos="gth-pbe", convergence={"energy": 1e-8}, **parameters)
    own = calc.resolve(boxed)["gpts"]
    calc.set(gpts=tuple(n if p is None else p for n, p in zip(own, points)))
    boxed.calc = calc
    return boxed.get_potential_energy(force_consistent=True) / Hartree


def shifted(atoms: Atoms, ecut: float, shift: float, **parameters) -> float:
    """Return the free energy, Hartree, with the atoms shifted by a number of grid steps along the first axis."""
    from ase_nnxc.ks.convergence import SCFSettings
    from ase_nnxc.ks.scf import scf

    calc = NNXCCalculator(ecut=ecut, pseudos="gth-pbe", symmetry=False, **parameters)
    with torch.no_grad():
        plan = calc._plan(atoms)
        positions = plan.crystal.positions.clone()
        positions[:, 0] += shift / plan.box[0]
        plan = dataclasses.replace(plan, crystal=dataclasses.replace(plan.crystal, positions=positions))
        system = plan.system(calc._xc.functional, torch.device("cpu"))
        return scf(system, plan.smearing, settings=SCFSettings(1e-9)).free_energy


def hydronium() -> Atoms:
    """Return H3O+, a pyramid near its equilibrium: O-H 0.98 Angstrom, H-O-H 112 degrees."""
    side = 2 * 0.98 * math.sin(math.radians(56))
    radius = side / math.sqrt(3)
    height = math.sqrt(0.98**2 - radius**2)
    angles = (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    ring = [(radius * math.cos(angle), radius * math.sin(angle), -height) for angle in angles]
    return Atoms("OH3", [(0.0, 0.0, 0.0), *ring])


def lattice_constant(ecut: float) -> float:
    """Return the lattice constant of graphene, Angstrom, from a cubic fit of the energy against the area."""
    energies, areas = [], []
    calc = NNXCCalculator(ecut=ecut, kpts=(9, 9, 1), pseudos="gth-pbe", smooth_cutoff=True)
    calc.set(gpts=calc.resolve(graphene(a=1.03 * A))["gpts"])
    for factor in (0.97, 0.985, 1.0, 1.015, 1.03):
        atoms = graphene(a=A * factor)
        atoms.calc = calc
        energies.append(atoms.get_potential_energy(force_consistent=True))
        areas.append(factor**2)
    slopes = np.polyder(np.polyfit(areas, energies, 3))
    return A * math.sqrt(min(np.roots(slopes).real, key=lambda x: abs(x - 1)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["graphene", "water", "hydronium", "water-smooth", "hydronium-smooth", "eggbox", "lattice"]
    parser.add_argument("what", nargs="*", default=names)
    parser.add_argument("--ecut", type=float, nargs="+", default=[400.0, 800.0, 1600.0])
    arguments = parser.parse_args()
    smooth = {"smooth_cutoff": True}
    systems = {
        "graphene": (graphene(a=A), {"kpts": (6, 6, 1)}),
        "water": (molecule("H2O"), {}),
        "hydronium": (hydronium(), {"charge": 1}),
        "water-smooth": (molecule("H2O"), smooth),
        "hydronium-smooth": (hydronium(), {"charge": 1, **smooth}),
    }
    for ecut in arguments.ecut:
        step = 0.98 * math.pi / (2 * math.sqrt(2 * ecut / Hartree))  # bohr; slightly smaller than the density requires
        for name, (atoms, parameters) in systems.items():
            if name in arguments.what:
                change = energy(atoms, FAR, step, ecut, **parameters) - energy(atoms, NEAR, step, ecut, **parameters)
                print(f"{name:16} {ecut:6.0f} eV   vacuum {NEAR:.0f} -> {FAR:.0f} A: {change:10.2e} Ha", flush=True)
            if "eggbox" in arguments.what:
                change = shifted(atoms, ecut, 0.5, **parameters) - shifted(atoms, ecut, 0.0, **parameters)
                print(f"{name:10} {ecut:6.0f} eV   half a step: {change:10.2e} Ha", flush=True)
        if "lattice" in arguments.what:
            print(f"graphene   {ecut:6.0f} eV   a0 = {lattice_constant(ecut):.4f} A", flush=True)


if __name__ == "__main__":
    main()

"""Conversion factors from Hartree atomic units (inside) to ASE's units (outside), taken from `ase.units`.

A quantity in atomic units times the factor is in ASE's units: energies times `HARTREE`, lengths times `BOHR`, forces
times `HARTREE / BOHR`, stresses times `HARTREE / BOHR**3`.
"""

from ase import units

HARTREE: float = units.Hartree  # eV
BOHR: float = units.Bohr  # Angstrom
GPA: float = units.GPa  # eV Angstrom^-3

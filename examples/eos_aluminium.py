"""Lattice constant and bulk modulus of aluminium with ASE's EquationOfState.

The mesh and the FFT box are those of the largest volume, so that they do not change along the curve. The fit uses the
free energy, because the stress vanishes at its minimum. `nnxc eos Al` does all of this and more.
"""

from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa

from ase_nnxc import NNXCCalculator

A_START = 4.04
scales = [0.98 + 0.01 * i for i in range(5)]

calc = NNXCCalculator(xc="PBE", kpts={"size": (8, 8, 8), "gamma": True}, smooth_cutoff=True)
resolved = calc.resolve(bulk("Al", a=A_START * scales[-1]))
calc.set(kpts=resolved["kpts"], gpts=resolved["gpts"])

volumes, energies = [], []
for scale in scales:
    atoms = bulk("Al", a=A_START * scale)
    atoms.calc = calc
    volumes.append(atoms.get_volume())
    energies.append(atoms.get_potential_energy(force_consistent=True))

volume, energy, bulk_modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
print(f"a0 = {(4 * volume) ** (1 / 3):.4f} Angstrom, B0 = {bulk_modulus / GPa:.1f} GPa")

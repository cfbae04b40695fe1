"""Molecules in PySCF: charge, moments and broken spin symmetry."""

import pytest
from ase import Atoms
from ase.calculators.calculator import InputError
from pyscf import dft

from ase_nnxc.interop.pyscf import solve_molecule
from ase_nnxc.xc import PBE


def solved(atoms: Atoms, **options):
    return solve_molecule(atoms, PBE(), "sto-3g", grid_level=1, **options)


def chain(*moments: float) -> Atoms:
    return Atoms(f"H{len(moments)}", [[0, 0, 5.0 * i] for i in range(len(moments))], magmoms=moments)


@pytest.mark.parametrize("moments", [(1, -1), (1, -1, 1), (-1, 1, -1)])
def test_stretched_hydrogen_with_alternating_moments_has_the_energy_of_its_atoms(moments):
    atom, molecule = solved(chain(1)), solved(chain(*moments))
    assert isinstance(molecule, dft.uks.UKS)
    assert molecule.e_tot == pytest.approx(len(moments) * atom.e_tot, abs=1e-4)


def test_closed_shell_without_moments_is_restricted():
    assert isinstance(solved(chain(0, 0)), dft.rks.RKS)


def test_antiparallel_moments_at_a_short_distance_give_the_closed_shell():
    short = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    energy = solved(short).e_tot
    short.set_initial_magnetic_moments([1, -1])
    assert solved(short).e_tot == pytest.approx(energy, abs=1e-6)


def test_charge_is_that_of_the_keyword_or_of_the_initial_charges():
    ion = Atoms("LiH", [[0, 0, 0], [0, 0, 1.6]], magmoms=[1, 0])
    by_keyword = solved(ion, charge=1)
    ion.set_initial_charges([1, 0])
    assert by_keyword.mol.nelectron == 3
    assert solved(ion).e_tot == pytest.approx(by_keyword.e_tot, abs=1e-8)
    assert solved(ion, charge=1).e_tot == pytest.approx(by_keyword.e_tot, abs=1e-8)


@pytest.mark.parametrize(
    ("charges", "charge", "message"),
    [
        ([1, 0], 0, "charge=0, but the initial charges of the atoms add up to 1"),
        ([0.5, 0], None, "the sum of the initial charges is 0.5: expected a whole number"),
        ([0, 0], 0.5, "charge is 0.5: expected a whole number"),
        ([0, 0], 1, "H2 with 1 electrons cannot have 0 unpaired ones"),
        ([0, 0], 2, "H2 with 0 electrons"),
    ],
)
def test_charge_that_is_contradicted_or_impossible_is_refused(charges, charge, message):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], charges=charges)
    with pytest.raises(InputError, match=message):
        solved(atoms, charge=charge)

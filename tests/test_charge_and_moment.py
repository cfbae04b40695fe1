"""Charged cells and fixed magnetic moments: derivatives by the numbers of electrons are the Fermi levels."""

from dataclasses import replace

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from kohn_sham import basis_of, crystal_of, slope

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.registry import get_functional


def solve(atoms: Atoms, ecut: float, kpts: tuple[int, int, int], start=None, **changes) -> GroundState:
    crystal = crystal_of(atoms)
    basis = basis_of(crystal, ecut, kpts)
    functional, smearing = get_functional("PBE"), Smearing("fermi-dirac", 0.01)
    crystal, settings = replace(crystal, **changes), SCFSettings(energy=1e-12)
    return scf(System(crystal, basis, functional), smearing, settings=settings, start=start)


def nickel() -> Atoms:
    atoms = bulk("Ni", "fcc", a=3.6)
    atoms.set_initial_magnetic_moments([1.0])
    return atoms


def test_fermi_level_is_the_derivative_of_the_free_energy_by_the_electrons() -> None:
    atoms = bulk("Al", "fcc", a=4.0)
    state = solve(atoms, 6.0, (3, 3, 3))
    by_charge = slope(lambda q: solve(atoms, 6.0, (3, 3, 3), state, charge=q).free_energy, 0.02)
    assert by_charge == pytest.approx(-state.fermi_level, rel=1e-6)


def test_levels_of_the_spins_are_the_derivative_of_the_free_energy_by_the_moment() -> None:
    state = solve(nickel(), 30.0, (2, 2, 2), fixed_moment=0.5)
    assert state.total_moment == pytest.approx(0.5, abs=1e-10)
    up, down = state.fermi_levels.tolist()
    moved = slope(lambda x: solve(nickel(), 30.0, (2, 2, 2), state, fixed_moment=0.5 + x).free_energy, 0.02)
    assert moved == pytest.approx(0.5 * (up - down), rel=1e-5)


def test_moment_held_where_it_would_be_is_no_constraint() -> None:
    free = solve(nickel(), 30.0, (2, 2, 2))
    state = solve(nickel(), 30.0, (2, 2, 2), fixed_moment=free.total_moment)
    assert state.free_energy == pytest.approx(free.free_energy, abs=1e-9)
    assert state.fermi_levels.tolist() == pytest.approx([free.fermi_level] * 2, abs=1e-5)


SMALL = {"ecut": 250, "kpts": (1, 1, 1), "smearing": {"name": "gaussian", "width": 0.01}}


def test_atom_by_hunds_rule_has_whole_electrons() -> None:
    atoms = Atoms("N", cell=[4.0, 4.2, 4.4], pbc=True)
    atoms.calc = NNXCCalculator(hund=True, **SMALL)
    assert atoms.get_magnetic_moment() == pytest.approx(3.0, abs=1e-9)
    up, down = atoms.calc.ground_state(atoms).occupations[:, 0].sum(-1).tolist()
    assert (up, down) == pytest.approx((4.0, 1.0), abs=1e-9)


def test_cation_of_an_atom_keeps_its_moment() -> None:
    atoms = Atoms("H", cell=[4.0, 4.0, 4.0], pbc=True, magmoms=[1.0])
    atoms.calc = NNXCCalculator(charge=-0.5, fixed_magmom=0.5, **SMALL)
    state = atoms.calc.ground_state(atoms)
    assert state.crystal.nelectrons == 1.5
    assert state.occupations.sum((1, 2)).tolist() == pytest.approx([1.0, 0.5], abs=1e-9)


@pytest.mark.parametrize(
    ("atoms", "keywords", "message"),
    [
        (bulk("Si"), {"hund": True}, "single neutral atom"),
        (bulk("Al"), {"hund": True, "charge": 1}, "single neutral atom"),
        (bulk("Al"), {"charge": 3}, "only 3 valence electrons"),
        (bulk("Al"), {"charge": "1"}, "charge='1'"),
        (bulk("Al"), {"charge": float("nan")}, "charge=nan"),
        (bulk("Al"), {"fixed_magmom": 1}, "needs spin"),
        (bulk("Al"), {"fixed_magmom": True}, "needs spin"),
        (nickel(), {"fixed_magmom": 19}, "18 valence electrons cannot have a moment of 19"),
        (bulk("Al"), {"fixed_magmom": "yes"}, "fixed_magmom='yes'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(atoms: Atoms, keywords: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NNXCCalculator(**keywords).resolve(atoms)

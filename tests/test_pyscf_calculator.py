"""PySCFCalculator: energies, forces and errors of molecules."""

import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import InputError, PropertyNotImplementedError, SCFError
from ase.io import read, write
from pyscf import dft

from ase_nnxc import PySCFCalculator
from ase_nnxc.interop.pyscf import solve_molecule
from ase_nnxc.registry import get_functional
from ase_nnxc.units import HARTREE
from ase_nnxc.xc import PBE


def calculated(atoms: Atoms, xc="PBE", **keywords) -> Atoms:
    """The atoms with a calculator in a small basis set and on a coarse grid."""
    atoms.calc = PySCFCalculator(xc, **{"basis": "sto-3g", "grid_level": 0} | keywords)
    return atoms


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


def amidogen() -> Atoms:
    """A radical whose hole is not in a degenerate level."""
    return Atoms("NH2", [[0, 0, 0.14], [0, 0.8, -0.5], [0, -0.8, -0.5]], magmoms=[1, 0, 0])


def hydrogen(**keywords) -> Atoms:
    return Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], **keywords)


# ---- energies and forces ---------------------------------------------------------------------------------------------


def test_energy_is_that_of_pyscf_with_libxc():
    atoms = calculated(water())
    reference = atoms.calc.mean_field(atoms).copy()
    reference._numint, reference.xc = dft.numint.NumInt(), "PBE"
    assert atoms.get_potential_energy() == pytest.approx(reference.kernel() * HARTREE, abs=1e-6)


def difference(atoms: Atoms, xc: str, step: float = 1e-3, **options) -> float:
    """The force along z on the first atom, by differences of energies from one start, eV/Angstrom."""
    kwargs = {"basis": "sto-3g", "grid_level": 0, "conv_tol": 1e-11, "conv_tol_grad": 1e-6, **options}
    start, energies = None, []
    for displacement in (0, step, -step):
        moved = atoms.copy()
        moved.positions[0, 2] += displacement
        mf = solve_molecule(moved, get_functional(xc), second_order=True, start=start, **kwargs)
        start = mf.make_rdm1()
        energies.append(mf.e_tot * HARTREE)
    return (energies[2] - energies[1]) / (2 * step)


@pytest.mark.parametrize("xc", ["LDA", "PBE", "r2SCAN", "pbe-clone", "r2scan-clone-mlp", "TPSS"])
@pytest.mark.parametrize("atoms", [water(), amidogen()], ids=["H2O", "NH2"])
def test_forces_are_those_of_differences(atoms, xc):
    assert calculated(atoms, xc).get_forces()[0, 2] == pytest.approx(difference(atoms, xc), abs=2e-4)


def test_forces_with_density_fitting_are_those_of_differences():
    atoms = calculated(water(), density_fit=True)
    assert atoms.get_forces()[0, 2] == pytest.approx(difference(atoms, "PBE", density_fit=True), abs=2e-4)


def test_forces_with_pseudopotentials_are_those_of_differences():
    options = {"basis": "gth-szv", "pseudo": "gth-pbe", "grid_level": 4}
    atoms = calculated(water(), **options)
    assert atoms.get_forces()[0, 2] == pytest.approx(difference(atoms, "PBE", **options), abs=5e-4)


def test_forces_add_up_to_zero():
    assert calculated(water()).get_forces().sum(0) == pytest.approx(np.zeros(3), abs=1e-9)


def test_forces_need_no_second_scf(monkeypatch):
    atoms = calculated(water())
    atoms.get_potential_energy()
    monkeypatch.setattr("ase_nnxc.calculator.molecule.solve_molecule", None)
    atoms.get_forces()


def test_antiparallel_moments_find_the_energy_of_separate_atoms():
    atom = calculated(Atoms("H", magmoms=[1])).get_potential_energy()
    pair = calculated(Atoms("H2", [[0, 0, 0], [0, 0, 5]], magmoms=[1, -1]))
    assert pair.get_potential_energy() == pytest.approx(2 * atom, abs=3e-3)


def test_initial_charges_are_the_charge():
    by_charges = calculated(hydrogen(charges=[1, 0], magmoms=[1, 0])).get_potential_energy()
    assert calculated(hydrogen(magmoms=[1, 0]), charge=1).get_potential_energy() == pytest.approx(by_charges, abs=1e-8)


def test_energy_tensor_has_the_derivative_of_the_energy():
    atoms = calculated(water(), PBE(trainable=("kappa",)))
    energy = atoms.calc.energy_tensor(atoms)
    energy.backward()
    energies = [calculated(water(), PBE(kappa=kappa)).get_potential_energy() for kappa in (0.805, 0.803)]
    gradient = atoms.calc.parameters["xc"].kappa.grad.item()
    assert gradient == pytest.approx((energies[0] - energies[1]) / 0.002, rel=1e-5)


# ---- ASE's contract --------------------------------------------------------------------------------------------------


def test_changed_functional_object_is_noticed():
    functional = PBE(trainable=("kappa",))
    atoms = calculated(water(), functional)
    energy = atoms.get_potential_energy()
    with torch.no_grad():
        functional.kappa += 0.1
    assert atoms.get_potential_energy() != energy


def test_changed_parameter_discards_the_results():
    atoms = calculated(hydrogen())
    energy = atoms.get_potential_energy()
    atoms.calc.set(basis="6-31g")
    assert atoms.get_potential_energy() != energy


def test_cell_is_not_used(monkeypatch):
    atoms = calculated(hydrogen())
    atoms.get_potential_energy()
    monkeypatch.setattr("ase_nnxc.calculator.molecule.solve_molecule", None)
    atoms.set_cell([8, 8, 8])
    atoms.get_potential_energy()


def test_results_can_be_written_to_a_file(tmp_path):
    atoms = calculated(hydrogen(), "pbe-clone")
    energy = atoms.get_potential_energy()
    write(tmp_path / "h2.json", atoms)
    assert read(tmp_path / "h2.json").get_potential_energy() == energy


def test_description_makes_the_same_calculator():
    parameters = PySCFCalculator("pbe-clone", basis="sto-3g").todict()
    assert parameters["versions"]["functional"].startswith("pbe-clone@1 (sha256")
    assert PySCFCalculator(**parameters).todict() == parameters


def test_description_of_another_functional_is_refused():
    versions = PySCFCalculator("pbe-clone").todict()["versions"]
    with pytest.raises(InputError, match="were written with pbe-clone@1"):
        PySCFCalculator("PBE", versions=versions)


def test_copy_finds_the_forces_of_the_same_state():
    atoms = calculated(hydrogen())
    atoms.get_potential_energy()
    copied = pickle.loads(pickle.dumps(atoms.calc))
    assert copied.get_property("forces", atoms) == pytest.approx(atoms.get_forces(), abs=1e-6)


@pytest.mark.parametrize("name", ["energy", "forces"])
def test_periodic_atoms_are_refused(name):
    atoms = calculated(hydrogen(cell=[5, 5, 5], pbc=True))
    with pytest.raises(PropertyNotImplementedError, match="PySCFCalculator is for molecules"):
        atoms.calc.get_property(name, atoms)


def test_stress_is_not_implemented():
    with pytest.raises(PropertyNotImplementedError):
        calculated(hydrogen()).get_stress()


def test_mean_field_needs_atoms():
    with pytest.raises(InputError, match="nothing has been calculated yet"):
        PySCFCalculator().mean_field()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"xc": "pbee"}, "unknown functional xc='pbee'.*did you mean"),
        ({"base": "sto-3g"}, "unknown keyword 'base'; did you mean 'basis'"),
        ({"basis": 6}, "basis=6: expected the name of a basis set"),
        ({"basis": ""}, "basis='': expected the name of a basis set"),
        ({"pseudo": True}, "pseudo=True: expected None or a name"),
        ({"grid_level": 10}, "grid_level=10: expected an integer from 0 to 9"),
        ({"density_fit": "yes"}, "density_fit='yes': expected True or False"),
        ({"convergence": 1e-6}, "convergence=1e-06: expected a dict with the key energy"),
        ({"maxiter": 0}, "maxiter=0: expected a positive integer"),
    ],
)
def test_wrong_keyword_is_named(keywords, message):
    with pytest.raises(InputError, match=message):
        PySCFCalculator(**keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"basis": "def2-svpp"}, "basis='def2-svpp'; did you mean 'def2svp"),
        ({"basis": "6-31gg"}, "basis='6-31gg'; did you mean '631g'"),
        ({"pseudo": "gth-pbee"}, "pseudo='gth-pbee'; did you mean 'gthpbe'"),
        ({"charge": 0.5}, "charge is 0.5: expected a whole number"),
        ({"charge": "1"}, "charge='1': expected None or a whole number"),
        ({"charge": 1}, "H2 with 1 electrons cannot have 0 unpaired ones"),
    ],
)
def test_wrong_input_for_the_atoms_is_named(keywords, message):
    with pytest.raises(InputError, match=message):
        calculated(hydrogen(), **keywords).get_potential_energy()


@pytest.mark.parametrize(("basis", "pseudo"), [("def2-svp", "def2-svp"), ("gth-szv", "gth-pbe")])
def test_basis_set_without_core_needs_pseudopotentials(basis, pseudo):
    with pytest.raises(InputError, match=f"basis='{basis}' of I is for valence electrons: add pseudo='{pseudo}'"):
        calculated(Atoms("I", magmoms=[1]), basis=basis).get_potential_energy()


def test_scf_that_does_not_converge_raises():
    with pytest.raises(SCFError, match="H2O with sto-3g has not converged"):
        calculated(water(), maxiter=1, convergence={"energy": 1e-12}).get_potential_energy()

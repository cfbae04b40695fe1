"""Cohesive, atomization and ionization energies: a crystal, molecules, atoms and ions in one record."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from ase.io import write

from ase_nnxc import NNXCCalculator
from ase_nnxc.train.objectives import ReactionEnergy
from ase_nnxc.train.records import (
    FREE,
    MEASURED,
    Provenance,
    atomization_energy,
    calculators_for,
    cohesive_energy,
    ionization_potential,
    label,
    read_records,
)
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE

TINY = {"ecut": 100, "convergence": {"energy": 1e-12}}
NARROW = {"name": "gaussian", "width": 0.01}


# ---- records


def test_cohesive_energy_is_per_atom_and_its_atoms_follow_hunds_rule():
    record = cohesive_energy("MgO", bulk("MgO", "rocksalt", a=4.2), 5.2)
    assert record.coefficients == (-0.5, 0.5, 0.5)
    assert [str(atoms.symbols) for atoms in record.structures] == ["MgO", "Mg", "O"]
    assert [bool(atoms.pbc.any()) for atoms in record.structures] == [True, False, False]
    assert record.settings == ({}, FREE | {"hund": True}, FREE | {"hund": True})
    assert record.provenance == MEASURED


def test_atomization_energy_is_per_molecule_and_holds_the_moment_of_the_molecule():
    methane, oxygen = (atomization_energy(name, molecule(name), 1.0) for name in ("CH4", "O2"))
    assert methane.coefficients == (-1, 1, 4)
    assert oxygen.coefficients == (-1, 2)
    assert methane.settings[0]["fixed_magmom"] is False
    assert oxygen.settings[0]["fixed_magmom"] == 2


def test_ion_keeps_the_positions_and_has_the_moment_that_is_asked_for():
    water = molecule("H2O", vacuum=3.0, pbc=True)
    neutral, ion = (record := ionization_potential("H2O", water, 12.6, magmom=1)).structures
    assert (ion.positions == water.positions).all()
    assert ion.get_initial_magnetic_moments().sum() == pytest.approx(1)
    assert not np.any([neutral.pbc, ion.pbc])
    assert [(s["charge"], s["fixed_magmom"]) for s in record.settings] == [(0, False), (1, 1)]
    assert ionization_potential("O", Atoms("O"), 13.6, magmom=3).settings[0]["hund"]
    with pytest.raises(InputError, match="ion of 9 electrons cannot have magmom=2"):
        ionization_potential("H2O", water, 12.6, magmom=2)


def test_image_with_the_energy_of_a_reaction_becomes_its_record(tmp_path):
    crystal, oxygen, water = bulk("Al"), molecule("O2"), molecule("H2O")
    crystal.info = {"cohesive_energy": 3.43}
    oxygen.info = {"record": "oxygen", "atomization_energy": 5.2, "provenance": {"code": "handbook"}}
    water.info = {"ionization_potential": 12.6, "ion_magmom": 1}
    write(tmp_path / "set.extxyz", [crystal, oxygen, water])
    first, second, third = read_records(tmp_path / "set.extxyz")
    assert [r.name for r in (first, second, third)] == ["set-0", "oxygen", "set-2"]
    assert [r.targets["reaction_energy"] for r in (first, second, third)] == [3.43, 5.2, 12.6]
    assert (first.provenance, second.provenance) == (MEASURED, Provenance("handbook"))
    assert second.settings == atomization_energy("oxygen", oxygen, 5.2).settings
    del water.info["ion_magmom"]
    write(tmp_path / "set.extxyz", [water])
    with pytest.raises(InputError, match="ionization_potential needs ion_magmom"):
        read_records(tmp_path / "set.extxyz")


def test_structures_of_a_reaction_have_one_cutoff_and_their_own_points():
    record = cohesive_energy("AlN", bulk("AlN", "rocksalt", a=4.0), 5.7)
    calculator = NNXCCalculator("PBE", kpts=(2, 2, 2), gpts=(64, 64, 64), fixed_magmom=0.0)
    crystal, *atoms = calculators_for(record.structures, calculator, record.settings)
    ecuts = [NNXCCalculator("PBE").resolve(Atoms(s, pbc=True, cell=[4] * 3))["ecut"] for s in ("Al", "N")]
    assert ecuts[0] < ecuts[1]
    assert [calc.parameters["ecut"] for calc in (crystal, *atoms)] == pytest.approx([ecuts[1]] * 3)
    assert (crystal.parameters["kpts"], crystal.parameters["gpts"]) == ((2, 2, 2), (64, 64, 64))
    assert all(calc.parameters["kpts"] == [1, 1, 1] and calc.parameters["gpts"] is None for calc in atoms)


def test_crystal_of_one_atom_and_the_free_atom_have_their_own_settings():
    record = cohesive_energy("Al", bulk("Al"), 3.43)
    crystal, atom = calculators_for(record.structures, NNXCCalculator("PBE", kpts=(2, 2, 2)), record.settings)
    assert crystal.parameters["gpts"] is None
    assert atom.resolve(record.structures[1])["kpts"]["size"] == (1, 1, 1)


def test_other_calculators_refuse_settings():
    record = atomization_energy("O2", molecule("O2"), 5.2)
    with pytest.raises(InputError, match="only NNXCCalculator accepts"):
        label("O2", record.structures, EMT(), coefficients=record.coefficients, settings=record.settings)


# ---- with an SCF


def atomization():
    calculators = NNXCCalculator(smearing=NARROW, **TINY), NNXCCalculator(smearing=NARROW, hund=True, **TINY)
    return atomization_energy("H2", molecule("H2"), 4.5), calculators, (molecule("H2"), Atoms("H"))


def ionization():
    ion = {"charge": 1, "fixed_magmom": 1, "spinpol": True}
    calculators = NNXCCalculator(smearing=NARROW, **TINY), NNXCCalculator(smearing=NARROW, **ion, **TINY)
    return ionization_potential("He", Atoms("He"), 24.6, magmom=1), calculators, (Atoms("He"), Atoms("He"))


@pytest.fixture(scope="module", params=[atomization, ionization])
def case(request):
    """A record, its calculators and structures written out, and a prediction with its functional."""
    record, calculators, structures = request.param()
    functional = PBE(kappa=0.7, trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, kpts=(2, 2, 2), **TINY), 1.0)
    prediction = warm.predict(record)
    return SimpleNamespace(**locals())


def test_energy_and_its_gradient_are_those_of_calculators_with_the_written_settings(case):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    for calculator in case.calculators:
        calculator.set(xc=functional, pseudos="oncv-PBE")

    def difference(kappa):
        with torch.no_grad():
            functional.kappa.fill_(kappa)
        pairs = zip(case.calculators, case.structures)
        energies = [calculator.get_property("free_energy", atoms) for calculator, atoms in pairs]
        return float(np.dot(case.record.coefficients, energies))

    error = ReactionEnergy().errors(case.prediction, case.record)
    (slope,) = torch.autograd.grad(error, case.functional.kappa, retain_graph=True)
    assert error.item() == pytest.approx(difference(0.7) - case.record.targets["reaction_energy"], abs=1e-6)
    h = 5e-4
    assert slope.item() == pytest.approx((difference(0.7 + h) - difference(0.7 - h)) / (2 * h), rel=1e-6)


def test_ground_states_on_disk_are_loaded_with_the_settings(case, tmp_path, monkeypatch):
    names = case.warm.save(tmp_path, None)
    monkeypatch.setattr(NNXCCalculator, "_solve", None)
    again = WarmCalculators(case.warm.calculator, 1.0)
    again.load(tmp_path, names, {case.record.name: case.record})
    assert again.predict(case.record).energies.tolist() == case.prediction.energies.tolist()


def test_training_on_an_ionization_potential_is_resumed(tmp_path):
    record, *_ = ionization()

    def run(folder, epochs):
        functional = PBE(kappa=0.7, trainable=("kappa",))
        optimizer = torch.optim.SGD(functional.parameters(), lr=0.05)
        calculator, settings = NNXCCalculator(functional, kpts=(2, 2, 2), **TINY), TrainerSettings(epochs=epochs)
        history = Trainer(
            calculator, [record], [ReactionEnergy()], optimizer=optimizer, settings=settings, folder=tmp_path / folder
        ).run()
        return functional.kappa.item(), [metrics["loss"] for metrics in history]

    kappa, losses = run("whole", 2)
    assert losses[1] < losses[0]
    run("parts", 1)
    assert run("parts", 2) == (kappa, losses)

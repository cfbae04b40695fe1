"""Records of molecules with all electrons: predictions by PySCF in training, beside solids in plane waves."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError

from ase_nnxc import NNXCCalculator, PySCFCalculator
from ase_nnxc.calculator import molecule as calculator_module
from ase_nnxc.train import all_electron as warm_module
from ase_nnxc.train.objectives import EnergyDifferences, ReactionEnergy
from ase_nnxc.train.records import (
    Record,
    all_electron,
    atomization_energy,
    ionization_potential,
    read_records,
    write_records,
)
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE

TINY = {"ecut": 100, "convergence": {"energy": 1e-12}}
TIGHT = {"grid_level": 0, "convergence": {"energy": 1e-11}}


def imidogen():
    return all_electron(atomization_energy("NH", molecule("NH"), 3.6), "3-21g", **TIGHT)


def helium():
    return all_electron(ionization_potential("He", Atoms("He"), 24.6, magmom=1), "6-31g", **TIGHT)


@pytest.fixture
def solver_calls(monkeypatch):
    """A list that gets the start of each SCF."""
    starts = []

    def count(atoms, functional, parameters, start=None):
        starts.append(start)
        return calculator_module.solve(atoms, functional, parameters, start)

    monkeypatch.setattr(warm_module, "solve", count)
    return starts


@pytest.mark.parametrize("make", [imidogen, helium])
def test_gradient_is_the_derivative_of_tight_scfs(make):
    record, functional = make(), PBE(kappa=0.7, trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    error = ReactionEnergy().errors(warm.predict(record), record)
    (slope,) = torch.autograd.grad(error, functional.kappa)

    def energy(kappa):
        pairs = zip(record.structures, record.settings)
        energies = [PySCFCalculator(PBE(kappa=kappa), **s).get_potential_energy(atoms) for atoms, s in pairs]
        return float(np.dot(record.coefficients, energies))

    h = 2e-3
    assert error.item() == pytest.approx(energy(0.7) - record.targets["reaction_energy"], abs=1e-7)
    assert slope.item() == pytest.approx((energy(0.7 + h) - energy(0.7 - h)) / (2 * h), rel=1e-5)


def test_scf_starts_from_the_density_before_and_is_not_repeated(solver_calls):
    record, functional = helium(), PBE(kappa=0.7, trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    first = warm.predict(record).energies.tolist()
    assert warm.predict(record).energies.tolist() == first
    assert solver_calls == [None, None]
    functional.kappa.data += 0.01
    warm.predict(record, fixed_density=True)
    assert len(solver_calls) == 2
    warm.predict(record)
    assert [start.ndim for start in solver_calls[2:]] == [2, 3]


def run(folder, epochs):
    """Train kappa on a solid and a molecule; return kappa and the losses."""
    functional = PBE(kappa=0.7, trainable=("kappa",))
    solid = Record("Al", (bulk("Al", a=4.0), bulk("Al", a=4.1)), {"energy": [-57.0, -57.01]})
    trainer = Trainer(
        NNXCCalculator(functional, ecut=80, kpts=(1, 1, 1)),
        [solid, helium()],
        [EnergyDifferences(), ReactionEnergy()],
        optimizer=torch.optim.SGD(functional.parameters(), lr=0.01),
        settings=TrainerSettings(epochs=epochs),
        folder=folder,
    )
    losses = [metrics["loss"] for metrics in trainer.run()]
    return functional.kappa.item(), losses


def test_training_with_a_solid_is_resumed_at_the_same_bits(tmp_path):
    kappa, losses = run(tmp_path / "whole", 2)
    assert losses[1] < losses[0]
    run(tmp_path / "parts", 1)
    assert run(tmp_path / "parts", 2) == (kappa, losses)


@pytest.mark.parametrize("name", ["set.json", "set.extxyz"])
def test_record_survives_a_file(tmp_path, name):
    write_records(tmp_path / name, [imidogen()])
    (again,) = read_records(tmp_path / name)
    assert (again.is_all_electron, again.settings) == (True, imidogen().settings)
    assert [atoms.get_initial_magnetic_moments().sum() for atoms in again.structures] == [2, 3, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"structures": (bulk("Al"),)}, "a periodic structure cannot be calculated with all electrons"),
        ({"targets": {"forces": [np.zeros((1, 3))]}}, "the targets are energy and reaction_energy, not forces"),
        ({"settings": None}, "the settings of each structure need a basis"),
        ({"settings": ({"charge": 1},)}, "the settings of each structure need a basis"),
        ({"settings": ({"basis": "sto-3g", "pseudo": "gth-pbe"},)}, "pseudo cannot be a setting of a structure"),
        ({"settings": ({"basis": "sto-3g", "kpts": [1, 1, 1]},)}, "unknown keyword 'kpts'"),
        ({"calculator": "pyscf"}, "calculator='pyscf': must be one of nnxc, nnxc-pyscf"),
    ],
)
def test_what_cannot_be_calculated_with_all_electrons_is_refused(changes, complaint):
    valid = {"structures": (Atoms("He"),), "targets": {"energy": [-78.0]}, "settings": ({"basis": "sto-3g"},)}
    with pytest.raises(InputError, match=complaint):
        Record("He", **{"calculator": "nnxc-pyscf", **valid, **changes})


def test_charge_of_all_structures_at_once_is_refused():
    with pytest.raises(InputError, match="charge: that of each structure"):
        all_electron(atomization_energy("H2", molecule("H2"), 4.5), "sto-3g", charge=1)

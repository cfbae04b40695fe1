"""Ground states that are kept: in memory, and on disk between runs."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import InputError

from ase_nnxc import NNXCCalculator
from ase_nnxc.train.records import Record, scaled_structures
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE

TINY = {"ecut": 150, "kpts": (2, 2, 2), "smooth_cutoff": True}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The file of a ground state, and its free energy."""
    calculator = NNXCCalculator("PBE", **TINY)
    state = calculator.ground_state(bulk("Al"))
    path = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(calculator.pack_state(), path)
    return path, state.free_energy


def load(path):
    return torch.load(path, weights_only=True)


def unsolvable(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("an SCF was run")

    monkeypatch.setattr(NNXCCalculator, "_solve", fail)


def test_unpacked_ground_state_needs_no_scf(packed, monkeypatch):
    unsolvable(monkeypatch)
    path, free_energy = packed
    calculator = NNXCCalculator("PBE", **TINY)
    calculator.unpack_state(bulk("Al"), load(path))
    assert calculator.ground_state(bulk("Al")).free_energy == free_energy
    assert np.isfinite(calculator.get_property("forces", bulk("Al"))).all()


def test_unpacked_ground_state_is_only_a_start_for_another_functional(packed):
    path, free_energy = packed
    calculator = NNXCCalculator("PBEsol", **TINY)
    calculator.unpack_state(bulk("Al"), load(path))
    assert calculator.ground_state(bulk("Al")).free_energy != free_energy
    fresh = NNXCCalculator("PBEsol", **TINY).ground_state(bulk("Al"))
    assert calculator.held_state.free_energy == pytest.approx(fresh.free_energy, abs=1e-8)


@pytest.mark.parametrize(
    ("atoms", "changes"),
    [(bulk("Cu"), {}), (bulk("Al"), {"kpts": (3, 3, 3)}), (bulk("Al"), {"ecut": 200}), (bulk("Al"), {"xc": "r2SCAN"})],
)
def test_ground_state_of_something_else_is_refused(packed, atoms, changes):
    calculator = NNXCCalculator(**({"xc": "PBE"} | TINY | changes))
    with pytest.raises(InputError, match="not one of these atoms"):
        calculator.unpack_state(atoms, load(packed[0]))
    assert calculator.held_state is None


def test_packed_state_without_fields_is_refused(packed):
    data = load(packed[0])
    del data["fields"]
    calculator = NNXCCalculator("PBE", **TINY)
    with pytest.raises(InputError, match="fields"):
        calculator.unpack_state(bulk("Al"), data)
    with pytest.raises(InputError, match="calculate something"):
        calculator.pack_state()


def test_oldest_ground_states_are_forgotten_beyond_the_memory():
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    structures = scaled_structures(bulk("Al"), 3)
    records = [Record(str(i), (atoms,), {"energy": [0.0]}) for i, atoms in enumerate(structures)]
    state = calculator.ground_state(structures[-1])
    size = sum(
        x.numel() * x.element_size()
        for x in (state.fields, state.residual, state.secants, *(psi for row in state.orbitals for psi in row))
    )
    warm = WarmCalculators(calculator, memory=2.5 * size / 2**30)
    for record in records:
        warm.predict(record)
    assert [warm._calculators[r.name][0].held_state is not None for r in records] == [False, True, True]


def test_prediction_equals_the_results_of_the_calculator():
    atoms, functional = bulk("Si"), PBE(trainable=("kappa",))
    atoms.positions[1, 0] += 0.1
    prediction = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0).predict(Record("Si", (atoms,), {}))
    atoms.calc = NNXCCalculator(functional, pseudos="oncv-PBE", **TINY)
    assert prediction.energies.item() == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)
    assert prediction.forces[0].detach().numpy() == pytest.approx(atoms.get_forces(), abs=1e-8)
    assert prediction.stress[0].detach().numpy() == pytest.approx(atoms.get_stress(), abs=1e-10)
    electrons = prediction.densities[0].mean().item() * atoms.get_volume()
    assert electrons == pytest.approx(8, abs=1e-10)

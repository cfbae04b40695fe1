"""Records, objectives and the trainer."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.calculators.calculator import InputError, SCFError
from ase.calculators.emt import EMT

from ase_nnxc import NNXCCalculator, load_functional
from ase_nnxc.cli import main
from ase_nnxc.fit import fit_birch_murnaghan
from ase_nnxc.train.config import read_config
from ase_nnxc.train.objectives import (
    OBJECTIVES,
    BulkModulus,
    EnergyDifferences,
    EnergyPerAtom,
    FunctionalAnchor,
    LatticeConstant,
    ParameterAnchor,
    ReactionEnergy,
    TotalEnergy,
)
from ase_nnxc.train.records import (
    Provenance,
    Record,
    digest,
    experimental_solid,
    label,
    read_records,
    scaled_structures,
    write_records,
)
from ase_nnxc.train.trainer import Settings, Trainer, TrainingError
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE


def eos_record(name="Al", a=4.05):
    return label(name, scaled_structures(bulk("Al", a=a)), EMT())


# ---- records


def all_sorts():
    moments = bulk("Ni", a=3.52)
    moments.set_initial_magnetic_moments([0.6])
    full = label("forces", [bulk("Al", cubic=True), bulk("Cu")], EMT(), ("energy", "forces", "stress"))
    reaction = label("reaction", [bulk("Cu"), bulk("Au")], EMT(), coefficients=(1, -1))
    measured = experimental_solid("measured", bulk("Al"), 4.05, 4.02, 79)
    return [eos_record(), full, reaction, label("Ni", [moments], EMT()), measured]


def test_json_keeps_every_record_to_the_last_bit(tmp_path):
    write_records(tmp_path / "set.json", all_sorts())
    assert digest(read_records(tmp_path / "set.json")) == digest(all_sorts())


@pytest.mark.parametrize("name", ["set.db", "set.extxyz", "set.traj"])
def test_files_of_ase_keep_the_records(tmp_path, name):
    write_records(tmp_path / name, all_sorts())
    for found, made in zip(read_records(tmp_path / name), all_sorts(), strict=True):
        assert (found.name, found.coefficients) == (made.name, made.coefficients)
        assert found.provenance == made.provenance
        assert found.targets.keys() == made.targets.keys()
        for key in made.targets:
            a, b = (np.vstack(x) if key == "forces" else x for x in (found.targets[key], made.targets[key]))
            assert a == pytest.approx(b, abs=1e-7)
        for a, b in zip(found.structures, made.structures):
            assert a.positions == pytest.approx(b.positions, abs=1e-7)
            assert (a.get_initial_magnetic_moments() == b.get_initial_magnetic_moments()).all()


def test_digest_sees_a_moved_atom_and_a_changed_target():
    record = eos_record()
    moved = replace(record, structures=scaled_structures(bulk("Al", a=4.0500001)))
    shifted = replace(record, targets={"energy": record.targets["energy"] + 1e-12})
    assert len({digest([r]) for r in (record, moved, shifted)}) == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"targets": {"energies": [1.0] * 5}}, "unknown target"),
        ({"targets": {"energy": [1.0] * 4}}, "one for each structure"),
        ({"targets": {"energy": [math.nan] * 5}}, "not finite"),
        ({"targets": {"reaction_energy": 1.0}}, "no coefficients"),
        ({"coefficients": (1.0,)}, "one coefficient for each"),
        ({"structures": ()}, "structure"),
    ],
)
def test_records_that_make_no_sense_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        replace(eos_record(), **changes)


def test_names_are_unique_and_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="two records"):
        write_records(tmp_path / "set.json", [eos_record(), eos_record()])
    (tmp_path / "other.json").write_text('{"format": "ase_nnxc-records", "version": 1, "records": [{}]}')
    with pytest.raises(InputError, match="holds no records"):
        read_records(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "missing.db")


def test_measured_lattice_constant_becomes_the_volume_of_the_cell():
    record = experimental_solid("Al", bulk("Al", a=4.05), 4.05, 4.02, 79.0)
    assert record.targets["volume"] == pytest.approx(4.02**3 / 4)
    assert record.targets["bulk_modulus"] / units.GPa == pytest.approx(79.0)
    assert record.volumes[2] == pytest.approx(4.02**3 / 4)
    assert record.provenance == Provenance("experiment", "none")


# ---- objectives


def energies(*values):
    return torch.tensor(values, dtype=torch.float64, device="cpu", requires_grad=True)


def test_relative_energy_loss_is_positive_for_bound_systems_as_eq_3_is_not():
    record = label("Al", [bulk("Al")], EMT())
    bound = replace(record, targets={"energy": [-50.0]})
    assert TotalEnergy()(energies(-49.0), bound).item() == pytest.approx(1 / 50)


def test_per_atom_and_reaction_errors():
    record = Record("Al", (bulk("Al"), bulk("Al", cubic=True)), {"energy": [-1.0, -4.0]})
    assert EnergyPerAtom().errors(energies(-1.1, -4.2), record).tolist() == pytest.approx([-0.1, -0.05])
    reaction = replace(record, targets={"reaction_energy": 0.5}, coefficients=(-4, 1))
    assert ReactionEnergy(weight=3.0)(energies(-1.0, -3.6), reaction).item() == pytest.approx(3 * 0.1**2)


def test_differences_do_not_see_a_constant():
    record = eos_record()
    shifted = torch.as_tensor(record.targets["energy"] + 7.0, device="cpu")
    assert EnergyDifferences()(shifted, record).item() == pytest.approx(0.0, abs=1e-20)
    assert EnergyPerAtom()(shifted, record).item() == pytest.approx(49.0)


def test_equation_of_state_errors_are_those_of_the_fit_and_carry_gradients():
    record = eos_record()
    fit = fit_birch_murnaghan(*(torch.as_tensor(x, device="cpu") for x in (record.volumes, record.targets["energy"])))
    targets = {"volume": 0.97 * fit.volume.item(), "bulk_modulus": 1.1 * fit.bulk_modulus.item()}
    measured, predicted = replace(record, targets=targets), energies(*record.targets["energy"])
    assert LatticeConstant().errors(predicted, measured).item() == pytest.approx(0.97 ** (-1 / 3) - 1)
    assert BulkModulus(norm="l1")(predicted, measured).item() == pytest.approx(1 - 1 / 1.1)
    for objective in (LatticeConstant(), BulkModulus()):
        assert objective(predicted, record).item() == 0.0
        assert torch.autograd.grad(objective(predicted, measured), predicted)[0].abs().min() > 0


def test_objectives_read_the_records_that_have_what_they_compare():
    measured, reaction = all_sorts()[4], all_sorts()[2]
    assert [o.applies(measured) for o in (TotalEnergy(), EnergyDifferences(), LatticeConstant(), BulkModulus())] == [
        False,
        False,
        True,
        True,
    ]
    assert ReactionEnergy().applies(reaction)
    assert not EnergyDifferences().applies(reaction)
    with pytest.raises(InputError, match="norm"):
        TotalEnergy(norm="l3")


def test_anchors_are_zero_at_the_parent_and_grow_away_from_it():
    functional = PBE(trainable=("kappa",))
    anchors = ParameterAnchor(functional, 2.0), FunctionalAnchor(PBE(), 1.0, points=64)
    assert [anchor(functional).item() for anchor in anchors] == pytest.approx([0.0, 0.0], abs=1e-25)
    with torch.no_grad():
        functional.kappa += 0.1
    assert anchors[0](functional).item() == pytest.approx(2 * 0.1**2)
    assert anchors[1](functional).item() > 1e-4


# ---- trainer

TINY = {"ecut": 150, "kpts": (2, 2, 2), "smooth_cutoff": True}


def pbe_record(name="Al", a=4.05, points=2):
    return label(name, scaled_structures(bulk("Al", a=a), points), NNXCCalculator("PBE", **TINY))


def trainer(records, objectives=None, kappa=0.7, learning_rate=0.02, calculator=TINY, **keywords):
    functional = PBE(kappa=kappa, trainable=("kappa",))
    optimizer = torch.optim.Adam(functional.parameters(), lr=learning_rate)
    objectives = objectives or [EnergyDifferences(weight=1e4)]
    return Trainer(NNXCCalculator(functional, **calculator), records, objectives, optimizer=optimizer, **keywords)


@pytest.fixture(scope="module")
def aluminium():
    return pbe_record()


def test_prediction_is_the_energy_that_the_calculator_tells():
    record = label("Al", [bulk("Al")], EMT())
    calculator = NNXCCalculator(PBE(kappa=0.7, trainable=("kappa",)), **TINY)
    (predicted,) = WarmCalculators(calculator, 1.0).energies(record)
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator(PBE(kappa=0.7), **TINY)
    assert predicted.item() == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)


def test_training_finds_the_kappa_behind_the_energies(aluminium):
    made = trainer([aluminium], settings=Settings(epochs=25), learning_rate=0.03)
    history = made.run()
    assert made.functional.kappa.item() == pytest.approx(0.804, rel=0.03)
    assert history[-1]["validation_errors"]["energy_differences"] < 0.1 * history[0]["errors"]["energy_differences"]


def test_best_parameters_of_the_validation_are_kept_not_the_last(aluminium):
    made = trainer([aluminium], kappa=0.8, learning_rate=0.1, settings=Settings(epochs=3))
    history = made.run()
    best = min(history, key=lambda m: m["validation_loss"])
    assert best["epoch"] < 3
    again = trainer([aluminium], settings=Settings(epochs=1), learning_rate=0.0, kappa=made.functional.kappa.item())
    assert again.run()[0]["loss"] == pytest.approx(best["validation_loss"], rel=1e-3)


def test_epochs_at_fixed_density_run_no_scf_after_the_first(aluminium, monkeypatch):
    solved = []
    solve = NNXCCalculator._solve
    monkeypatch.setattr(NNXCCalculator, "_solve", lambda self, atoms: solved.append(1) or solve(self, atoms))
    made = trainer([aluminium], settings=Settings(epochs=4, fixed_density_epochs=4))
    history = made.run()
    assert len(solved) == 2  # one for each volume
    assert history[-1]["loss"] < history[0]["loss"]


def test_forgotten_ground_states_change_nothing_but_time(aluminium):
    losses = [trainer([aluminium], settings=Settings(epochs=2, memory=m)).run()[-1]["loss"] for m in (1.0, 1e-6)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_any_optimizer_takes_the_loss_as_closure(aluminium):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    optimizer = torch.optim.LBFGS(functional.parameters(), lr=1.0, max_iter=6, line_search_fn="strong_wolfe")
    calculator = NNXCCalculator(functional, **TINY)
    made = Trainer(calculator, [aluminium], [EnergyDifferences(1e4)], optimizer=optimizer, settings=Settings(epochs=1))
    made.run()
    assert functional.kappa.item() == pytest.approx(0.804, rel=1e-2)


def test_gradient_is_clipped(aluminium):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    optimizer = torch.optim.SGD(functional.parameters(), lr=1.0)
    settings = Settings(epochs=1, clip=0.003)
    Trainer(
        NNXCCalculator(functional, **TINY),
        [aluminium],
        [EnergyDifferences(1e4)],
        optimizer=optimizer,
        settings=settings,
    )._take_step([aluminium])
    assert functional.kappa.item() == pytest.approx(0.703, abs=1e-9)


def test_callable_of_prediction_and_record_is_an_objective(aluminium):
    def at_the_ends(energies, record):
        difference = energies[-1] - energies[0] - (record.targets["energy"][-1] - record.targets["energy"][0])
        return difference.square()

    assert trainer([aluminium], [at_the_ends], settings=Settings(epochs=2)).run()[-1]["loss"] > 0


def test_early_stopping(aluminium):
    made = trainer([aluminium], kappa=0.804, learning_rate=0.1, settings=Settings(epochs=50, patience=2))
    assert len(made.run()) < 10


def test_broken_structure_is_told_and_left_out(aluminium):
    broken = bulk("Al", a=4.05)
    broken += broken
    broken.positions[1] += 0.01
    bad = Record("bad", (broken,) * 2, {"energy": [0.0, 0.0]})
    others = [replace(aluminium, name=f"Al-{i}") for i in range(2)]
    made = trainer([*others, bad], settings=Settings(epochs=1, tolerated_failures=0.4))
    with pytest.warns(UserWarning, match="'bad' is left out"):
        history = made.run()
    assert history[-1]["failed"] == ["bad"]
    assert made.failures.keys() == {"bad"}
    alone = trainer([aluminium], settings=Settings(epochs=1)).run()
    assert history[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-6)


def test_too_many_failures_stop_the_run(aluminium, monkeypatch):
    def fail(*_):
        raise SCFError("no luck")

    monkeypatch.setattr(NNXCCalculator, "_solve", fail)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(TrainingError, match=r"1 of 1 .*no luck"):
        trainer([aluminium]).run()


def test_absolute_energies_of_other_potentials_are_refused_before_anything_runs(aluminium):
    with pytest.raises(InputError, match="cannot be compared"):
        trainer([label("Al", [bulk("Al")], EMT())], [EnergyPerAtom()])
    trainer([aluminium], [EnergyPerAtom()])
    other = label("Al", [bulk("Al")], NNXCCalculator("LDA", pseudos="gth-pade", **TINY))
    with pytest.raises(InputError, match="pseudopotential of Al"):
        trainer([other], [TotalEnergy()])


def test_what_cannot_be_trained_is_refused(aluminium):
    with pytest.raises(InputError, match="Functional object"):
        Trainer(NNXCCalculator("PBE"), [aluminium], [EnergyDifferences()])
    with pytest.raises(InputError, match="no parameters"):
        Trainer(NNXCCalculator(PBE()), [aluminium], [EnergyDifferences()])
    with pytest.raises(InputError, match="no objective reads"):
        trainer([aluminium], [ReactionEnergy()])
    with pytest.raises(InputError, match="one name"):
        trainer([aluminium, pbe_record(a=4.0)])
    with pytest.raises(InputError, match="batch=0"):
        Settings(batch=0)


def test_saved_model_has_a_card_of_its_training(aluminium, tmp_path):
    made = trainer([aluminium], settings=Settings(epochs=2), folder=tmp_path / "run")
    made.run()
    functional = load_functional(made.save(tmp_path, name="mine", description="A test."))
    assert functional.kappa.item() == made.functional.kappa.item()
    assert functional.card["training"]["data_sha256"] == digest([aluminium])
    assert functional.card["metrics"]["epoch"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == made.history
    assert (tmp_path / "run" / "learning-curve.png").stat().st_size > 1000


# ---- resuming


class Killed(BaseException):
    pass


def small_run(folder, epochs=2):
    records = [pbe_record("a"), pbe_record("b", 4.1)]
    settings = Settings(epochs=epochs, batch=1)
    optimizer = torch.optim.Adam((functional := PBE(kappa=0.7, trainable=("kappa", "mu"))).parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    calculator = NNXCCalculator(functional, **TINY)
    keywords = {"optimizer": optimizer, "scheduler": scheduler, "settings": settings, "folder": folder}
    return Trainer(calculator, records, [EnergyDifferences(1e4)], **keywords)


def kill_at(monkeypatch, owner, name, count, before=True):
    """Let the count-th call of a function end the process, before or after it has done its work."""
    original, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and before:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == count:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, wrapper)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = small_run(tmp_path_factory.mktemp("whole"))
    made.run()
    return made


POINTS = {
    "step": (Trainer, "_take_step", 2),
    "write": (Trainer, "_write_resume", 2),
    "validation": (Trainer, "_end_epoch", 1),
    "metrics": (Trainer, "_write_metrics", 1),
    "mid-write": (torch, "save", 5),
}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("point", [pytest.param(p, marks=[] if p == "mid-write" else pytest.mark.slow) for p in POINTS])
def test_interrupted_run_ends_at_the_same_bits(whole, tmp_path, monkeypatch, point, before):
    with monkeypatch.context() as patch:
        kill_at(patch, *POINTS[point], before)
        with pytest.raises(Killed):
            small_run(tmp_path / "cut").run()
    resumed = small_run(tmp_path / "cut")
    resumed.run()
    for a, b in zip(whole.functional.parameters(), resumed.functional.parameters()):
        assert a.item() == b.item()
    pairs = zip(whole.history, resumed.history, strict=True)
    assert all({**a, "seconds": 0} == {**b, "seconds": 0} for a, b in pairs)
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 2


def test_folder_of_another_run_is_refused(tmp_path):
    small_run(tmp_path, epochs=1).run()
    with pytest.raises(InputError, match="other records"):
        trainer([pbe_record()], folder=tmp_path)


# ---- configurations and commands

CONFIG = """
name: again
functional: {architecture: pbe, config: {kappa: 0.7, trainable: [kappa]}}
calculator: {ecut: 150, kpts: [2, 2, 2], smooth_cutoff: true}
records: set.json
objectives: {energy_differences: 1e4}
anchors: {parameters: 1e-3, functional: {parent: PBE, weight: 1e-3}}
optimizer: {name: SGD, lr: 1e-3}
scheduler: {name: ExponentialLR, gamma: 0.9}
settings: {epochs: 1}
models: models
"""


def test_dataset_train_and_evaluate_from_the_command_line(tmp_path, capsys):
    (tmp_path / "calculator.yaml").write_text("{ecut: 150, kpts: [2, 2, 2], smooth_cutoff: true}")
    (tmp_path / "again.yaml").write_text(CONFIG)
    calculator = ["--calculator", str(tmp_path / "calculator.yaml"), "--json"]
    assert main(["dataset", str(tmp_path / "set.json"), "Al", "--points", "4", *calculator]) == 0
    assert main(["train", str(tmp_path / "again.yaml")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "models" / "again@1"), str(tmp_path / "set.json"), *calculator]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["record"] == "Al"
    assert 0 < row["errors"]["energy_differences"]["rms"] < 0.1
    assert row["errors"].keys() == OBJECTIVES.keys() - {"reaction_energy"}
    assert main(["train", str(tmp_path / "again.yaml")]) == 2  # this version is written
    assert "take the next" in capsys.readouterr().err


def test_dataset_of_another_calculator(tmp_path):
    assert main(["dataset", str(tmp_path / "set.db"), "Cu", "Au", "--ase", "emt", "--properties", "energy,forces"]) == 0
    records = read_records(tmp_path / "set.db")
    assert [(r.name, r.provenance.code, set(r.targets)) for r in records] == [
        ("Cu", "EMT", {"energy", "forces"}),
        ("Au", "EMT", {"energy", "forces"}),
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("settings: {epochs: 1}", "settings: {epoch: 1}", "settings.epoch; did you mean 'epochs'"),
        ("settings: {epochs: 1}", "settings: {epochs: 1.5}", "whole number"),
        ("name: again\n", "", "name must be given"),
        ("name: again", "name: [again]", "name is"),
        ("name: SGD", "name: SDG", "did you mean 'SGD'"),
        ("gamma: 0.9", "gama: 0.9", "scheduler: .*gama"),
        ("energy_differences:", "energy_difference:", "did you mean 'energy_differences'"),
        ("energy_differences: 1e4", "energy_differences: {norm: l3}", "norm one of"),
        ("ecut:", "encut:", "did you mean 'ecut'"),
        ("kappa: 0.7", "kapa: 0.7", "functional: .*kapa"),
        (", trainable: [kappa]", "", "no trainable parameters"),
        ("weight: 1e-3", "weigth: 1e-3", "parent and weight"),
        ("parent: PBE", "parent: PBF", "did you mean 'PBE'"),
        ("functional:", "functional: {a: [", "not YAML"),
        ("models: models", "models: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_mistakes_in_a_configuration_are_told_before_anything_runs(tmp_path, old, new, complaint):
    assert old in CONFIG
    (tmp_path / "run.yaml").write_text(CONFIG.replace(old, new, 1))
    write_records(tmp_path / "set.json", [eos_record()])
    with pytest.raises(InputError, match=complaint):
        read_config(tmp_path / "run.yaml")


def test_example_configuration_is_read(tmp_path):
    example = Path(__file__).parents[1] / "examples" / "train_pbesol.yaml"
    (tmp_path / "run.yaml").write_text(example.read_text())
    write_records(tmp_path / "pbesol.json", [eos_record()])
    run = read_config(tmp_path / "run.yaml")
    assert run.trainer.functional.kappa.item() == 1.0
    assert run.trainer.folder == tmp_path / "nnxc-train-pbesol-again"

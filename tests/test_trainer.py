"""The trainer: what it fits, what it leaves out, and that a run that was killed anywhere ends at the same bits.

As a script (`python test_trainer.py FOLDER POINT ...`) this file kills training runs, one at each of `POINTS`, resumes
them, and prints their results.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError, SCFError
from ase.calculators.emt import EMT
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

import ase_nnxc
from ase_nnxc import NNXCCalculator, load_functional
from ase_nnxc.ks.response import ResponseError
from ase_nnxc.pseudopotentials.oncv import generate
from ase_nnxc.pseudopotentials.oncv.inputs import load_inputs
from ase_nnxc.train.objectives import EnergyDifferences, EnergyPerAtom, LatticeConstant, ReactionEnergy, TotalEnergy
from ase_nnxc.train.penalties import Bounds, KernelSize, ParameterAnchor
from ase_nnxc.train.records import Record, all_electron, atomization_energy, digest, label, scaled_structures
from ase_nnxc.train.trainer import ObjectiveError, Trainer, TrainerSettings, TrainingError
from ase_nnxc.train.trainer.resume import RunFolder
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE, NeuralFactors

TINY = {"ecut": 150, "kpts": (2, 2, 2), "smooth_cutoff": True}
TIGHT = TINY | {"convergence": {"energy": 1e-11}}  # where two SCFs are to give one number


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


def test_prediction_is_the_energy_of_the_calculator():
    record = label("Al", [bulk("Al")], EMT())
    calculator = NNXCCalculator(PBE(kappa=0.7, trainable=("kappa",)), **TIGHT)
    (predicted,) = WarmCalculators(calculator, 1.0).predict(record).energies
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator(PBE(kappa=0.7), pseudos="oncv-PBE", **TIGHT)
    assert predicted.item() == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)


def test_training_finds_the_kappa_behind_the_energies(aluminium):
    run = trainer([aluminium], settings=TrainerSettings(epochs=30), learning_rate=0.03)
    history = run.run()
    assert run.functional.kappa.item() == pytest.approx(0.804, rel=0.03)
    assert history[-1]["validation_errors"]["energy_differences"] < 0.1 * history[0]["errors"]["energy_differences"]


def test_best_parameters_of_the_validation_are_kept_not_the_last(aluminium):
    run = trainer([aluminium], kappa=0.8, learning_rate=0.1, settings=TrainerSettings(epochs=3))
    history = run.run()
    best = min(history, key=lambda m: m["validation_loss"])
    assert best["epoch"] < 3
    again = trainer(
        [aluminium], settings=TrainerSettings(epochs=1), learning_rate=0.0, kappa=run.functional.kappa.item()
    )
    assert again.run()[0]["loss"] == pytest.approx(best["validation_loss"], rel=1e-3)


def test_epochs_at_fixed_density_run_no_scf_after_the_first(aluminium, monkeypatch):
    solved = []
    solve = NNXCCalculator._solve
    monkeypatch.setattr(NNXCCalculator, "_solve", lambda self, *args: solved.append(1) or solve(self, *args))
    run = trainer([aluminium], settings=TrainerSettings(epochs=4, fixed_density_epochs=4))
    history = run.run()
    assert len(solved) == 2  # one for each volume
    assert history[-1]["loss"] < history[0]["loss"]


def test_forgotten_ground_states_change_nothing_but_time(aluminium):
    settings = [TrainerSettings(epochs=2, memory=memory) for memory in (1.0, 1e-6)]
    losses = [trainer([aluminium], calculator=TIGHT, settings=s).run()[-1]["loss"] for s in settings]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_any_optimizer_takes_the_loss_as_closure(aluminium):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    optimizer = torch.optim.LBFGS(functional.parameters(), lr=1.0, max_iter=6, line_search_fn="strong_wolfe")
    calculator = NNXCCalculator(functional, **TINY)
    run = Trainer(
        calculator, [aluminium], [EnergyDifferences(1e4)], optimizer=optimizer, settings=TrainerSettings(epochs=1)
    )
    run.run()
    assert functional.kappa.item() == pytest.approx(0.804, rel=1e-2)


def test_gradient_is_clipped(aluminium):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    optimizer = torch.optim.SGD(functional.parameters(), lr=1.0)
    settings = TrainerSettings(epochs=1, clip=0.003)
    Trainer(
        NNXCCalculator(functional, **TINY),
        [aluminium],
        [EnergyDifferences(1e4)],
        optimizer=optimizer,
        settings=settings,
    )._take_step([aluminium])
    assert functional.kappa.item() == pytest.approx(0.703, abs=1e-9)


def test_callable_of_prediction_and_record_is_an_objective(aluminium):
    def at_the_ends(prediction, record):
        energies = prediction.energies
        difference = energies[-1] - energies[0] - (record.targets["energy"][-1] - record.targets["energy"][0])
        return difference.square()

    assert trainer([aluminium], [at_the_ends], settings=TrainerSettings(epochs=2)).run()[-1]["loss"] > 0


def test_objectives_of_one_class_have_errors_of_their_own(aluminium):
    run = trainer(
        [aluminium],
        [EnergyDifferences(1e4), EnergyDifferences(1.0, "l1"), EnergyPerAtom()],
        settings=TrainerSettings(epochs=1),
    )
    assert run.run()[0]["errors"].keys() == {"energy_differences", "energy_differences-2", "energy_per_atom"}


def test_early_stopping(aluminium):
    run = trainer([aluminium], kappa=0.804, learning_rate=0.1, settings=TrainerSettings(epochs=50, patience=2))
    assert len(run.run()) < 10


def broken_record():
    atoms = bulk("Al", a=4.05) * (1, 1, 2)
    atoms.positions[1] = atoms.positions[0] + 0.01
    return Record("bad", (atoms,) * 2, {"energy": [0.0, 0.0]})


def test_broken_structure_among_ten_is_reported_and_left_out(aluminium):
    others = [replace(aluminium, name=f"Al-{i}") for i in range(9)]
    run = trainer([*others, broken_record()], settings=TrainerSettings(epochs=1))
    with pytest.warns(UserWarning, match="'bad' is left out: .* on top of each other"):
        history = run.run()
    assert history[-1]["failed"] == ["bad"]
    assert run.failures.keys() == {"bad"}
    alone = trainer([aluminium], settings=TrainerSettings(epochs=1)).run()
    assert history[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-6)


class NoResponse(torch.autograd.Function):
    """The loss itself, which cannot be differentiated."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, slope):
        raise ResponseError("no response")


def test_record_that_fails_in_backward_leaves_nothing_of_its_gradient(aluminium):
    def objective(prediction, record):
        difference = (prediction.energies[1] - prediction.energies[0]).square()
        return difference + (NoResponse.apply(difference) if record.name == "bad" else 0.0)

    run = trainer([aluminium, replace(aluminium, name="bad")], [objective])
    with pytest.warns(UserWarning, match="'bad' is left out: no response"):
        run._backward(run.training)
    alone = trainer([aluminium], [objective])
    alone._backward(alone.training)
    assert run.functional.kappa.grad.item() == alone.functional.kappa.grad.item()
    with pytest.raises(TrainingError, match="no response"):
        run.run()


def test_curve_without_a_minimum_leaves_its_record_out():
    structures = scaled_structures(bulk("Al", a=3.0), 4)
    record = Record("compressed", structures, {"volume": structures[0].get_volume()})
    with pytest.warns(UserWarning, match="'compressed' is left out: .* no minimum"), pytest.raises(TrainingError):
        trainer([record], [LatticeConstant()], calculator=TINY | {"kpts": (1, 1, 1)}).run()


def test_run_whose_validation_never_succeeds_ends_with_an_error(aluminium):
    structures = scaled_structures(bulk("Al", a=3.0), 4)
    compressed = Record("compressed", structures, {"volume": structures[0].get_volume()})
    run = trainer(
        [aluminium],
        [EnergyDifferences(), LatticeConstant()],
        calculator=TINY | {"kpts": (1, 1, 1)},
        validation=[compressed],
        settings=TrainerSettings(epochs=1),
    )
    with (
        pytest.warns(UserWarning, match="'compressed' is left out"),
        pytest.raises(TrainingError, match="no record of the validation could be calculated in any epoch: compressed"),
    ):
        run.run()


def wrong_type(prediction, record):
    return prediction.energies + "1"


def wrong_attribute(prediction, record):
    return prediction.energy


def wrong_value(prediction, record):
    raise ValueError("a mistake")


def wrong_input(prediction, record):
    raise InputError("a mistake")


def wrong_shape(prediction, record):
    return prediction.energies


def without_gradient(prediction, record):
    return prediction.energies.sum().detach()


def no_tensor(prediction, record):
    return 1.0


@pytest.mark.parametrize(
    ("objective", "error"),
    [
        (wrong_type, "TypeError"),
        (wrong_attribute, "AttributeError"),
        (wrong_value, "ValueError"),
        (wrong_input, "InputError"),
        (wrong_shape, r"TypeError .*must be a tensor of shape \(\), got \(2,\)"),
        (no_tensor, r"TypeError .*must be a tensor of shape \(\), got 1.0"),
    ],
)
def test_bug_in_an_objective_ends_the_run_with_objective_and_record(aluminium, objective, error):
    with pytest.raises(ObjectiveError, match=rf"objective '{objective.__name__}' raised {error}") as raised:
        trainer([aluminium], [objective]).run()
    assert "record 'Al'" in str(raised.value)


def test_loss_without_a_gradient_ends_the_run(aluminium):
    with pytest.raises(ObjectiveError, match="loss of record 'Al' has no gradient"):
        trainer([aluminium], [without_gradient]).run()


class WrongErrors(EnergyDifferences):
    """An objective whose errors, but not its loss, divide by zero."""

    def errors(self, prediction, record):
        return torch.tensor(1 // 0)

    def __call__(self, prediction, record):
        return prediction.energies.sum()


def test_bug_in_the_errors_of_an_objective_ends_the_run(aluminium):
    with pytest.raises(ObjectiveError, match="objective 'WrongErrors' raised ZeroDivisionError on record 'Al'"):
        trainer([aluminium], [WrongErrors()]).run()


def test_bug_in_a_functional_ends_the_run(aluminium, monkeypatch):
    forward = PBE.forward

    def broken(self, features):
        if features["density"].shape[-1] > 3:  # not in the check of a new calculator
            raise TypeError("a mistake in the functional")
        return forward(self, features)

    run = trainer([aluminium])
    monkeypatch.setattr(PBE, "forward", broken)
    with pytest.raises(TypeError, match="a mistake in the functional"):
        run.run()


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
    calculator = NNXCCalculator(PBE(trainable=("kappa",)))
    another = torch.optim.Adam(PBE(trainable=("kappa",)).parameters())
    with pytest.raises(InputError, match="optimizer has no trainable parameter"):
        Trainer(calculator, [aluminium], [EnergyDifferences()], optimizer=another)
    with pytest.raises(InputError, match="no objective reads"):
        trainer([aluminium], [ReactionEnergy()])
    with pytest.raises(InputError, match="same name"):
        trainer([aluminium, pbe_record(a=4.0)])
    with pytest.raises(InputError, match="share_kpoints"):
        trainer([aluminium], calculator=TINY | {"share_kpoints": True})


@pytest.mark.parametrize(
    "setting",
    [
        {"batch": 0},
        {"tolerated_failures": 1.5},
        {"memory": -1.0},
        {"memory": math.nan},
        {"clip": 0.0},
        {"clip": math.inf},
        {"epochs": True},
        {"epochs": 1.5},
        {"seed": 2**64},
        {"seed": 0.5},
    ],
)
def test_setting_out_of_its_range_is_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(InputError, match=f"{name}={value}: must"):
        TrainerSettings(**setting)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, True, "large"])
@pytest.mark.parametrize("loss", [EnergyDifferences, partial(ParameterAnchor, PBE()), KernelSize, Bounds])
def test_weight_that_is_not_a_number_from_0_is_refused(loss, weight):
    with pytest.raises(InputError, match=r"weight=.*: must be a number, at least 0"):
        loss(weight=weight)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -1.0, 1e9])
def test_learning_rate_that_is_not_a_reasonable_number_is_refused(aluminium, rate):
    run = trainer([aluminium])
    run.optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(InputError, match="optimizer: lr="):
        Trainer(run.calculator, [aluminium], [EnergyDifferences()], optimizer=run.optimizer)


@pytest.mark.parametrize("folder", ["file", "file/run", "/proc/run"])
def test_folder_that_cannot_be_written_is_refused_before_the_training(tmp_path, aluminium, folder):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"folder='.*': .*is not a folder|folder='/proc/run' cannot be written"):
        trainer([aluminium], folder=tmp_path / folder)


def test_scheduler_of_another_optimizer_and_optimizer_of_sparse_gradients_are_refused(aluminium):
    functional = PBE(trainable=("kappa",))
    calculator = NNXCCalculator(functional, **TINY)
    optimizer, other, sparse = (
        cls(functional.parameters(), lr=0.1) for cls in (torch.optim.Adam, torch.optim.SGD, torch.optim.SparseAdam)
    )
    scheduler = ExponentialLR(other, 0.9)
    with pytest.raises(InputError, match="its optimizer is not the optimizer of the trainer"):
        Trainer(calculator, [aluminium], [EnergyDifferences()], optimizer=optimizer, scheduler=scheduler)
    with pytest.raises(InputError, match="SparseAdam needs sparse gradients"):
        Trainer(calculator, [aluminium], [EnergyDifferences()], optimizer=sparse)


def test_saved_model_has_a_card_of_its_training(aluminium, tmp_path):
    run = trainer([aluminium], settings=TrainerSettings(epochs=2), folder=tmp_path / "run")
    run.run()
    functional = load_functional(run.save(tmp_path, name="mine", description="A test."))
    assert functional.kappa.item() == run.functional.kappa.item()
    assert functional.card["training"]["data_sha256"] == digest([aluminium])
    assert functional.card["training"]["objectives"]["energy_differences"]["weight"] == 1e4
    assert functional.card["training"]["optimizer"]["groups"][0]["lr"] == 0.02
    assert functional.card["metrics"]["epoch"] == 2
    assert functional.card["pseudos"] == "oncv-PBE"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history
    assert (tmp_path / "run" / "learning-curve.png").stat().st_size > 1000


# ---- resuming


def noise(functional):
    """A penalty with random numbers."""
    return 1e-3 * torch.rand((), dtype=torch.float64, device="cpu") * functional.mu.square()


def small_run(folder, *, weight=1e-3, norm="l2", anchor=1e-3, learning_rate=0.01, gamma=0.9, **arguments):
    """Two records of one structure, a step for each, two epochs; other arguments replace those of the trainer."""
    functional = PBE(kappa=0.7, trainable=("kappa", "mu"))
    optimizer = torch.optim.Adam(functional.parameters(), lr=learning_rate)
    scheduler = arguments.pop("scheduler", torch.optim.lr_scheduler.ExponentialLR)
    defaults = {"objectives": [ReactionEnergy(weight, norm)], "penalties": [noise, ParameterAnchor(functional, anchor)]}
    return Trainer(
        NNXCCalculator(functional, **TINY | {"kpts": (1, 1, 1)}),
        [label(name, [bulk("Al", a=a)], EMT(), coefficients=[1]) for name, a in (("a", 4.05), ("b", 4.1))],
        **defaults | arguments,
        optimizer=optimizer,
        scheduler=scheduler(optimizer, gamma),
        settings=TrainerSettings(epochs=2, batch=1),
        folder=folder,
    )


def squared_energy(prediction, record):
    return prediction.energies.square().sum()


def slower(epoch):
    return 0.9**epoch


def much_slower(epoch):
    return 0.1**epoch


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killing(owner: object, name: str, count: int, work: Callable[..., object]) -> None:
    """Replace the count-th call of a function by `work`, and end the process after it."""
    original, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) < count:
            return original(*args, **kwargs)
        work(original, *args, **kwargs)
        return kill()

    setattr(owner, name, wrapper)


def before(original, *args, **kwargs):
    pass


def after(original, *args, **kwargs):
    original(*args, **kwargs)


def half(save, data, path):
    """Write the first half of a file, as if the process ended in the middle of it."""
    save(data, path)
    os.truncate(path, Path(path).stat().st_size // 2)


POINTS = {
    "before the first step": (Trainer, "_take_step", 1, before),
    "before a step": (Trainer, "_take_step", 2, before),
    "between backward and the optimizer's step": (Trainer, "_backward", 2, after),
    "after the optimizer's step": (Trainer, "_take_step", 2, after),
    "within the file of a ground state": (torch, "save", 3, half),
    "within the file of the trainer": (torch, "save", 4, half),
    "before renaming": (Path, "rename", 2, before),
    "between renaming and cleanup": (Path, "rename", 2, after),
    "before validation": (Trainer, "_end_epoch", 1, before),
    "between metrics and resume": (RunFolder, "write_metrics", 1, after),
    "at the end": (Trainer, "_write_state", 6, after),
}


def result(run, folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    history = [{**json.loads(line), "seconds": 0} for line in lines]
    return [p.item().hex() for p in run.functional.parameters()], history


def kill_and_resume(folder, points):
    """Return the results of a complete run, and of some that are killed and resumed, by name; with one thread."""
    torch.set_num_threads(1)
    run = small_run(folder / "whole")
    run.run()
    results = {"whole": result(run, folder / "whole")}
    for point in points:
        child = os.fork()
        if child == 0:
            killing(*POINTS[point])
            small_run(folder / point).run()
            os._exit(1)  # not reached if it was killed
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
        resumed = small_run(folder / point)
        resumed.run()
        results[point] = result(resumed, folder / point)
    return results


QUICK = "within the file of the trainer", "between metrics and resume"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed in a fork")
@pytest.mark.parametrize("points", [QUICK, pytest.param([*POINTS], marks=pytest.mark.slow)], ids=["two", "all"])
def test_killed_run_ends_at_the_same_bits(tmp_path, points):
    package = Path(ase_nnxc.__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
    command = [sys.executable, __file__, str(tmp_path), *points]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    whole = results.pop("whole")
    assert len(whole[1]) == 2
    assert results == dict.fromkeys(points, whole)


def test_generator_of_the_user_is_left_alone():
    state = torch.get_rng_state()
    run = small_run(None)
    run._take_step(run.training[:1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weight": 1.0}, r"different objectives \(reaction_energy.weight is 0.001, here 1.0\)"),
        ({"norm": "l1"}, r"different objectives \(reaction_energy.norm is 'l2', here 'l1'\)"),
        ({"anchor": 1.0}, r"different penalties \(1.weight is 0.001, here 1.0\)"),
        ({"learning_rate": 0.1}, r"different optimizer \(groups.0.lr is 0.01, here 0.1\)"),
        ({"gamma": 0.5}, r"different scheduler \(state.gamma is 0.9, here 0.5\)"),
        (
            {"scheduler": LambdaLR, "gamma": slower},
            "class is 'ExponentialLR', here 'LambdaLR'",
        ),
        ({"objectives": [squared_energy]}, r"different objectives \(reaction_energy"),
        ({"penalties": [noise]}, "different penalties"),
    ],
)
def test_run_with_other_arguments_is_not_resumed(interrupted, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        small_run(interrupted, **changes)


def test_run_with_other_pseudopotentials_is_not_resumed(interrupted, monkeypatch):
    inputs = load_inputs("Al")
    changed = replace(inputs, model_core=replace(inputs.model_core, scale=1.0))
    monkeypatch.setattr(generate, "load_inputs", lambda symbol, with_tau: changed)
    with pytest.raises(InputError, match="different pseudopotentials"):
        small_run(interrupted)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    small_run(folder)._write_state()
    assert small_run(folder).history == []  # the same arguments are accepted
    return folder


def test_folder_of_other_records_is_refused(interrupted, aluminium):
    with pytest.raises(InputError, match=r"different records.* Use another folder"):
        trainer([aluminium], folder=interrupted)


def local_function():
    def objective(prediction, record):
        return prediction.energies.sum()

    return objective


class Scaled:
    """An objective of a user that states its settings."""

    def __init__(self, factor):
        self.factor = factor

    def config(self):
        return {"name": "scaled", "factor": self.factor}

    def __call__(self, prediction, record):
        return self.factor * prediction.energies.sum()


class Silent:
    """An objective of a user that does not state its settings."""

    def __call__(self, prediction, record):
        return prediction.energies.sum()


class Nameless(Silent):
    def config(self):
        return {"weight": 1.0}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"objectives": [lambda prediction, record: prediction.energies.sum()]}, "objective <lambda>.*Give it a name"),
        ({"objectives": [local_function()]}, r"objective local_function.<locals>.objective .*a name and a config\(\)"),
        ({"objectives": [partial(local_function(), record=None)]}, "objective local_function"),
        ({"objectives": [Silent()]}, "objective Silent cannot be compared"),
        ({"objectives": [Nameless()]}, r"config\(\) must return a dict with a name"),
        ({"norm": lambda errors: errors.square().sum()}, "norm of objective 'reaction_energy': <lambda>"),
        ({"penalties": [lambda functional: functional.mu.square()]}, "penalty <lambda>"),
        ({"scheduler": LambdaLR, "gamma": lambda epoch: 0.9**epoch}, "function of the scheduler: <lambda>"),
    ],
)
def test_function_that_a_resumed_run_cannot_compare_is_refused_with_a_folder(tmp_path, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        small_run(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
    small_run(None, **arguments)


def test_objective_of_a_user_is_compared_by_its_config(tmp_path):
    small_run(tmp_path, objectives=[Scaled(2.0)])._write_state()
    small_run(tmp_path, objectives=[Scaled(2.0)])
    with pytest.raises(InputError, match=r"different objectives \(scaled.factor is 2.0, here 3.0\)"):
        small_run(tmp_path, objectives=[Scaled(3.0)])


def test_functions_of_a_scheduler_are_compared_by_their_names(tmp_path):
    small_run(tmp_path, scheduler=LambdaLR, gamma=slower)._write_state()
    small_run(tmp_path, scheduler=LambdaLR, gamma=slower)
    with pytest.raises(InputError, match=r"different scheduler \(functions.0 is '.*slower', here '.*much_slower'\)"):
        small_run(tmp_path, scheduler=LambdaLR, gamma=much_slower)


def test_a_training_forgets_the_probable_errors_of_the_weights_before():
    functional = NeuralFactors(widths=(2,), scatter={"lattice_constant": 0.01})
    functional.posterior.fill_diagonal_(0.1)
    record = all_electron(atomization_energy("H2", molecule("H2"), 4.5), "sto-3g")
    Trainer(NNXCCalculator(functional, **TINY), [record], [ReactionEnergy()])
    assert not functional.posterior.any()
    assert functional.scatter == {}


if __name__ == "__main__":
    print(json.dumps(kill_and_resume(Path(sys.argv[1]), sys.argv[2:])))

"""The trainer: what it learns, what it leaves out, and that a run which was killed anywhere ends at the same bits.

As a script (`python test_trainer.py FOLDER POINT ...`) this file kills training runs, one at each of `POINTS`, resumes
them, and prints what they end with.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import InputError, SCFError
from ase.calculators.emt import EMT

import ase_nnxc
from ase_nnxc import NNXCCalculator, load_functional
from ase_nnxc.ks.response import ResponseError
from ase_nnxc.train.objectives import EnergyDifferences, EnergyPerAtom, ReactionEnergy, TotalEnergy
from ase_nnxc.train.penalties import ParameterAnchor
from ase_nnxc.train.records import Record, digest, label, scaled_structures
from ase_nnxc.train.trainer import Trainer, TrainerSettings, TrainingError
from ase_nnxc.train.warm import WarmCalculators
from ase_nnxc.xc import PBE

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


def test_prediction_is_the_energy_that_the_calculator_tells():
    record = label("Al", [bulk("Al")], EMT())
    calculator = NNXCCalculator(PBE(kappa=0.7, trainable=("kappa",)), **TIGHT)
    (predicted,) = WarmCalculators(calculator, 1.0).predict(record).energies
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator(PBE(kappa=0.7), **TIGHT)
    assert predicted.item() == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)


def test_training_finds_the_kappa_behind_the_energies(aluminium):
    made = trainer([aluminium], settings=TrainerSettings(epochs=25), learning_rate=0.03)
    history = made.run()
    assert made.functional.kappa.item() == pytest.approx(0.804, rel=0.03)
    assert history[-1]["validation_errors"]["energy_differences"] < 0.1 * history[0]["errors"]["energy_differences"]


def test_best_parameters_of_the_validation_are_kept_not_the_last(aluminium):
    made = trainer([aluminium], kappa=0.8, learning_rate=0.1, settings=TrainerSettings(epochs=3))
    history = made.run()
    best = min(history, key=lambda m: m["validation_loss"])
    assert best["epoch"] < 3
    again = trainer(
        [aluminium], settings=TrainerSettings(epochs=1), learning_rate=0.0, kappa=made.functional.kappa.item()
    )
    assert again.run()[0]["loss"] == pytest.approx(best["validation_loss"], rel=1e-3)


def test_epochs_at_fixed_density_run_no_scf_after_the_first(aluminium, monkeypatch):
    solved = []
    solve = NNXCCalculator._solve
    monkeypatch.setattr(NNXCCalculator, "_solve", lambda self, *args: solved.append(1) or solve(self, *args))
    made = trainer([aluminium], settings=TrainerSettings(epochs=4, fixed_density_epochs=4))
    history = made.run()
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
    made = Trainer(
        calculator, [aluminium], [EnergyDifferences(1e4)], optimizer=optimizer, settings=TrainerSettings(epochs=1)
    )
    made.run()
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
    made = trainer(
        [aluminium],
        [EnergyDifferences(1e4), EnergyDifferences(1.0, "l1"), EnergyPerAtom()],
        settings=TrainerSettings(epochs=1),
    )
    assert made.run()[0]["errors"].keys() == {"energy_differences", "energy_differences-2", "energy_per_atom"}


def test_early_stopping(aluminium):
    made = trainer([aluminium], kappa=0.804, learning_rate=0.1, settings=TrainerSettings(epochs=50, patience=2))
    assert len(made.run()) < 10


def broken_record():
    atoms = bulk("Al", a=4.05) * (1, 1, 2)
    atoms.positions[1] = atoms.positions[0] + 0.01
    return Record("bad", (atoms,) * 2, {"energy": [0.0, 0.0]})


def test_broken_structure_among_ten_is_told_and_left_out(aluminium):
    others = [replace(aluminium, name=f"Al-{i}") for i in range(9)]
    made = trainer([*others, broken_record()], settings=TrainerSettings(epochs=1))
    with pytest.warns(UserWarning, match="'bad' is left out: .* on top of each other"):
        history = made.run()
    assert history[-1]["failed"] == ["bad"]
    assert made.failures.keys() == {"bad"}
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

    made = trainer([aluminium, replace(aluminium, name="bad")], [objective])
    with pytest.warns(UserWarning, match="'bad' is left out: no response"):
        made._backward(made.training, fixed_density=False)
    alone = trainer([aluminium], [objective])
    alone._backward(alone.training, fixed_density=False)
    assert made.functional.kappa.grad.item() == alone.functional.kappa.grad.item()
    with pytest.raises(TrainingError, match="no response"):
        made.run()


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
    with pytest.raises(InputError, match="optimizer holds no parameter"):
        Trainer(calculator, [aluminium], [EnergyDifferences()], optimizer=another)
    with pytest.raises(InputError, match="no objective reads"):
        trainer([aluminium], [ReactionEnergy()])
    with pytest.raises(InputError, match="one name"):
        trainer([aluminium, pbe_record(a=4.0)])
    with pytest.raises(InputError, match="batch=0"):
        TrainerSettings(batch=0)


def test_saved_model_has_a_card_of_its_training(aluminium, tmp_path):
    made = trainer([aluminium], settings=TrainerSettings(epochs=2), folder=tmp_path / "run")
    made.run()
    functional = load_functional(made.save(tmp_path, name="mine", description="A test."))
    assert functional.kappa.item() == made.functional.kappa.item()
    assert functional.card["training"]["data_sha256"] == digest([aluminium])
    assert functional.card["training"]["objectives"]["energy_differences"]["weight"] == 1e4
    assert functional.card["training"]["optimizer"]["groups"][0]["lr"] == 0.02
    assert functional.card["metrics"]["epoch"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == made.history
    assert (tmp_path / "run" / "learning-curve.png").stat().st_size > 1000


# ---- resuming


def small_run(folder, *, weight=1e-3, norm="l2", anchor=1e-3, learning_rate=0.01, gamma=0.9):
    """Two records of one structure, a step for each, two epochs; a penalty with random numbers."""
    functional = PBE(kappa=0.7, trainable=("kappa", "mu"))
    optimizer = torch.optim.Adam(functional.parameters(), lr=learning_rate)

    def noise(functional):
        return 1e-3 * torch.rand((), dtype=torch.float64, device="cpu") * functional.mu.square()

    return Trainer(
        NNXCCalculator(functional, **TINY | {"kpts": (1, 1, 1)}),
        [label(name, [bulk("Al", a=a)], EMT(), coefficients=[1]) for name, a in (("a", 4.05), ("b", 4.1))],
        [ReactionEnergy(weight, norm)],
        penalties=[noise, ParameterAnchor(functional, anchor)],
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma),
        settings=TrainerSettings(epochs=2, batch=1),
        folder=folder,
    )


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killing(owner: object, name: str, count: int, work: Callable[..., object]) -> None:
    """Let the count-th call of a function do `work` in its place, and end the process."""
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
    """What is left of a file when the process ends in the middle of it."""
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
    "between metrics and resume": (Trainer, "_write_metrics", 1, after),
    "at the end": (Trainer, "_write_resume", 6, after),
}


def result(made, folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    history = [{**json.loads(line), "seconds": 0} for line in lines]
    return [p.item().hex() for p in made.functional.parameters()], history


def kill_and_resume(folder, points):
    """Results of a run that nobody kills, and of some that are killed, by name; with torch's threads set to one."""
    torch.set_num_threads(1)
    made = small_run(folder / "whole")
    made.run()
    results = {"whole": result(made, folder / "whole")}
    for point in points:
        child = os.fork()
        if child == 0:
            killing(*POINTS[point])
            small_run(folder / point).run()
            os._exit(1)  # it should be dead
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
    made = small_run(None)
    made._take_step(made.training[:1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weight": 1.0}, "other objectives"),
        ({"norm": "l1"}, "other objectives"),
        ({"anchor": 1.0}, "other penalties"),
        ({"learning_rate": 0.1}, "other optimizer"),
        ({"gamma": 0.5}, "other scheduler"),
    ],
)
def test_run_with_other_arguments_is_not_resumed(interrupted, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        small_run(interrupted, **changes)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    small_run(folder)._write_resume()
    small_run(folder)  # it is resumed
    return folder


def test_folder_of_other_records_is_refused(interrupted, aluminium):
    with pytest.raises(InputError, match="other records"):
        trainer([aluminium], folder=interrupted)


if __name__ == "__main__":
    print(json.dumps(kill_and_resume(Path(sys.argv[1]), sys.argv[2:])))

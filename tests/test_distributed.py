"""Training with several processes: the same result as with one, and the same end if one of them fails.

As a script (`python test_distributed.py FOLDER`) this file is a run of two ranks; each writes its results to FOLDER.
"""

import json
import warnings
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from processes import in_another_process, results_of_ranks, run_ranks

from ase_nnxc import NNXCCalculator, load_functional
from ase_nnxc.cli import main
from ase_nnxc.train.objectives import EnergyDifferences
from ase_nnxc.train.penalties import ParameterAnchor
from ase_nnxc.train.records import Record, label, scaled_structures, write_records
from ase_nnxc.train.shares import shares
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import PBE

KEYWORDS = {"ecut": 150, "kpts": (1, 1, 1), "smooth_cutoff": True}

pytestmark = pytest.mark.usefixtures("one_thread")


def records():
    good = [label(f"Al-{a}", scaled_structures(bulk("Al", a=a), 2), EMT()) for a in (4.0, 4.05, 4.1)]
    on_top = Atoms("Al2", [(0, 0, 0), (0, 0, 0.1)], cell=[2.037, 2.037, 2.037], pbc=True)  # rank 1, by its volume
    return [*good, Record("bad", (on_top,) * 2, {"energy": [0.0, 0.0]})]


def trainer(folder=None, epochs=2, objective=None):
    functional = PBE(kappa=0.7, trainable=("kappa", "mu"))
    return Trainer(
        NNXCCalculator(functional, **KEYWORDS),
        records(),
        [objective or EnergyDifferences(1e3)],
        penalties=[ParameterAnchor(functional, 1.0)],
        optimizer=torch.optim.Adam(functional.parameters(), lr=0.01),
        settings=TrainerSettings(epochs=epochs),
        folder=folder,
    )


def parameters(run):
    return [p.item() for p in run.functional.parameters()]


def first_gradient():
    run = trainer()
    run._backward(run.training)
    return [p.grad.item() for p in run.functional.parameters()]


def messages(work):
    """Return the result of `work`, and its warnings of records that fail."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = work()
    return answer, [str(w.message) for w in caught if "left out" in str(w.message)]


def wrong_on_rank_1(prediction, record):
    if dist.get_rank() == 1:
        raise RuntimeError("a mistake")
    return prediction.energies.sum()


def failing():
    """Return the error on this rank when an objective fails on rank 1."""
    try:
        messages(trainer(objective=wrong_on_rank_1).run)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def rank_of_two(rank, folder):
    """Write the results of one rank."""
    gradient, warned = messages(first_gradient)
    whole, cut = trainer(folder / "whole"), trainer(folder / "cut", epochs=1)
    history, _ = messages(whole.run)
    messages(cut.run)
    results = {
        "gradient": gradient,
        "warnings": warned,
        "history": history,
        "parameters": parameters(whole),
        "states": list(whole._warm._held.values()),
        "error": failing(),
    }
    (folder / f"{rank}.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, results_of_ranks(__file__, folder)


@pytest.fixture(scope="module")
def one():
    run = trainer()
    messages(run.run)
    return run


def test_two_ranks_take_the_steps_of_one(two, one):
    _, results = two
    expected, _ = messages(first_gradient)
    for each in results:
        assert each["gradient"] == pytest.approx(expected, rel=1e-10)
        assert each["history"][-1]["loss"] == pytest.approx(one.history[-1]["loss"], rel=1e-7)
    assert results[0]["parameters"] == results[1]["parameters"]


def test_each_rank_keeps_the_ground_states_of_its_own_records(two, one):
    folder, results = two
    first, second = (set(each["states"]) for each in results)
    assert first
    assert second
    assert first.isdisjoint(second)
    assert first | second == set(one._warm._held.values())
    assert len((folder / "whole" / "metrics.jsonl").read_text().splitlines()) == 2


def test_rank_0_warns_of_a_failed_record_of_any_rank(two):
    _, results = two
    assert [each["history"][-1]["failed"] for each in results] == [["bad"], ["bad"]]
    assert len(results[0]["warnings"]) == 1
    assert "'bad' is left out" in results[0]["warnings"][0]
    assert results[1]["warnings"] == []


def test_exception_on_one_rank_ends_all_ranks(two):
    _, results = two
    message = "RankError: rank 1 failed: ObjectiveError: objective 'wrong_on_rank_1' raised RuntimeError on record "
    assert all(each["error"].startswith(message) for each in results)


def test_run_of_two_ranks_is_resumed_with_one(two):
    folder, results = two
    run = trainer(folder / "cut", epochs=2)
    assert set(run._warm._held.values()) == {*results[0]["states"], *results[1]["states"]}
    messages(run.run)
    assert parameters(run) == pytest.approx(results[0]["parameters"], rel=1e-7)


def test_shares_are_balanced_and_do_not_depend_on_the_order():
    many = [replace(records()[0], name=str(i)) for i in range(7)]
    heavy = label("heavy", scaled_structures(bulk("Al", cubic=True), 2), EMT())
    ranks = shares([*many, heavy], 2)
    assert sorted(name for name in ranks if ranks[name] == ranks["heavy"]) == ["heavy"]
    assert shares([heavy, *many[::-1]], 2)["heavy"] == ranks["heavy"]


CONFIG = """
name: together
functional: {architecture: pbe, config: {kappa: 0.7, trainable: [kappa]}}
calculator: {ecut: 150, kpts: [1, 1, 1], smooth_cutoff: true}
records: set.json
objectives: {energy_differences: 1e3}
optimizer: {name: SGD, lr: 1e-3}
settings: {epochs: 2}
models: models
"""


@pytest.mark.slow
def test_torchrun_trains_the_same_functional(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text(CONFIG)
        write_records(tmp_path / name / "set.json", records()[:3])
    assert main(["train", str(tmp_path / "one" / "run.yaml")]) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = in_another_process([*torchrun, "-m", "ase_nnxc", "train", str(tmp_path / "two" / "run.yaml")])
    assert done.stdout.count("wrote together@1 to") == 1
    kappas = [load_functional(tmp_path / name / "models" / "together@1").kappa.item() for name in ("one", "two")]
    assert kappas[0] != 0.7
    assert kappas[1] == pytest.approx(kappas[0], rel=1e-7)


if __name__ == "__main__":
    run_ranks(rank_of_two)

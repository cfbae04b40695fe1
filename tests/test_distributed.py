"""Training by several processes: the same as by one, whatever one of them meets.

As a script (`python test_distributed.py FOLDER`) this file is a run of two ranks; each writes what it saw to FOLDER.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import ase_nnxc
from ase_nnxc import NNXCCalculator, load_functional
from ase_nnxc.cli import main
from ase_nnxc.train.objectives import EnergyDifferences
from ase_nnxc.train.penalties import ParameterAnchor
from ase_nnxc.train.ranks import Ranks, shares
from ase_nnxc.train.records import Record, label, scaled_structures, write_records
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import PBE

KEYWORDS = {"ecut": 150, "kpts": (1, 1, 1), "smooth_cutoff": True}


def records():
    made = [label(f"Al-{a}", scaled_structures(bulk("Al", a=a), 2), EMT()) for a in (4.0, 4.05, 4.1)]
    on_top = Atoms("Al2", [(0, 0, 0), (0, 0, 0.1)], cell=[2.037, 2.037, 2.037], pbc=True)  # of a volume for rank 1
    return [*made, Record("bad", (on_top,) * 2, {"energy": [0.0, 0.0]})]


def trainer(folder=None, epochs=2, only=None):
    functional = PBE(kappa=0.7, trainable=("kappa", "mu"))
    return Trainer(
        NNXCCalculator(functional, **KEYWORDS),
        only or records(),
        [EnergyDifferences(1e3)],
        penalties=[ParameterAnchor(functional, 1.0)],
        optimizer=torch.optim.Adam(functional.parameters(), lr=0.01),
        settings=TrainerSettings(epochs=epochs),
        folder=folder,
    )


def parameters(made):
    return [p.item() for p in made.functional.parameters()]


def first_gradient(only=None):
    made = trainer(only=only)
    made._backward(made.training, fixed_density=False)
    return [p.grad.item() for p in made.functional.parameters()]


def messages(work):
    """What `work` returns, and what it tells of records that fail."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = work()
    return answer, [str(w.message) for w in caught if "left out" in str(w.message)]


def failing(rank):
    """The error that each rank gets when the objective fails on one of them."""
    made = trainer()

    def objective(prediction, record):
        raise RuntimeError("a mistake")

    if rank == 1:
        made.objectives = [objective]
    try:
        messages(made.run)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def rank_of_two(rank, folder):
    """All that is tested of one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gradient, told = messages(first_gradient)
    whole, cut = trainer(folder / "whole"), trainer(folder / "cut", epochs=1)
    history, _ = messages(whole.run)
    messages(cut.run)
    found = {
        "gradient": gradient,
        "warnings": told,
        "history": history,
        "parameters": parameters(whole),
        "states": list(whole._warm._held),
        "error": failing(rank),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def in_another_process(arguments):
    """Run Python with one thread of torch and the package under test, wherever it lies."""
    package = Path(ase_nnxc.__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the ranks have: a sum in another order is another SCF within its tolerance, and another gradient."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    in_another_process([__file__, folder])
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    made = trainer()
    messages(made.run)
    return made


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forks of one process")


@needs_fork
def test_two_ranks_take_the_steps_of_one(two, one):
    _, found = two
    expected, _ = messages(first_gradient)
    for each in found:
        assert each["gradient"] == pytest.approx(expected, rel=1e-10)
        assert each["history"][-1]["loss"] == pytest.approx(one.history[-1]["loss"], rel=1e-7)
    assert found[0]["parameters"] == found[1]["parameters"]


@needs_fork
def test_each_rank_keeps_the_ground_states_of_its_own_records(two, one):
    folder, found = two
    first, second = (set(each["states"]) for each in found)
    assert first
    assert second
    assert first.isdisjoint(second)
    assert first | second == set(one._warm._held)
    assert len((folder / "whole" / "metrics.jsonl").read_text().splitlines()) == 2


@needs_fork
def test_failed_record_of_any_rank_is_told_by_the_first(two):
    _, found = two
    assert [each["history"][-1]["failed"] for each in found] == [["bad"], ["bad"]]
    assert len(found[0]["warnings"]) == 1
    assert "'bad' is left out" in found[0]["warnings"][0]
    assert found[1]["warnings"] == []


@needs_fork
def test_exception_on_one_rank_ends_all(two):
    _, found = two
    assert found[1]["error"] == "RuntimeError: a mistake"
    assert found[0]["error"] == "RankError: rank 1 failed: RuntimeError: a mistake"


@needs_fork
def test_run_of_two_ranks_is_gone_on_with_by_one(two):
    folder, found = two
    made = trainer(folder / "cut", epochs=2)
    assert set(made._warm._held) == {*found[0]["states"], *found[1]["states"]}
    messages(made.run)
    assert parameters(made) == pytest.approx(found[0]["parameters"], rel=1e-7)


def test_shares_are_balanced_and_do_not_depend_on_the_order():
    many = [replace(records()[0], name=str(i)) for i in range(7)]
    heavy = label("heavy", scaled_structures(bulk("Al", cubic=True), 2), EMT())
    ranks = shares([*many, heavy], 2)
    assert sorted(name for name in ranks if ranks[name] == ranks["heavy"]) == ["heavy"]
    assert shares(many, 3) | {} == shares(many, 3)
    assert Ranks().count == 1


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
    assert done.stdout.count("together@1 is in") == 1
    kappas = [load_functional(tmp_path / name / "models" / "together@1").kappa.item() for name in ("one", "two")]
    assert kappas[0] != 0.7
    assert kappas[1] == pytest.approx(kappas[0], rel=1e-7)


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank_of_two, args=(number, Path(sys.argv[1]))) for number in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(any(process.exitcode for process in ranks))

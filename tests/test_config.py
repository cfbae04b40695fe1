"""Configurations of `nnxc train`: what is refused before anything is calculated, and what is accepted."""

import math
import random
import re
from pathlib import Path

import pytest
import torch
import yaml
from ase.calculators.calculator import InputError
from test_train import CONFIG, eos_record

from ase_nnxc.train.config import read_config
from ase_nnxc.train.identity import describe_scheduler
from ase_nnxc.train.input_files import _Loader, read_yaml
from ase_nnxc.train.optimizers import OPTIMIZERS, SCHEDULERS, optimizer_from, scheduler_from
from ase_nnxc.train.records import write_records
from ase_nnxc.xc import PBE


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    path = tmp_path_factory.mktemp("valid") / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("settings: {epochs: 1}", "settings: {epoch: 1}", "settings.epoch; did you mean 'epochs'"),
        ("settings: {epochs: 1}", "settings: {epochs: 1.5}", "must be an integer"),
        ("records: set.json\n", "", "missing: records; for example records: set.json, a file written by nnxc dataset"),
        ("records: set.json", "records:", "missing: records"),
        ("functional: {", "# {", "missing: functional; for example functional: pbe-clone"),
        ("name: again", "name: [again]", "expected a string"),
        ("name: SGD", "name: SDG", "did you mean 'SGD'"),
        ("lr: 1e-3", "lrs: 1e-3", "SGD has no argument 'lrs'; did you mean 'lr'"),
        ("gamma: 0.9", "gama: 0.9", "scheduler: .*gama"),
        ("energy_differences:", "energy_difference:", "did you mean 'energy_differences'"),
        ("energy_differences: 1e4", "energy_differences: {norm: l3}", "norm='l3': must be one of l2, l1"),
        ("energy_differences: 1e4", "energy_differences: {weight: large}", "weight='large': must be a number"),
        ("ecut:", "encut:", "did you mean 'ecut'"),
        ("kappa: 0.7", "kapa: 0.7", "functional.config: pbe has no argument 'kapa'; did you mean 'kappa'"),
        (", trainable: [kappa]", "", "no trainable parameters"),
        ("weight: 1e-3", "weigth: 1e-3", "unknown key penalties.functional_anchor.weigth; did you mean 'weight'"),
        ("bounds: 1.0", "bound: 1.0", "did you mean 'bounds'"),
        ("bounds: 1.0", "bounds: {weight: large}", "bounds.weight='large': must be a number"),
        ("kernel_size: 1e-3", "kernel_size: {parent: PBE, weight: 1}", "penalties.kernel_size"),
        ("parent: PBE", "parent: PBF", "did you mean 'PBE'"),
        ("functional:", "functional: {a: [", "not YAML"),
        ("models: models", "models: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_mistake_in_a_configuration_is_refused_before_anything_is_calculated(tmp_path, old, new, complaint):
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


# key, value, message
WRONG = [
    ("version", 0, "version=0: must be an integer, at least 1"),
    ("version", True, "version=True: must be an integer"),
    ("name", "Two Words", "name: 'Two Words' is not a name of a model"),
    ("name", "nngga", "name 'nngga' is that of a form of functional: choose another, as in name: my-nngga"),
    ("name", "constrained", "name 'constrained' is that of a form"),
    ("name", "again@2", "the version must be given by the key version"),
    ("description", 5, "description=5: expected a string"),
    ("records", [], "records: expected at least 1 items"),
    ("records", [["set.json"]], r"records\[0\]=\['set.json'\]: expected a string"),
    ("records", "/dev/zero", "expected a regular file"),
    ("functional.config.kappa", math.nan, "functional.config.kappa=nan: must be a finite number"),
    ("functional.config.kappa", math.inf, "functional.config.kappa=inf: must be a finite number"),
    ("functional.config.mu", -1e300, r"functional: .* cannot be saved as a model \(not written: .* not finite"),
    ("functional.version", True, "functional.version=True: must be an integer"),
    ("calculator.ecut", "high", "calculator: ecut='high'"),
    ("calculator.txt", "missing/log.txt", "calculator.txt='missing/log.txt': expected '-' or a file"),
    ("calculator.txt", "/proc/log.txt", "calculator.txt='/proc' cannot be written"),
    *(
        ("optimizer.lr", value, "optimizer.lr=.*: must be a number, at least 0 and at most 1000")
        for value in (math.nan, math.inf, -0.1, True, 1e9, "fast", [0.1])
    ),
    ("optimizer.momentum", 1.5, "optimizer.momentum=1.5: must be a number, at least 0 and below 1"),
    ("optimizer.weight_decay", math.nan, "optimizer.weight_decay=nan"),
    ("optimizer", {"eps": 0}, "optimizer: Adam with eps: 0 makes parameters that are not finite"),
    ("optimizer", {"name": "RAdam", "eps": 0}, "optimizer: RAdam with eps: 0 makes parameters that are not finite"),
    ("optimizer", {"name": "RMSprop", "alpha": 2}, "optimizer: RMSprop with alpha: 2 makes parameters that are not"),
    ("optimizer.nesterov", 1, "optimizer.nesterov=1: expected true or false"),
    ("optimizer.nesterov", True, "optimizer: Nesterov momentum requires"),
    ("optimizer.maximize", True, "SGD has no argument 'maximize'"),
    ("optimizer.params", [], "SGD has no argument 'params'"),
    ("optimizer", {"name": "SparseAdam"}, "optimizer.name: unknown 'SparseAdam'"),
    ("optimizer", {"name": "Optimizer"}, "optimizer.name: unknown 'Optimizer'"),
    ("optimizer", {"name": "Adam", "betas": [0.9]}, "optimizer.betas: expected 2 items, got 1"),
    ("optimizer", {"name": "Adam", "betas": [0.9, math.nan]}, r"optimizer.betas\[1\]=nan"),
    ("optimizer", {"name": "Adam", "betas": [0.9, 1.5]}, "optimizer: Invalid beta"),
    ("optimizer", {"name": "LBFGS", "max_iter": 0}, "optimizer.max_iter=0: must be an integer, at least 1"),
    (
        "optimizer",
        {"name": "LBFGS", "line_search_fn": "wolfe"},
        "optimizer.line_search_fn='wolfe': must be one of strong_wolfe",
    ),
    ("optimizer", {"name": ["Adam"]}, "optimizer.name: unknown"),
    ("scheduler.gamma", 0, "scheduler.gamma=0: must be a number, above 0"),
    ("scheduler.gamma", math.nan, "scheduler.gamma=nan"),
    ("scheduler.gamma", 1e9, "scheduler: after epoch 1: lr=1000000.0: must be a number, at least 0 and at most 1000"),
    ("scheduler.last_epoch", 3, "ExponentialLR has no argument 'last_epoch'"),
    ("scheduler", {"name": "StepLR", "step_size": 0}, "scheduler.step_size=0: must be an integer, at least 1"),
    ("scheduler", {"name": "StepLR", "step_size": 1.5}, "scheduler.step_size=1.5: must be an integer"),
    ("scheduler", {"name": "StepLR"}, "scheduler: .*step_size"),
    ("scheduler", {"name": "CosineAnnealingLR", "T_max": 0}, "scheduler.T_max=0"),
    ("scheduler", {"name": "CosineAnnealingWarmRestarts", "T_0": 0}, "scheduler.T_0=0"),
    ("scheduler", {"name": "LinearLR", "total_iters": 0}, "scheduler.total_iters=0"),
    ("scheduler", {"name": "MultiStepLR", "milestones": 3}, "scheduler.milestones=3: expected a list"),
    ("scheduler", {"name": "ReduceLROnPlateau", "factor": 2}, "scheduler: Factor should be < 1"),
    ("scheduler", {"name": "ReduceLROnPlateau", "mode": "low"}, "scheduler: mode low is unknown"),
    ("scheduler", {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 2}, "scheduler: after epoch 3: Tried to step 3"),
    ("scheduler", {"name": "LambdaLR", "lr_lambda": "x"}, "scheduler.name: unknown 'LambdaLR'"),
    ("scheduler", {"name": "LRScheduler"}, "scheduler.name: unknown 'LRScheduler'"),
    ("settings.seed", 2**63, "settings.seed=9223372036854775808: must be an integer"),
    ("settings.seed", 0.5, "settings.seed=0.5: must be an integer"),
    ("settings.epochs", True, "settings.epochs=True: must be an integer"),
    ("settings.clip", math.nan, "settings.clip=nan: must be a"),
    ("settings.clip", math.inf, "settings.clip=inf: must be a number, above 0; leave it out for no limit"),
    ("settings.memory", math.nan, "settings.memory=nan: must be a number, at least 0$"),
    ("settings.memory", math.inf, "settings.memory=inf: must be a number, at least 0; give the memory of the machine"),
    *(
        (f"{key}", value, f"{key}.*=.*: must be a number, at least 0")
        for key in ("objectives.energy_differences", "penalties.bounds", "penalties.parameter_anchor")
        for value in (-1.0, True, "large")
    ),
    *(
        (f"{key}", value, f"{key}.*=.*: must be a")
        for key in ("objectives.energy_differences", "penalties.functional_anchor.weight", "penalties.kernel_size")
        for value in (math.nan, math.inf)
    ),
    (
        "penalties.functional_anchor.parent",
        5,
        "penalties.functional_anchor.parent=5: expected a form such as pbe-clone",
    ),
    ("objectives.energy_differences", {"norm": ["l2"]}, "objectives.energy_differences.norm"),
    ("models", "set.json", "models=.*set.json is not a folder"),
    ("models", "set.json/models", "models=.*set.json is not a folder"),
    ("models", "/proc/models", "models='/proc/models' cannot be written"),
    ("folder", "~nosuchuser/run", "folder='~nosuchuser/run': there is no such home folder"),
    ("folder", "models/again@1", "folder='models/again@1' is the folder that the model gets"),
    ("folder", "models/again@1/state", "folder='models/again@1/state' is the folder that the model gets"),
    ("folder", "set.json", "folder=.*set.json is not a folder"),
    ("folder", "/proc/run", "folder='/proc/run' cannot be written"),
]


@pytest.mark.parametrize(("key", "value", "complaint"), WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_wrong_value_in_a_configuration_is_refused_with_its_key(tmp_path, configuration, key, value, complaint):
    data = read_yaml(configuration)
    data["settings"]["epochs"] = 5
    *above, last = key.split(".")
    section = data
    for name in above:
        section = section[name]
    section[last] = value
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data))
    write_records(tmp_path / "set.json", [eos_record()])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=complaint) as raised:
        read_config(tmp_path / "run.yaml")
    assert "run.yaml" in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


def leaves(data, path=()):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif path != ("functional", "config"):
            yield (*path, key)


def test_configuration_spoilt_anywhere_is_refused(tmp_path, configuration):
    write_records(tmp_path / "set.json", [eos_record()])
    generator = random.Random(4)
    for key in leaves(read_yaml(configuration)):
        for value in generator.sample([{}, [[]], "\0", -1, math.nan, {"a": 1}, [None, "b"]], 3):
            data = read_yaml(configuration)
            section = data
            for name in key[:-1]:
                section = section[name]
            section[key[-1]] = value
            if value == {} and key[0] in ("objectives", "penalties") and len(key) == 2:
                continue  # an objective or a penalty with its defaults
            (tmp_path / "run.yaml").write_text(yaml.safe_dump(data))
            with pytest.raises(InputError) as raised:
                read_config(tmp_path / "run.yaml")
            assert key[0] in str(raised.value), (key, value)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"Muon"}))
def test_each_optimizer_of_torch_with_its_defaults_is_accepted(name):
    assert type(optimizer_from({"name": name}, PBE(trainable=("kappa",)))).__name__ == name


SCHEDULES = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [2, 4]},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {"patience": 1},
    "StepLR": {"step_size": 2},
}


@pytest.mark.parametrize("name", [*SCHEDULES, None])
def test_example_of_a_scheduler_in_a_message_is_accepted(name):
    optimizer = optimizer_from({"name": "SGD"}, PBE(trainable=("kappa",)))
    if name in ("ConstantLR", "LinearLR", "PolynomialLR", "ReduceLROnPlateau"):
        return  # they need no argument
    with pytest.raises(InputError, match=f"scheduler.*{name or 'name'}.*as in scheduler: ") as raised:
        scheduler_from({} if name is None else {"name": name}, optimizer, 100)
    example = re.search(r"{.*?}", str(raised.value))[0]
    scheduler_from(yaml.load(example, _Loader), optimizer, 100)


@pytest.mark.parametrize("name", SCHEDULES)
def test_trial_of_a_scheduler_changes_neither_optimizer_nor_parameters(name):
    functional = PBE(kappa=0.7, trainable=("kappa",))
    chosen = {"name": "SGD", "lr": 0.1, "momentum": 0.9}
    optimizer = optimizer_from(chosen, functional)
    untried = torch.optim.SGD(functional.parameters(), lr=0.1, momentum=0.9)
    scheduler = scheduler_from({"name": name, **SCHEDULES[name]}, optimizer, 9)
    expected = getattr(torch.optim.lr_scheduler, name)(untried, **SCHEDULES[name])
    assert describe_scheduler(scheduler) == describe_scheduler(expected)
    assert optimizer.state_dict() == untried.state_dict()
    assert functional.kappa.item() == 0.7
    assert functional.kappa.grad is None


def test_names_of_schedulers_are_all_tried():
    assert SCHEDULES.keys() == SCHEDULERS.keys()

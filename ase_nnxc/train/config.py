"""Training runs as YAML files; `examples/train_pbesol.yaml` shows one.

Everything in a file is checked before anything runs. Paths in it are relative to its folder.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator
from ..checkpoints import is_reserved, model_roots
from ..registry import get_functional
from ..xc import Functional, build
from .objectives import NORMS, OBJECTIVES
from .penalties import Bounds, FunctionalAnchor, KernelSize, ParameterAnchor
from .records import Record, read_records
from .trainer import Penalty, Settings, Trainer

_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "version": int,
    "description": str,
    "functional": (str, dict),
    "calculator": dict,
    "records": (str, list),
    "validation": (str, list),
    "objectives": dict,
    "penalties": dict,
    "optimizer": dict,
    "scheduler": dict,
    "settings": dict,
    "folder": str,
    "models": str,
}
_REQUIRED = ("name", "functional", "records", "objectives")


class _Loader(yaml.SafeLoader):
    """Also reads 1e-3 as a number, as YAML 1.2 has it."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


@dataclass(frozen=True)
class Run:
    """A training run, ready to go.

    Attributes
    ----------
    trainer : Trainer
        What `run` and `save` are called of.
    models : Path
        Where the model goes.
    name, version, description
        Of the model.
    """

    trainer: Trainer
    models: Path
    name: str
    version: int
    description: str

    def save(self) -> Path:
        """Write the model; its folder."""
        return self.trainer.save(self.models, name=self.name, version=self.version, description=self.description)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; safe, nothing in it is executed.

    Raises
    ------
    InputError
        If it is no YAML, or no mapping.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} holds no mapping of names to values")
    return data


def read_config(path: str | Path) -> Run:
    """The run that a YAML file describes.

    name, functional, records and objectives must be there. `functional` is a name, or a mapping of architecture,
    version and config as in a checkpoint's card; `objectives` are keys of `OBJECTIVES` with weight and norm;
    `penalties` are "parameter_anchor", "bounds" and "kernel_size", each with its weight, and "functional_anchor" with
    parent and weight (see `ase_nnxc.train.penalties`); `optimizer` and `scheduler` have the name of a class of torch
    and its arguments; `settings` are those of `Settings`; `calculator` holds keywords of `NNXCCalculator` but xc.

    Parameters
    ----------
    path : path
        Of the file.

    Raises
    ------
    InputError
        For anything in it that makes no sense.
    OSError
        If a file cannot be read.
    """
    path = Path(path)
    data = read_yaml(path)
    try:
        return _make(data, path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _make(data: Mapping[str, Any], base: Path) -> Run:
    _check_keys("", data, _TYPES)
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"{', '.join(missing)} must be given")
    for key, value in data.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise InputError(f"{key} is {value!r}, not what is expected there")
    name, version = data["name"], data.get("version", 1)
    models = base / data["models"] if "models" in data else model_roots()[-1].folder
    if is_reserved(name, models):
        raise InputError(f"name {name!r} is taken by a functional of the package, of libxc or of PySCF")
    if (models / f"{name}@{version}").exists():
        raise InputError(f"{name}@{version} is in {models}: written versions are never changed, take the next")
    functional = _functional(data["functional"])
    options = data.get("calculator", {})
    _check_keys("calculator.", options, NNXCCalculator.default_parameters.keys() - {"xc"})
    optimizer = _optimizer(data.get("optimizer", {"name": "Adam"}), functional)
    trainer = Trainer(
        NNXCCalculator(functional, **options),
        _records(data["records"], base),
        _objectives(data["objectives"]),
        validation=_records(data["validation"], base) if "validation" in data else None,
        penalties=_penalties(data.get("penalties", {}), functional),
        optimizer=optimizer,
        scheduler=_scheduler(data["scheduler"], optimizer) if "scheduler" in data else None,
        settings=_settings(data.get("settings", {})),
        folder=base / data.get("folder", f"nnxc-train-{name}"),
    )
    return Run(trainer, models, name, version, data.get("description", f"Trained by nnxc train, {name}."))


def _functional(what: str | dict[str, Any]) -> Functional:
    if isinstance(what, str):
        functional = get_functional(what)
    else:
        _check_keys("functional.", what, ("architecture", "version", "config"))
        try:
            functional = build({"version": 1, "config": {}, **what})
        except (TypeError, ValueError, KeyError, LookupError) as error:
            raise InputError(f"functional: {error}") from error
    if not any(p.requires_grad for p in functional.parameters()):
        raise InputError(f"functional: {what!r} has no trainable parameters")
    return functional.train()


def _records(paths: str | list[str], base: Path) -> list[Record]:
    return [record for path in ([paths] if isinstance(paths, str) else paths) for record in read_records(base / path)]


def _objectives(chosen: Mapping[str, Any]) -> list[Any]:
    _check_keys("objectives.", chosen, OBJECTIVES)
    made = []
    for name, arguments in chosen.items():
        arguments = {} if arguments is None else arguments
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        _check_keys(f"objectives.{name}.", arguments, ("weight", "norm"))
        if not _is_number(arguments.get("weight", 1.0)) or arguments.get("norm", "l2") not in NORMS:
            raise InputError(f"objectives.{name}: weight is a number, norm one of {', '.join(NORMS)}")
        made.append(OBJECTIVES[name](**arguments))
    return made


def _penalties(chosen: Mapping[str, Any], functional: Functional) -> list[Penalty]:
    known: dict[str, Callable[..., Penalty]] = {
        "parameter_anchor": lambda weight: ParameterAnchor(functional, weight),
        "functional_anchor": lambda weight, parent: FunctionalAnchor(get_functional(parent), weight),
        "bounds": Bounds,
        "kernel_size": KernelSize,
    }
    _check_keys("penalties.", chosen, known)
    made = []
    for name, arguments in chosen.items():
        needed = {"weight", "parent"} if name == "functional_anchor" else {"weight"}
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        if arguments.keys() != needed or not _is_number(arguments["weight"]):
            raise InputError(f"penalties.{name}: {' and '.join(sorted(needed))} must be given, weight is a number")
        made.append(known[name](**arguments))
    return made


def _optimizer(chosen: Mapping[str, Any], functional: Functional) -> torch.optim.Optimizer:
    classes = {
        n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)
    }
    parameters = [p for p in functional.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = _instance("optimizer", chosen, classes, parameters)
    return optimizer


def _scheduler(chosen: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    module = torch.optim.lr_scheduler
    bases = (module.LRScheduler, module.ReduceLROnPlateau)
    classes = {n: c for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, bases)}
    return _instance("scheduler", chosen, classes, optimizer)


def _instance(what: str, chosen: Mapping[str, Any], classes: Mapping[str, type], argument: Any) -> Any:
    """An object of the class that is called by its name, made of an argument and those in `chosen`."""
    arguments = dict(chosen)
    name = arguments.pop("name", None)
    if name not in classes:
        raise InputError(f"{what}.name: unknown {name!r}{_hint(name, classes)}")
    known = inspect.signature(classes[name]).parameters
    for key in arguments:
        if key not in known:
            raise InputError(f"{what}: {name} has no {key!r}{_hint(key, known)}")
    try:
        return classes[name](argument, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {error}") from error


def _settings(chosen: Mapping[str, Any]) -> Settings:
    known = {field.name: field.type for field in fields(Settings)}
    _check_keys("settings.", chosen, known)
    for key, value in chosen.items():
        whole = "int" in str(known[key])
        if not _is_number(value) or (whole and not isinstance(value, int)):
            raise InputError(f"settings.{key}={value!r}: a {'whole ' if whole else ''}number is expected")
    return Settings(**chosen)


def _check_keys(where: str, data: Mapping[str, Any], known: Collection[str]) -> None:
    for key in data:
        if key not in known:
            raise InputError(f"unknown key {where}{key}{_hint(key, known)} (known: {', '.join(sorted(known))})")


def _hint(name: object, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Training runs as YAML files; an example is `examples/train_pbesol.yaml`.

A file is checked completely before anything is calculated. Paths in it are relative to its folder.
"""

import difflib
import inspect
import re
from collections.abc import Collection, Mapping
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
from .penalties import PENALTIES, FunctionalAnchor, ParameterAnchor
from .records import Record, read_records
from .trainer import Penalty, Trainer, TrainerSettings

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
    """Reads 1e-3 as a number, as in YAML 1.2."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


@dataclass(frozen=True)
class Run:
    """A training run that can be started.

    Attributes
    ----------
    trainer : Trainer
        The trainer.
    models : Path
        Folder for the model.
    name, version, description
        Name, version and description of the model.
    """

    trainer: Trainer
    models: Path
    name: str
    version: int
    description: str

    def save(self) -> Path:
        """Write the model and return its folder."""
        return self.trainer.save(self.models, name=self.name, version=self.version, description=self.description)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping, with a safe loader that executes nothing.

    Raises
    ------
    InputError
        If the file is not YAML, or does not contain a mapping.
    OSError
        If the file cannot be read.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} must contain a mapping of names to values")
    return data


def read_config(path: str | Path) -> Run:
    """Return the run that a YAML file describes.

    name, functional, records and objectives are required. `functional` is a name, or a mapping of architecture, version
    and config as in the card of a checkpoint; `objectives` are keys of `OBJECTIVES` with weight and norm; `penalties`
    are "parameter_anchor", "bounds" and "kernel_size", each with its weight, and "functional_anchor" with parent and
    weight (see `ase_nnxc.train.penalties`); `optimizer` and `scheduler` have the name of a class of torch and its
    arguments; `settings` are those of `TrainerSettings`; `calculator` contains keywords of `NNXCCalculator` except xc.

    Parameters
    ----------
    path : path
        The YAML file.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is not valid.
    OSError
        If a file cannot be read.
    """
    path = Path(path)
    data = read_yaml(path)
    try:
        return _run_from(data, path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _run_from(data: Mapping[str, Any], base: Path) -> Run:
    _check_keys("", data, _TYPES)
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    for key, value in data.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise InputError(f"{key}={value!r}: expected {_type_names(_TYPES[key])}")
    name, version = data["name"], data.get("version", 1)
    models = base / data["models"] if "models" in data else model_roots()[-1].folder
    if is_reserved(name, models):
        raise InputError(
            f"name {name!r} is the name of a functional of the package, of libxc or of PySCF: choose another"
        )
    if (models / f"{name}@{version}").exists():
        raise InputError(f"{name}@{version} exists in {models}: versions are never overwritten, use the next")
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
    return Run(trainer, models, name, version, data.get("description", f"Trained with nnxc train, {name}."))


def _functional(description: str | dict[str, Any]) -> Functional:
    if isinstance(description, str):
        functional = get_functional(description)
    else:
        _check_keys("functional.", description, ("architecture", "version", "config"))
        try:
            functional = build({"version": 1, "config": {}, **description})
        except (TypeError, ValueError, LookupError) as error:  # of the constructor that gets these arguments
            raise InputError(f"functional: {error}") from error
    if not any(p.requires_grad for p in functional.parameters()):
        raise InputError(f"functional: {description!r} has no trainable parameters")
    return functional.train()


def _records(paths: str | list[str], base: Path) -> list[Record]:
    return [record for path in ([paths] if isinstance(paths, str) else paths) for record in read_records(base / path)]


def _objectives(chosen: Mapping[str, Any]) -> list[Any]:
    _check_keys("objectives.", chosen, OBJECTIVES)
    objectives = []
    for name, arguments in chosen.items():
        arguments = {} if arguments is None else arguments
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        _check_keys(f"objectives.{name}.", arguments, ("weight", "norm"))
        if not _is_number(arguments.get("weight", 1.0)):
            raise InputError(f"objectives.{name}.weight={arguments['weight']!r} must be a number")
        if arguments.get("norm", "l2") not in NORMS:
            raise InputError(f"objectives.{name}.norm={arguments['norm']!r} must be one of {', '.join(NORMS)}")
        objectives.append(OBJECTIVES[name](**arguments))
    return objectives


def _penalties(chosen: Mapping[str, Any], functional: Functional) -> list[Penalty]:
    _check_keys("penalties.", chosen, PENALTIES)
    penalties: list[Penalty] = []
    for name, arguments in chosen.items():
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        required = {"weight", "parent"} if name == "functional_anchor" else {"weight"}
        if arguments.keys() != required:
            raise InputError(f"penalties.{name}: expected {' and '.join(sorted(required))}, got {', '.join(arguments)}")
        weight = arguments["weight"]
        if not _is_number(weight):
            raise InputError(f"penalties.{name}.weight={weight!r} must be a number")
        if name == "parameter_anchor":
            penalties.append(ParameterAnchor(functional, weight))
        elif name == "functional_anchor":
            penalties.append(FunctionalAnchor(get_functional(arguments["parent"]), weight))
        else:
            penalties.append(PENALTIES[name](weight))
    return penalties


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


def _instance(key: str, chosen: Mapping[str, Any], classes: Mapping[str, type], argument: Any) -> Any:
    """Return an object of the class with the name in `chosen`, from an argument and those in `chosen`."""
    arguments = dict(chosen)
    name = arguments.pop("name", None)
    if name not in classes:
        raise InputError(f"{key}.name: unknown {name!r}{_hint(name, classes)}")
    known = inspect.signature(classes[name]).parameters
    for keyword in arguments:
        if keyword not in known:
            raise InputError(f"{key}: {name} has no argument {keyword!r}{_hint(keyword, known)}")
    try:
        return classes[name](argument, **arguments)
    except (TypeError, ValueError) as error:  # of the constructor in torch that gets these arguments
        raise InputError(f"{key}: {error}") from error


def _settings(chosen: Mapping[str, Any]) -> TrainerSettings:
    known = {field.name: field.type for field in fields(TrainerSettings)}
    _check_keys("settings.", chosen, known)
    for key, value in chosen.items():
        integer = "int" in str(known[key])
        if not _is_number(value) or (integer and not isinstance(value, int)):
            raise InputError(f"settings.{key}={value!r} must be {'an integer' if integer else 'a number'}")
    return TrainerSettings(**chosen)


def _check_keys(prefix: str, data: Mapping[str, Any], known: Collection[str]) -> None:
    for key in data:
        if key not in known:
            raise InputError(f"unknown key {prefix}{key}{_hint(key, known)} (known keys: {', '.join(sorted(known))})")


def _type_names(types: type | tuple[type, ...]) -> str:
    names = {str: "a string", int: "an integer", dict: "a mapping", list: "a list"}
    return " or ".join(names[t] for t in (types if isinstance(types, tuple) else (types,)))


def _hint(name: object, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

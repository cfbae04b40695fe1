"""Training runs as YAML files; an example is `examples/train_pbesol.yaml`.

A file is checked completely before anything is calculated. Paths in it are relative to its folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator
from ..checkpoints import CheckpointError, is_reserved, model_roots, parse_name
from ..registry import get_functional
from ..xc import Functional, build
from .input_files import read_yaml
from .objectives import NORMS, OBJECTIVES
from .optimizers import optimizer_from, scheduler_from
from .penalties import PENALTIES, FunctionalAnchor, ParameterAnchor
from .records import Record, read_records
from .schema import (
    Check,
    check_keys,
    finite,
    integer,
    mapping,
    of_type,
    one_of,
    sequence,
    text,
    weight,
    writable_folder,
)
from .trainer import Penalty, Trainer, TrainerSettings

_CHECKS: dict[str, Check] = {
    "name": text,
    "version": integer(1),
    "description": text,
    "functional": of_type(str, dict),
    "calculator": of_type(dict),
    "records": lambda value, path: (text if isinstance(value, str) else sequence(text, least=1))(value, path),
    "objectives": of_type(dict),
    "penalties": of_type(dict),
    "optimizer": of_type(dict),
    "scheduler": of_type(dict),
    "settings": of_type(dict),
    "folder": text,
    "models": text,
}
_CHECKS["validation"] = _CHECKS["records"]
_REQUIRED = ("name", "functional", "records", "objectives")


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
        If a key is unknown or missing, a value is not valid, a learning rate of the scheduler is not, or the folder of
        the run or of the model cannot be written; with the path of the key.
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
    check_keys(data, _CHECKS)
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    mapping(_CHECKS)(data, "")
    name, version = data["name"], data.get("version", 1)
    models = base / data["models"] if "models" in data else model_roots()[-1].folder
    folder = base / data.get("folder", f"nnxc-train-{name}")
    _check_name(name, version, models)
    _check_folders(models, folder, data)
    functional = _functional(data["functional"])
    options = data.get("calculator", {})
    check_keys(options, NNXCCalculator.default_parameters.keys() - {"xc"}, "calculator")
    settings = _settings(data.get("settings", {}))
    optimizer = optimizer_from(data.get("optimizer", {"name": "Adam"}), functional)
    scheduler = scheduler_from(data["scheduler"], optimizer, settings.epochs) if "scheduler" in data else None
    trainer = Trainer(
        _calculator(functional, options),
        _records(data["records"], base),
        _objectives(data["objectives"]),
        validation=_records(data["validation"], base) if "validation" in data else None,
        penalties=_penalties(data.get("penalties", {}), functional),
        optimizer=optimizer,
        scheduler=scheduler,
        settings=settings,
        folder=folder,
    )
    return Run(trainer, models, name, version, data.get("description", f"Trained with nnxc train, {name}."))


def _check_name(name: str, version: int, models: Path) -> None:
    try:
        _, version_of_name = parse_name(name)
    except CheckpointError as error:
        raise InputError(f"name: {error}") from error
    if version_of_name is not None:
        raise InputError(f"name={name!r}: the version must be given by the key version")
    if is_reserved(name, models):
        raise InputError(
            f"name {name!r} is the name of a functional of the package, of libxc or of PySCF: choose another"
        )
    if (models / f"{name}@{version}").exists():
        raise InputError(f"{name}@{version} exists in {models}: versions are never overwritten, use the next")


def _check_folders(models: Path, folder: Path, data: Mapping[str, Any]) -> None:
    """Check that models, state and log can be written, which would otherwise fail during or after the training."""
    writable_folder(models, "models")
    writable_folder(folder, "folder")
    txt = data.get("calculator", {}).get("txt")
    if isinstance(txt, str) and txt != "-":
        text(txt, "calculator.txt")
        log = Path(txt)
        if not log.parent.is_dir() or (log.exists() and not log.is_file()):
            raise InputError(f"calculator.txt={txt!r}: expected '-' or a file in a folder that exists")
        writable_folder(log.parent, "calculator.txt")


def _calculator(functional: Functional, options: Mapping[str, Any]) -> NNXCCalculator:
    try:
        return NNXCCalculator(functional, **options)
    except InputError as error:
        raise InputError(f"calculator: {error}") from error


def _functional(description: str | dict[str, Any]) -> Functional:
    if isinstance(description, str):
        functional = get_functional(description)
    else:
        checks = {"architecture": text, "version": integer(1), "config": of_type(dict)}
        mapping(checks, ("architecture",))(description, "functional")
        finite(description, "functional")
        try:
            functional = build({"version": 1, "config": {}, **description})
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # of the constructor that gets these arguments; RuntimeError: no memory for a network of this size
            raise InputError(f"functional: {error}") from error
    if not any(p.requires_grad for p in functional.parameters()):
        raise InputError(f"functional: {description!r} has no trainable parameters")
    return functional.train()


def _records(paths: str | list[str], base: Path) -> list[Record]:
    return [record for path in ([paths] if isinstance(paths, str) else paths) for record in read_records(base / path)]


def _objectives(chosen: Mapping[str, Any]) -> list[Any]:
    check_keys(chosen, OBJECTIVES, "objectives")
    objectives = []
    for name, arguments in chosen.items():
        arguments = {} if arguments is None else arguments
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        mapping({"weight": weight, "norm": one_of(NORMS)})(arguments, f"objectives.{name}")
        objectives.append(OBJECTIVES[name](**arguments))
    return objectives


def _penalties(chosen: Mapping[str, Any], functional: Functional) -> list[Penalty]:
    check_keys(chosen, PENALTIES, "penalties")
    penalties: list[Penalty] = []
    for name, arguments in chosen.items():
        arguments = arguments if isinstance(arguments, dict) else {"weight": arguments}
        checks = {"weight": weight} | ({"parent": text} if name == "functional_anchor" else {})
        if arguments.keys() != checks.keys():
            keys = ", ".join(map(str, arguments))
            raise InputError(f"penalties.{name}: expected {' and '.join(sorted(checks))}, got {keys}")
        mapping(checks)(arguments, f"penalties.{name}")
        if name == "parameter_anchor":
            penalties.append(ParameterAnchor(functional, arguments["weight"]))
        elif name == "functional_anchor":
            penalties.append(FunctionalAnchor(get_functional(arguments["parent"]), arguments["weight"]))
        else:
            penalties.append(PENALTIES[name](arguments["weight"]))
    return penalties


def _settings(chosen: Mapping[str, Any]) -> TrainerSettings:
    check_keys(chosen, [field.name for field in fields(TrainerSettings)], "settings")
    try:
        return TrainerSettings(**chosen)
    except InputError as error:
        raise InputError(f"settings.{error}") from error

"""Training runs as YAML files; an example is `examples/train_pbesol.yaml`.

A file is checked completely before anything is calculated. Paths in it are relative to its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator, PySCFCalculator
from ..calculator.molecule import check_molecule
from ..checkpoints import CheckpointError, is_reserved, model_roots, parse_name
from ..interop.deepchem import PLANE_WAVES, read_deepchem
from ..xc import Functional
from .choices import default_objectives, objectives_from, penalties_from
from .functionals import EXAMPLES, functional_from, is_trainable
from .input_files import read_yaml
from .objectives import OBJECTIVES
from .optimizers import optimizer_from, scheduler_from
from .penalties import PENALTIES
from .records import Record, calculators_for, read_records
from .schema import (
    Check,
    anything,
    check_keys,
    fail,
    integer,
    is_list,
    mapping,
    of_type,
    one_of,
    sequence,
    text,
    writable_folder,
)
from .trainer import Trainer, TrainerSettings


def _check_files(value: Any, path: str) -> None:
    """Check the name of a file or a list of names."""
    if not isinstance(value, str) and not is_list(value):
        fail(path, value, "expected the name of a file of records, or a list of names")
    (text if isinstance(value, str) else sequence(text, least=1))(value, path)


_CHECKS: dict[str, Check] = {
    "name": text,
    "version": integer(1),
    "description": text,
    "functional": anything,  # `functional_from` checks it
    "calculator": of_type(dict),
    "records": _check_files,
    "basis": one_of([PLANE_WAVES]),
    "objectives": of_type(str, list, dict),
    "penalties": of_type(str, list, dict),
    "optimizer": of_type(str, dict),
    "scheduler": of_type(str, dict),
    "settings": of_type(dict),
    "folder": text,
    "models": text,
}
_CHECKS["validation"] = _CHECKS["records"]
_REQUIRED = {
    "functional": f"functional: {EXAMPLES[0]}, or another form such as {', '.join(EXAMPLES[1:])}",
    "records": "records: set.json, a file written by nnxc dataset set.json Al Si --points 7",
}
"""The keys that have no default, each with an example."""


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

    functional and records are required; `docs/training-files.md` lists all keys, their defaults and the forms of
    `functional` (`ase_nnxc.train.functionals`). `objectives` and `penalties` are names, or mappings of names to weights
    or arguments; `optimizer` and `scheduler` have the name of a class of torch and its arguments; `settings` are those
    of `TrainerSettings`; `calculator` contains keywords of `NNXCCalculator` except xc. A key without a value counts as
    absent at the top level and in `calculator`.

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
        return _run_from(data, path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _run_from(data: Mapping[str, Any], path: Path) -> Run:
    _check_place(data)
    check_keys(data, _CHECKS)
    data = {key: value for key, value in data.items() if value is not None}
    for key, example in _REQUIRED.items():
        if key not in data:
            raise InputError(f"missing: {key}; for example {example}")
    mapping(_CHECKS)(data, "")
    base = path.parent
    name, version = name_from(data, path), data.get("version", 1)
    models = path_from(base, data["models"]) if "models" in data else model_roots()[-1].folder
    folder = path_from(base, data.get("folder", f"nnxc-train-{name}"))
    check_name(name, version, models)
    options = data.get("calculator", {})
    _check_folders(models, folder, options)
    functional = _functional(data["functional"], base)
    check_keys(options, NNXCCalculator.default_parameters.keys() - {"xc"}, "calculator")
    calculator = _calculator(functional, options)
    settings = _settings(data.get("settings", {}))
    optimizer = optimizer_from({"name": "Adam", **_named("optimizer", data.get("optimizer", {}))}, functional)
    scheduler = data.get("scheduler")
    basis = data.get("basis")
    records = records_from("records", data["records"], base, basis)
    validation = records_from("validation", data["validation"], base, basis) if "validation" in data else None
    _check_records(records, calculator)
    trainer = Trainer(
        calculator,
        records,
        objectives_from(data["objectives"])
        if "objectives" in data
        else default_objectives([*records, *(validation or [])], calculator),
        validation=validation,
        penalties=penalties_from(data.get("penalties", {}), functional, base),
        optimizer=optimizer,
        scheduler=None
        if scheduler is None
        else scheduler_from(_named("scheduler", scheduler), optimizer, settings.epochs),
        settings=settings,
        folder=folder,
    )
    return Run(trainer, models, name, version, data.get("description", f"Trained with nnxc train, {name}."))


def _check_place(data: Mapping[str, Any]) -> None:
    """Refuse keys of a section that stand beside it, with a hint where they belong."""
    sections = {
        "settings": [field.name for field in fields(TrainerSettings)],
        "calculator": NNXCCalculator.default_parameters.keys() - {"xc"},
        "optimizer": ["lr", "betas", "momentum", "weight_decay"],
        "scheduler": ["gamma", "step_size", "milestones"],
        "objectives": OBJECTIVES,
        "penalties": PENALTIES,
    }
    for section, keys in sections.items():
        for key in data:
            if key in keys and key not in _CHECKS:
                raise InputError(f"unknown key {key}: it belongs to {section}, as in {section}: {{{key}: ...}}")


def _check_records(records: Sequence[Record], calculator: NNXCCalculator) -> None:
    """Check that a record can be calculated: that there are pseudopotentials, k-points and cutoffs for its atoms."""
    failed = []
    for record in records:
        try:
            _check_record(record, calculator)
            return
        except InputError as error:
            failed.append(f"record {record.name!r}: {error}")
    raise InputError(f"no record can be calculated; {failed[0]}")


def _check_record(record: Record, calculator: NNXCCalculator) -> None:
    """Check that the first structure of a record can be calculated."""
    first = record.structures[0]
    if record.is_all_electron:
        assert record.settings is not None
        check_molecule(first, PySCFCalculator(calculator.parameters["xc"], **record.settings[0]).parameters)
    else:
        calculators_for(record.structures, calculator, record.settings)[0].resolve(first)


def path_from(base: Path, given: str) -> Path:
    """Return a path that is relative to the folder of a configuration."""
    return base / Path(given).expanduser()


def name_from(data: Mapping[str, Any], path: Path) -> str:
    """Return the name of the model: that of the file without its suffix, unless it is given."""
    if "name" in data:
        return str(data["name"])
    try:
        parse_name(path.stem)
    except CheckpointError as error:
        raise InputError(f"missing: name, as that of the file cannot be used: {error}; add name: my-model") from error
    return path.stem


def _named(key: str, chosen: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of an optimizer or a scheduler; a name alone has no arguments."""
    return {"name": chosen} if isinstance(chosen, str) else chosen


def check_name(name: str, version: int, models: Path) -> None:
    """Raise an InputError if a model of this name and version cannot be written to a folder."""
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


def _check_folders(models: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Check that models, state and log can be written, which would otherwise fail during or after the training."""
    writable_folder(models, "models")
    writable_folder(folder, "folder")
    txt = options.get("txt")
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


def _functional(form: Any, base: Path) -> Functional:
    functional = functional_from(form, "functional", base)
    if not is_trainable(functional):
        raise InputError(
            f"functional: {form!r} has no trainable parameters; forms that have some are {', '.join(EXAMPLES)}"
        )
    return functional.train()


def records_from(key: str, paths: str | list[str], base: Path, basis: str | None) -> list[Record]:
    """Return the records of files; YAML files have DeepChem's format, and need a basis."""
    records = []
    for path in [paths] if isinstance(paths, str) else paths:
        file = path_from(base, path)
        if not file.exists():
            raise InputError(
                f"{key}={path!r}: {file} does not exist; paths are relative to the folder of the configuration, and "
                "nnxc dataset writes such a file"
            )
        records += read_deepchem(file, basis) if file.suffix in (".yaml", ".yml") else read_records(file)
    return records


def _settings(chosen: Mapping[str, Any]) -> TrainerSettings:
    check_keys(chosen, [field.name for field in fields(TrainerSettings)], "settings")
    try:
        return TrainerSettings(**chosen)
    except InputError as error:
        raise InputError(f"settings.{error}") from error

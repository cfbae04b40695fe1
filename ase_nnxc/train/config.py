"""Training runs as YAML files; an example is `examples/train_pbesol.yaml`.

A file is checked completely before anything is calculated. Paths in it are relative to its folder, but for that of the
log, `calculator.txt`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator, PySCFCalculator
from ..calculator.molecule import checked_molecule
from ..checkpoints import CheckpointError, check_storable, is_reserved, model_roots, parse_name
from ..interop.deepchem import PLANE_WAVES, read_deepchem
from ..xc import Functional
from .choices import default_objectives, objectives_from, penalties_from
from .functionals import EXAMPLES, functional_from, is_form, is_trainable
from .input_files import read_yaml
from .objectives import OBJECTIVES, Objective
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
    path_from,
    sequence,
    text,
    writable_file,
    writable_folder,
)
from .targets import TARGETS
from .trainer import Trainer, TrainerSettings


def check_files(value: Any, path: str) -> None:
    """Check the name of a file of records or a list of names."""
    if not isinstance(value, str) and not is_list(value):
        fail(path, value, "expected the name of a file of records, or a list of names")
    (text if isinstance(value, str) else sequence(text, least=1))(value, path)


_CHECKS: dict[str, Check] = {
    "name": text,
    "version": integer(1),
    "description": text,
    "functional": anything,  # `functional_from` checks it
    "calculator": of_type(dict),
    "records": check_files,
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
_DEEPCHEM = (".yaml", ".yml")  # suffixes of DeepChem's files
RECORDS = "records: set.json, a file written by nnxc dataset set.json Al Si --points 7"
"""An example of the key that has the files of records."""

_REQUIRED = {
    "functional": f"functional: {EXAMPLES[0]}, or another form such as {', '.join(EXAMPLES[1:])}",
    "records": RECORDS,
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
    data = read_yaml(path, example="functional: pbe-clone and records: set.json")
    try:
        return _run_from(data, path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _run_from(data: Mapping[str, Any], path: Path) -> Run:
    _check_place(data)
    data, base = given_keys(data, _CHECKS, _REQUIRED), path.parent
    name, version, models = model_from(data, path)
    folder = folder_from("folder", data.get("folder", f"nnxc-train-{name}"), base, models / f"{name}@{version}")
    functional = _functional(data["functional"], base)
    calculator = calculator_from(functional, data.get("calculator", {}))
    settings = _settings(data.get("settings", {}))
    optimizer = optimizer_from({"name": "Adam", **_named(data.get("optimizer", {}))}, functional)
    scheduler = data.get("scheduler")
    basis = data.get("basis")
    _check_basis(data)
    records = records_from("records", data["records"], base, basis)
    validation = records_from("validation", data["validation"], base, basis) if "validation" in data else None
    for several in (records, validation or records):
        check_records(several, calculator)
    objectives = (
        objectives_from(data["objectives"])
        if "objectives" in data
        else _objectives_of([*records, *(validation or [])], calculator)
    )
    penalties = penalties_from(data.get("penalties", {}), functional, base)
    _check_training(data, [*objectives, *penalties])
    trainer = Trainer(
        calculator,
        records,
        objectives,
        validation=validation,
        penalties=penalties,
        optimizer=optimizer,
        scheduler=None if scheduler is None else scheduler_from(_named(scheduler), optimizer, settings.epochs),
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


def _objectives_of(records: Sequence[Record], calculator: NNXCCalculator) -> list[Objective]:
    """Return the objectives that follow from the targets of the records, of which there must be some."""
    objectives = default_objectives(records, calculator)
    if not objectives:
        raise InputError(f"records: no record has a target to fit; targets are {', '.join(TARGETS)}")
    return objectives


# ---- shared with nnxc fit --------------------------------------------------------------------------------------------


def given_keys(data: Mapping[str, Any], checks: Mapping[str, Check], required: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of a file that have a value, which pass their checks.

    Parameters
    ----------
    data : mapping
        The content of the file.
    checks : mapping
        Check of each key.
    required : mapping
        An example of each key that must have a value.
    """
    check_keys(data, checks)
    given = {key: value for key, value in data.items() if value is not None}
    for key, example in required.items():
        if key not in given:
            raise InputError(f"missing: {key}; for example {example}")
    mapping(checks)(given, "")
    return given


def check_records(records: Sequence[Record], calculator: NNXCCalculator) -> None:
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
        checked_molecule(first, PySCFCalculator(calculator.parameters["xc"], **record.settings[0]).parameters)
    else:
        calculators_for(record.structures, calculator, record.settings)[0].resolve(first)


def file_from(key: str, given: str, base: Path, hint: str = "") -> Path:
    """Return the path of an existing file that a key has; the message ends with the hint if there is none."""
    file = path_from(key, given, base)
    if not file.exists():
        raise InputError(
            f"{key}={given!r}: {file} does not exist; paths are relative to the folder of the configuration{hint}"
        )
    return file


def folder_from(key: str, given: str, base: Path, model: Path) -> Path:
    """Return the path of a folder of results that a key has; it can be written, and is not that of the model."""
    folder = path_from(key, given, base)
    writable_folder(folder, key)
    if model.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InputError(f"{key}={given!r} is the folder that the model gets, which may not exist before: use another")
    return folder


def model_from(data: Mapping[str, Any], path: Path) -> tuple[str, int, Path]:
    """Return name and version of the model of a configuration, and the folder of models, in which it can be written."""
    name, version = _name_from(data, path), data.get("version", 1)
    models = path_from("models", data["models"], path.parent) if "models" in data else model_roots()[-1].folder
    _check_name(name, version, models)
    writable_folder(models, "models")
    return name, version, models


def _name_from(data: Mapping[str, Any], path: Path) -> str:
    """Return the name of the model: that of the file without its suffix, unless it is given."""
    if "name" in data:
        return str(data["name"])
    try:
        parse_name(path.stem)
    except CheckpointError as error:
        raise InputError(f"missing: name, as that of the file cannot be used: {error}; add name: my-model") from error
    return path.stem


def _check_name(name: str, version: int, models: Path) -> None:
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
    if is_form(name):
        raise InputError(f"name {name!r} is that of a form of functional: choose another, as in name: my-{name}")
    if (models / f"{name}@{version}").exists():
        raise InputError(f"{name}@{version} exists in {models}: versions are never overwritten, use the next")


def calculator_from(xc: str | Functional, options: Mapping[str, Any]) -> NNXCCalculator:
    """Return the calculator of a functional and the options of a configuration, whose log can be written."""
    check_keys(options, NNXCCalculator.default_parameters.keys() - {"xc"}, "calculator")
    txt = options.get("txt")
    if isinstance(txt, str) and txt != "-":
        text(txt, "calculator.txt")
        writable_file(Path(txt), "calculator.txt", "'-' or a file")
    try:
        return NNXCCalculator(xc, **options)
    except InputError as error:
        raise InputError(f"calculator: {error}") from error


def records_from(key: str, paths: str | list[str], base: Path, basis: str | None = None) -> list[Record]:
    """Return the records of files, of different names.

    YAML files have DeepChem's format; `basis` is that of `read_deepchem`.

    Raises
    ------
    InputError
        If a file does not exist, is not valid or contains no records, or if two records have the same name.
    OSError
        If a file cannot be read.
    """
    records: list[Record] = []
    files: dict[str, str] = {}  # that each record is in
    for path in [paths] if isinstance(paths, str) else paths:
        file = file_from(key, path, base, ", and nnxc dataset writes such a file")
        try:
            found = read_deepchem(file, basis) if file.suffix in _DEEPCHEM else read_records(file)
        except InputError as error:
            raise InputError(f"{key}={path!r}: {error}") from error
        if not found:
            raise InputError(f"{key}={path!r} contains no records: expected some, as nnxc dataset writes them")
        for record in found:
            if record.name in files:
                raise InputError(f"{key}={path!r}: {files[record.name]!r} has a record {record.name!r}, too")
            files[record.name] = path
        records += found
    return records


def model_form(form: Any, base: Path) -> Functional:
    """Return the functional of a form, of which a model can be saved."""
    functional = functional_from(form, "functional", base)
    try:
        check_storable(functional)
    except CheckpointError as error:
        raise InputError(f"functional: {form!r} cannot be saved as a model ({error})") from error
    return functional


# ---- parts of a run --------------------------------------------------------------------------------------------------


def _named(chosen: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of an optimizer or a scheduler; a name alone has no arguments."""
    return {"name": chosen} if isinstance(chosen, str) else chosen


def _functional(form: Any, base: Path) -> Functional:
    functional = model_form(form, base)
    if not is_trainable(functional):
        raise InputError(
            f"functional: {form!r} has no trainable parameters; forms that have some are {', '.join(EXAMPLES)}"
        )
    return functional.train()


def _check_basis(data: Mapping[str, Any]) -> None:
    """Refuse a basis without a file that it is for, where it would be ignored."""
    keys = [data[key] for key in ("records", "validation") if key in data]
    paths = [path for key in keys for path in ([key] if isinstance(key, str) else key)]
    if "basis" in data and all(Path(path).suffix not in _DEEPCHEM for path in paths):
        raise InputError("basis: no file of records is in DeepChem's format (.yaml or .yml); leave the key out")


def _check_training(data: Mapping[str, Any], losses: Sequence[Any]) -> None:
    """Refuse what would train nothing: weights that are all 0, or a learning rate of 0 that no scheduler changes."""
    if all(loss.weight == 0 for loss in losses):
        raise InputError("objectives: all weights are 0, expected some above, as in {energy_differences: 1e4}")
    if "scheduler" not in data and _named(data.get("optimizer", {})).get("lr") == 0:
        raise InputError("optimizer.lr=0: nothing would be trained; expected a number above 0 without a scheduler")


def _settings(chosen: Mapping[str, Any]) -> TrainerSettings:
    check_keys(chosen, [field.name for field in fields(TrainerSettings)], "settings")
    try:
        return TrainerSettings(**chosen)
    except InputError as error:
        raise InputError(f"settings.{error}") from error

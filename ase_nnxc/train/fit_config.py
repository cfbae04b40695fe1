"""Fits at frozen densities as YAML files: the input of `nnxc fit`.

A file is checked before anything is calculated. Paths in it are relative to its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator
from ..checkpoints import is_checkpoint_path, model_roots, save_functional
from ..registry import get_functional
from ..xc import NeuralFactors, describe
from .config import check_name, name_from, path_from, records_from
from .frozen import FrozenDensities
from .frozen_fit import FitSettings, Term, fit_frozen
from .functionals import functional_from
from .input_files import read_yaml
from .objectives import OBJECTIVES
from .records import Record, digest
from .schema import (
    Check,
    check_keys,
    closest,
    integer,
    mapping,
    mapping_of,
    number,
    of_type,
    one_of,
    sequence,
    text,
    weight,
    writable_folder,
)

_FILES: Check = sequence(text, least=1)
_CHECKS: dict[str, Check] = {
    "name": text,
    "version": integer(1),
    "description": text,
    "functional": of_type(str, dict),
    "parent": text,
    "calculator": of_type(dict),
    "records": _FILES,
    "test": sequence(text, least=1),
    "classes": mapping_of(text, sequence(text, least=1)),
    "objectives": mapping_of(
        one_of([name for name, cls in OBJECTIVES.items() if not cls.response]),
        mapping({"scale": number(above=0), "weight": weight}, required=("scale",)),
    ),
    "known_errors": text,
    "ridges": sequence(number(above=0), least=1),
    "steps": integer(0),
    "densities": text,
    "models": text,
}
_KNOWN_ERRORS: Check = mapping_of(one_of(list(OBJECTIVES)), mapping_of(text, number()))
_REQUIRED = ("parent", "records", "classes", "objectives")


@dataclass(frozen=True)
class Fit:
    """A fit at frozen densities that can be started.

    Attributes
    ----------
    functional : NeuralFactors
        The functional to fit.
    densities : FrozenDensities
        The folder of the densities, and the calculator of the parent.
    records, test : list of Record
        Records that are fitted, and others that are only predicted.
    classes : mapping of str to str
        Class of each record.
    settings : FitSettings
        Settings of the fit.
    models : Path
        Folder for the model.
    name, version, description
        Name, version and description of the model.
    """

    functional: NeuralFactors
    densities: FrozenDensities
    records: list[Record]
    test: list[Record]
    classes: Mapping[str, str]
    settings: FitSettings
    models: Path
    name: str
    version: int
    description: str

    def run(self) -> tuple[Path, dict[str, Any]]:
        """Calculate the densities that are missing, fit, and save the model; return its folder and the report."""
        records, test = self.densities.collect(self.records), self.densities.collect(self.test)
        parent = self.densities.calculator.get_xc_functional()
        report = fit_frozen(
            self.functional,
            get_functional(parent),
            self.densities.load(records),
            self.densities.load(test) if test else None,
            self.classes,
            self.settings,
        )
        training = {
            "records": [record.name for record in records],
            "test": [record.name for record in test],
            "records_sha256": digest([*records, *test]),
            "densities": f"frozen, of {parent}",
        }
        folder = save_functional(
            self.functional,
            self.models,
            name=self.name,
            version=self.version,
            description=self.description,
            parent=describe(self.functional.parent)["architecture"],
            training=training,
            metrics=report,
        )
        return folder, report


def read_fit(path: str | Path) -> Fit:
    """Return the fit that a YAML file describes.

    Its keys are:

    - extends: another file in the same folder, whose keys hold unless this file has them;
    - parent: name of the functional of the densities, or path of a model;
    - functional: a form, see `functional_from`, that makes a `NeuralFactors`; default: neural-factors of the parent;
    - records: names of files of records;
    - test: names of the records that are only predicted;
    - classes: mapping of names of classes to names of records, for cross-validation;
    - objectives: mapping of names to {scale: expected error, weight: share};
    - known_errors: a YAML file with known errors of the functional as the fit begins, by objectives and records, in the
      unit of the objective;
    - ridges, steps: see `FitSettings`;
    - calculator: keywords of `NNXCCalculator` except xc;
    - densities, models: folders; name, version and description of the model.

    Parameters
    ----------
    path : path
        The YAML file.

    Raises
    ------
    InputError
        If a key is unknown or missing, a value is not valid, or a record that is named does not exist.
    OSError
        If a file cannot be read.
    """
    path = Path(path)
    try:
        return _fit_from(_read(path), path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """Return the keys of a file and of the one that it extends."""
    data = read_yaml(path)
    if "extends" not in data:
        return data
    text(name := data.pop("extends"), "extends")
    if Path(name).name != name:
        raise InputError(f"extends={name!r}: expected the name of a file in the same folder, without a path")
    base = read_yaml(path.parent / name)
    if "extends" in base:
        raise InputError(f"extends={name!r}: this file extends another one itself, expected one that does not")
    return base | data


def _fit_from(data: Mapping[str, Any], path: Path) -> Fit:
    mapping(_CHECKS, _REQUIRED)(data, "")
    base, parent = path.parent, data["parent"]
    if is_checkpoint_path(parent):
        parent = str(path_from(base, parent))
    name, version = name_from(data, path), data.get("version", 1)
    models = path_from(base, data["models"]) if "models" in data else model_roots()[-1].folder
    check_name(name, version, models)
    folder = path_from(base, data.get("densities", f"nnxc-densities-{name}"))
    for key, place in (("models", models), ("densities", folder)):
        writable_folder(place, key)
    options = data.get("calculator", {})
    check_keys(options, NNXCCalculator.default_parameters.keys() - {"xc"}, "calculator")
    functional = functional_from(data.get("functional", {"neural-factors": {"parent": parent}}), "functional", base)
    if not isinstance(functional, NeuralFactors):
        raise InputError("functional: expected neural-factors or a model of it, as in {neural-factors: {seed: 1}}")
    records = records_from("records", data["records"], base, None)
    classes = {record: label for label, names in data["classes"].items() for record in names}
    test = data.get("test", [])
    _check_named(test, records, "test")
    _check_named(list(classes), records, "classes")
    return Fit(
        functional=functional,
        densities=FrozenDensities(folder, NNXCCalculator(parent, **options)),
        records=[record for record in records if record.name not in test],
        test=[record for record in records if record.name in test],
        classes=classes,
        settings=_settings(data, base),
        models=models,
        name=name,
        version=version,
        description=data.get("description", f"Factors fitted at frozen densities of {parent}, {name}."),
    )


def _check_named(names: Sequence[str], records: Sequence[Record], key: str) -> None:
    known = {record.name for record in records}
    for name in names:
        if name not in known:
            raise InputError(f"{key}: there is no record {name!r}{closest(name, known)}")


def _settings(data: Mapping[str, Any], base: Path) -> FitSettings:
    terms = {name: Term(**arguments) for name, arguments in data["objectives"].items()}
    chosen: dict[str, Any] = {"ridges": tuple(data["ridges"])} if "ridges" in data else {}
    if "known_errors" in data:
        chosen["known_errors"] = read_yaml(path_from(base, data["known_errors"]))
        _KNOWN_ERRORS(chosen["known_errors"], "known_errors")
    return FitSettings(terms, steps=data.get("steps", 0), **chosen)

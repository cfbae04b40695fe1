"""Fits at frozen densities as YAML files: the input of `nnxc fit`.

A file is checked before anything is calculated. Paths in it are relative to its folder.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.calculators.calculator import CalculationFailed, InputError

from ..checkpoints import is_checkpoint_path, save_functional
from ..eos.birch_murnaghan import NoMinimumError
from ..registry import get_functional
from ..xc import NeuralFactors, describe
from .config import (
    RECORDS,
    calculator_from,
    check_files,
    check_records,
    file_from,
    folder_from,
    given_keys,
    model_form,
    model_from,
    records_from,
)
from .frozen import FrozenDensities
from .frozen_fit import FitSettings, Term, check_fit, fit_frozen
from .input_files import read_yaml
from .records import Record, digest
from .schema import (
    Check,
    closest,
    integer,
    mapping,
    mapping_of,
    number,
    of_type,
    one_of,
    path_from,
    sequence,
    text,
    weight,
)

_CHECKS: dict[str, Check] = {
    "name": text,
    "version": integer(1),
    "description": text,
    "functional": of_type(str, dict),
    "parent": text,
    "calculator": of_type(dict),
    "records": check_files,
    "test": sequence(text, least=1),
    "classes": mapping_of(text, sequence(text, least=1)),
    "objectives": mapping_of(
        one_of(["reaction_energy", "lattice_constant", "bulk_modulus"]),  # those with one error of a record
        mapping({"scale": number(above=0), "weight": weight}, required=("scale",)),
    ),
    "known_errors": text,
    "ridges": sequence(number(above=0), least=1),
    "steps": integer(0),
    "densities": text,
    "models": text,
}
_REQUIRED = {
    "parent": "parent: r2SCAN, the functional of the densities",
    "records": RECORDS,
    "classes": "classes: {alkali: [Li, Na], noble: [Cu, Ag], ionic: [MgO, LiF]}",
    "objectives": "objectives: {lattice_constant: {scale: 0.005}}",
}
"""The keys that have no default, each with an example."""


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
        """Calculate the densities that are missing, fit, and save the model; return its folder and the report.

        Raises
        ------
        CalculationFailed
            If no record that is fitted can be calculated.
        InputError
            If the records that can be calculated do not suffice, or an equation of state has no minimum.
        """
        records, test = self.densities.collect(self.records), self.densities.collect(self.test)
        if not records:
            raise CalculationFailed("all records that are fitted are left out, as their calculations have failed")
        parent = self.densities.calculator.get_xc_functional()
        try:
            report = fit_frozen(
                self.functional,
                get_functional(parent),
                self.densities.load(records),
                self.densities.load(test) if test else None,
                self.classes,
                self.settings,
            )
        except NoMinimumError as error:
            raise InputError(f"{error}; leave the record out") from error
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
    data = read_yaml(path, example="parent: r2SCAN and other keys of docs/training.md")
    try:
        return _fit_from(_extended(data, path), path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _extended(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys of a file and of the one that it extends."""
    name = data.pop("extends", None)
    if name is None:
        return data
    text(name, "extends")
    if Path(name).name != name:
        raise InputError(f"extends={name!r}: expected the name of a file in the same folder, without a path")
    base = read_yaml(file_from("extends", name, path.parent))
    if "extends" in base:
        raise InputError(f"extends={name!r}: this file extends another one itself, expected one that does not")
    return base | data


def _fit_from(data: Mapping[str, Any], path: Path) -> Fit:
    data, base = given_keys(data, _CHECKS, _REQUIRED), path.parent
    name, version, models = model_from(data, path)
    densities = data.get("densities", f"nnxc-densities-{name}")
    folder = folder_from("densities", densities, base, models / f"{name}@{version}")
    parent = _parent(data["parent"], base)
    functional = model_form(data.get("functional", {"neural-factors": {"parent": parent}}), base)
    if not isinstance(functional, NeuralFactors):
        raise InputError("functional: expected neural-factors or a model of it, as in {neural-factors: {seed: 1}}")
    calculator = calculator_from(parent, data.get("calculator", {}))
    records, test = records_from("records", data["records"], base), data.get("test", [])
    classes, settings = _classes(data["classes"]), _settings(data, base)
    _check_named(test, records, "test")
    _check_named(classes, records, "classes")
    for objective, errors in settings.known_errors.items():
        _check_named(errors, records, f"known_errors.{objective}")
    fitted, predicted = ([r for r in records if (r.name in test) is is_test] for is_test in (False, True))
    if not fitted:
        raise InputError("test: all records are in it, expected some that are fitted")
    check_fit(fitted, predicted, classes, settings)
    check_records(fitted, calculator)
    return Fit(
        functional=functional,
        densities=FrozenDensities(folder, calculator),
        records=fitted,
        test=predicted,
        classes=classes,
        settings=settings,
        models=models,
        name=name,
        version=version,
        description=data.get("description", f"Factors fitted at frozen densities of {parent}, {name}."),
    )


def _parent(name: str, base: Path) -> str:
    """Return the name of the parent, or its path, of which there is a functional."""
    if is_checkpoint_path(name):
        name = str(path_from("parent", name, base))
    try:
        get_functional(name)
    except InputError as error:
        raise InputError(f"parent: {error}") from error
    return name


def _classes(chosen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the class of each record, of which it has one."""
    classes: dict[str, str] = {}
    for label, names in chosen.items():
        for name in names:
            if name in classes:
                raise InputError(f"classes.{label}: record {name!r} is in the class {classes[name]!r} already")
            classes[name] = label
    return classes


def _check_named(names: Collection[str], records: Sequence[Record], key: str) -> None:
    known = {record.name for record in records}
    for name in names:
        if name not in known:
            raise InputError(f"{key}: there is no record {name!r}{closest(name, known)}")


def _settings(data: Mapping[str, Any], base: Path) -> FitSettings:
    terms = {name: Term(**arguments) for name, arguments in data["objectives"].items()}
    if not any(term.weight for term in terms.values()):
        raise InputError(f"objectives: none has a weight above 0; for example {_REQUIRED['objectives']}")
    chosen: dict[str, Any] = {"ridges": tuple(data["ridges"])} if "ridges" in data else {}
    if "known_errors" in data:
        chosen["known_errors"] = read_yaml(
            file_from("known_errors", data["known_errors"], base), "lattice_constant: {Si: 0.0035}"
        )
        mapping_of(one_of(list(terms)), mapping_of(text, number()))(chosen["known_errors"], "known_errors")
    return FitSettings(terms, steps=data.get("steps", 0), **chosen)

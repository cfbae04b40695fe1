"""Objectives and penalties as they are written in training files, and the objectives of a file that names none."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..calculator import NNXCCalculator
from ..xc import Functional
from .functionals import functional_from
from .objectives import NORMS, OBJECTIVES, Objective
from .penalties import PENALTIES, FunctionalAnchor, ParameterAnchor
from .records import Record
from .schema import Check, anything, check_keys, is_list, mapping, one_of, sequence, weight
from .trainer import Penalty

Chosen = str | Sequence[Any] | Mapping[str, Any]
"""A name, a list of names, or a mapping of names to a weight, to arguments or to nothing."""

_DEFAULT_OBJECTIVES = (
    "energy_differences",
    "reaction_energy",
    "lattice_constant",
    "bulk_modulus",
    "forces",
    "stress",
    "density",
    "density_on_points",
    "density_matrix",
    "band_gap",
)


def default_objectives(records: Sequence[Record], calculator: NNXCCalculator) -> list[Objective]:
    """Return the objectives of a run whose file names none, each with the weight 1 and the norm "l2".

    They are those of `_DEFAULT_OBJECTIVES` that read a target of some record; energies of several structures count as
    differences, and lattice constant and bulk modulus only if they are targets themselves. Densities are compared only
    if all can be. If no objective reads a record that has energies, all energies are compared per atom, too.
    """
    chosen: list[Objective] = []
    for name in _DEFAULT_OBJECTIVES:
        objective = OBJECTIVES[name]()
        needed = {"lattice_constant": "volume", "bulk_modulus": "bulk_modulus"}.get(name)
        reading = [r for r in records if objective.applies(r) and (needed is None or needed in r.targets)]
        obstructed = name == "density" and any(objective.obstacle(r, calculator) is not None for r in reading)
        if reading and not obstructed:
            chosen.append(objective)
    unread = [record for record in records if not any(objective.applies(record) for objective in chosen)]
    if any("energy" in record.targets for record in unread):
        chosen.append(OBJECTIVES["energy_per_atom"]())
    return chosen


def _by_name(key: str, chosen: Chosen, known: Collection[str]) -> dict[str, Any]:
    """Objectives or penalties as a mapping of their names to weights or arguments; None stands for the defaults."""
    if isinstance(chosen, str):
        chosen = [chosen]
    if is_list(chosen):
        sequence(one_of(known), least=1)(chosen, key)
        if len(set(chosen)) < len(chosen):
            raise InputError(f"{key}: a name is given twice in {', '.join(chosen)}")
        return dict.fromkeys(chosen)
    assert isinstance(chosen, Mapping)
    check_keys(chosen, known, key)
    return dict(chosen)


def _arguments(value: Any) -> dict[str, Any]:
    """Arguments of an objective or a penalty: none, a weight, or a mapping."""
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"weight": value}


def objectives_from(chosen: Chosen) -> list[Objective]:
    """Return the objectives that a configuration names.

    Raises
    ------
    InputError
        If a name, a weight or a norm is not valid, or if there is no objective.
    """
    objectives = []
    for name, value in _by_name("objectives", chosen, OBJECTIVES).items():
        arguments = _arguments(value)
        mapping({"weight": weight, "norm": one_of(NORMS)})(arguments, f"objectives.{name}")
        objectives.append(OBJECTIVES[name](**arguments))
    if not objectives:
        raise InputError("objectives: none is given, as in objectives: {energy_differences: 1e4}; leave the key out")
    return objectives


def penalties_from(chosen: Chosen, functional: Functional, base: Path) -> list[Penalty]:
    """Return the penalties that a configuration names.

    Parameters
    ----------
    chosen : str, list or mapping
        Names with weights, by default 1, or arguments.
    functional : Functional
        The functional that is trained.
    base : Path
        Folder that paths of checkpoints are relative to.

    Raises
    ------
    InputError
        If a name or an argument is not valid.
    """
    penalties: list[Penalty] = []
    for name, value in _by_name("penalties", chosen, PENALTIES).items():
        arguments, path = _arguments(value), f"penalties.{name}"
        checks: dict[str, Check] = {"weight": weight}
        if name == "functional_anchor":
            checks["parent"] = anything
            if arguments.get("parent") is None:
                check_keys(arguments, checks, path)
                raise InputError(f"{path}: parent is missing, as in {{functional_anchor: {{parent: PBE, weight: 1}}}}")
        mapping(checks)(arguments, path)
        penalties.append(_penalty(name, {"weight": 1.0, **arguments}, functional, path, base))
    return penalties


def _penalty(name: str, arguments: Mapping[str, Any], functional: Functional, path: str, base: Path) -> Penalty:
    factor = arguments["weight"]
    if name == "parameter_anchor":
        return ParameterAnchor(functional, factor)
    if name == "functional_anchor":
        parent = functional_from(arguments["parent"], f"{path}.parent", base)
        try:
            return FunctionalAnchor(parent, factor)
        except ValueError as error:
            raise InputError(f"{path}.parent: {error}") from error
    penalty: Penalty = PENALTIES[name](factor)
    return penalty

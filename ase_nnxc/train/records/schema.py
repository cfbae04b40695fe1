"""The schema of records: what plain data of a record may contain, whatever kind of file they come from."""

from collections.abc import Mapping
from typing import Any

from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from ..schema import (
    Check,
    anything,
    check_keys,
    flag,
    integer,
    mapping,
    mapping_of,
    number,
    of_type,
    one_of,
    sequence,
    string,
    text,
    vectors,
)
from ..targets import TARGETS

LONGEST = 1e6
"""Largest coordinate and component of a cell vector, Angstrom."""

FORMAT, VERSION = "ase_nnxc-records", 1

ELEMENTS = tuple(symbol for symbol in atomic_numbers if symbol != "X")

check_provenance: Check = mapping(
    {
        "code": string,
        "functional": string,
        "tables": mapping_of(one_of(ELEMENTS), text),
        "settings": mapping_of(text, anything),
    }
)
"""Check of the plain data of a `Provenance`."""


def check_structure(data: Any, path: str) -> None:
    """Check the plain data of a structure: numbers (n,) and positions (n, 3), Angstrom.

    It may have cell (3, 3), Angstrom, pbc (3,) and magmoms (n,), Bohr magnetons.
    """
    known: dict[str, Check] = {"numbers": sequence(integer(1, 118), least=1), "cell": vectors(3, LONGEST)}
    known["pbc"] = sequence(flag, 3)
    mapping(known | {"positions": anything, "magmoms": anything}, ("numbers", "positions"))(data, path)
    natoms = len(data["numbers"])
    vectors(natoms, LONGEST)(data["positions"], f"{path}.positions")
    if "magmoms" in data:
        sequence(number(), natoms)(data["magmoms"], f"{path}.magmoms")


def check_coefficients(value: Any, path: str) -> None:
    """Check coefficients of a reaction: a list of finite numbers, or None."""
    if value is not None:
        sequence(number(), least=1)(value, path)


check_calculator: Check = one_of(("nnxc", "nnxc-pyscf"))
"""Check of the name of the calculator of a record."""


_RECORD: dict[str, Check] = {
    "name": text,
    "structures": sequence(check_structure, least=1),
    "targets": mapping(dict.fromkeys(TARGETS, anything)),  # `target_from_data` checks the values
    "coefficients": check_coefficients,
    "provenance": check_provenance,
    "settings": lambda value, path: None if value is None else sequence(mapping_of(text, anything))(value, path),
    "calculator": check_calculator,
}

check_record: Check = mapping(_RECORD, ("name", "structures", "targets"))
"""Check of the plain data of a `Record`, except the values of targets and settings, which `Record` checks."""


def check_units(value: Any, path: str) -> None:
    """Check that the units of targets, or the unit of energies, are those of this package; there is no conversion."""
    if isinstance(value, str):
        one_of(["eV"])(value, path)
        return
    if not isinstance(value, Mapping):
        raise InputError(f"{path}={value!r}: expected a mapping of targets to their units")
    check_keys(value, TARGETS, path)
    for target, unit in value.items():
        if unit != TARGETS[target]:
            raise InputError(f"{path}.{target}={unit!r}: expected {TARGETS[target]!r}; convert the numbers to it")


def check_file(data: Any) -> None:
    """Check the content of a JSON file of records, except the records themselves (`check_record`).

    Raises
    ------
    InputError
        With the path of the wrong value, such as "units.energy".
    """
    one_of([FORMAT])(data.get("format"), "format")
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise InputError(f"version {data.get('version')!r} of the format, expected {VERSION}")
    known: dict[str, Check] = {"format": text, "version": anything, "units": check_units}
    mapping(known | {"records": of_type(list)}, ("records",))(data, "")

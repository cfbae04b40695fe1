"""Checks of plain data: each names the path of a wrong value, states what is allowed, and gives the closest match.

A `Check` is a function of a value and its path, such as "records[0].structures[1].cell", which raises an InputError.
The functions here return checks; a schema is a nested call of them. jsonschema and pydantic are not used because both
need compiled packages (rpds-py, pydantic-core), and because the shapes of targets depend on the structures beside them.

This module does not load torch.
"""

import difflib
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import InputError

Check = Callable[[Any, str], None]

LARGEST_DEPTH = 20
"""Largest depth of nested lists and mappings."""


def closest(name: object, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return a question that names the closest match, to append to a message; empty if nothing is close."""
    matches = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def fail(path: str, value: object, expected: str) -> None:
    """Raise the InputError of a wrong value."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    raise InputError(f"{path}={text if len(text) <= 60 else text[:57] + '...'}: {expected}")


# ---- single values ---------------------------------------------------------------------------------------------------


def is_number(value: object) -> bool:
    """Whether a value is a finite real number and not a bool."""
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False


def is_integer(value: object) -> bool:
    """Whether a value is an integer and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def number(
    least: float = -math.inf, most: float = math.inf, above: float = -math.inf, below: float = math.inf, hint: str = ""
) -> Check:
    """Return a check of a finite number with ``least <= x <= most`` and ``above < x < below``.

    The message for an infinite number ends with the hint what to write instead.
    """
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(limit)
    ]
    expected = f"must be a number, {' and '.join(limits)}" if limits else "must be a finite number"

    def check(value: Any, path: str) -> None:
        if not (is_number(value) and least <= value <= most and above < value < below):
            is_infinite = isinstance(value, float) and math.isinf(value)
            fail(path, value, f"{expected}; {hint}" if hint and is_infinite else expected)

    return check


def integer(least: int, most: int = 2**63 - 1) -> Check:
    """Return a check of an integer from `least` to `most`."""
    limits = f"at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"

    def check(value: Any, path: str) -> None:
        if not (is_integer(value) and least <= value <= most):
            fail(path, value, f"must be an integer, {limits}")

    return check


def text(value: Any, path: str) -> None:
    """Check that a value is a string that is not empty and has no null character, which no path can have."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        fail(path, value, "expected a string that is not empty")


def string(value: Any, path: str) -> None:
    """Check that a value is a string."""
    if not isinstance(value, str):
        fail(path, value, "expected a string")


def flag(value: Any, path: str) -> None:
    """Check that a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        fail(path, value, "expected true or false")


def of_type(*types: type) -> Check:
    """Return a check of the type of a value: str, list or dict."""
    names: dict[type, str] = {str: "a string", list: "a list", dict: "a mapping"}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, types):
            fail(path, value, f"expected {' or '.join(names[t] for t in types)}")

    return check


def one_of(names: Collection[str]) -> Check:
    """Return a check of a string that is one of `names`."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or value not in names:
            fail(path, value, f"must be one of {', '.join(names)}{closest(value, names)}")

    return check


weight: Check = number(least=0, most=1e15)
"""Check of a weight of a loss: a number that is finite and not negative."""


def anything(value: Any, path: str) -> None:
    """Accept any value."""


def optional(check: Check) -> Check:
    """Return a check that accepts None beside the values of another check."""
    return lambda value, path: None if value is None else check(value, path)


# ---- lists and mappings ----------------------------------------------------------------------------------------------


def is_list(value: object) -> bool:
    """Whether a value is a list, a tuple or an array with at least one axis."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def sequence(check: Check, count: int | None = None, least: int = 0) -> Check:
    """Return a check of a list whose items pass `check`, with `count` items or at least `least`."""
    items = f"{count} items" if count is not None else f"at least {least} items"

    def check_items(value: Any, path: str) -> None:
        if not is_list(value):
            fail(path, value, "expected a list" + (f" of {items}" if count is not None or least else ""))
        if (len(value) != count) if count is not None else (len(value) < least):
            raise InputError(f"{path}: expected {items}, got {len(value)}")
        for i, item in enumerate(value):
            check(item, f"{path}[{i}]")

    return check_items


def vectors(count: int, most: float) -> Check:
    """Return a check of `count` vectors of three numbers with absolute values of at most `most`."""
    one_by_one = sequence(sequence(number(-most, most), 3), count)

    def check(value: Any, path: str) -> None:
        try:
            types = {type(x) for vector in value for x in vector}
            array = np.array(value) if types <= {int, float} else None
        except (TypeError, ValueError):
            array = None
        # the fast way for valid vectors; the other one finds the path of the wrong value
        if array is None or array.dtype.kind not in "if" or array.shape != (count, 3) or not (abs(array) <= most).all():
            one_by_one(value, path)

    return check


def mapping(known: Mapping[str, Check], required: Collection[str] = ()) -> Check:
    """Return a check of a mapping with the keys in `known`, which pass their checks; those in `required` must exist."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            fail(path, value, "expected a mapping")
        check_keys(value, known, path)
        for key in required:
            if key not in value:
                raise InputError(f"{_key(path, key)} is missing")
        for key, item in value.items():
            known[key](item, _key(path, key))

    return check


def mapping_of(names: Check, values: Check) -> Check:
    """Return a check of a mapping whose keys and values pass these checks."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            fail(path, value, "expected a mapping")
        for key, item in value.items():
            names(key, f"key of {path}")
            values(item, _key(path, key))

    return check


def check_keys(data: Mapping[Any, Any], known: Collection[str], path: str = "") -> None:
    """Raise an InputError if a mapping has a key that is not known."""
    for key in data:
        if key not in known:
            raise InputError(
                f"unknown key {_key(path, key)}{closest(key, known)} (known keys: {', '.join(sorted(known))})"
            )


def finite(value: Any, path: str, depth: int = 0) -> None:
    """Check that plain data contain finite numbers only, and that their depth is at most `LARGEST_DEPTH`."""
    if depth > LARGEST_DEPTH:
        raise InputError(f"{path}: more than {LARGEST_DEPTH} nested lists and mappings")
    if isinstance(value, Mapping):
        for key, item in value.items():
            finite(item, _key(path, key), depth + 1)
    elif is_list(value):
        for i, item in enumerate(value):
            finite(item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value):
        fail(path, value, "must be a finite number")


def not_numbers(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and value of all that is not a number in an array or in nested lists; bool is not a number."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iuf":
            yield path, value.tolist()
    elif is_list(value):
        if {type(item) for item in value} <= {int, float}:
            return
        for i, item in enumerate(value):
            yield from not_numbers(item, f"{path}[{i}]")
    elif not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        yield path, value


def _key(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


# ---- files and folders -----------------------------------------------------------------------------------------------


def path_from(key: str, given: str, base: Path) -> Path:
    """Return the path that a key has, relative to the folder of a configuration."""
    try:
        return base / Path(given).expanduser()
    except RuntimeError as error:
        raise InputError(f"{key}={given!r}: there is no such home folder") from error


def writable_file(value: Path, path: str, allowed: str = "a file") -> None:
    """Check that a file can be written, into a folder that exists. Nothing is written."""
    if not value.parent.is_dir() or (value.exists() and not value.is_file()):
        fail(path, str(value), f"expected {allowed} in a folder that exists")
    writable_folder(value.parent, path)


def writable_folder(value: Path, path: str) -> None:
    """Check that a folder exists and can be written, or that it can be created. Nothing is created."""
    try:
        existing = next(folder for folder in (value, *value.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise InputError(f"{path}={str(value)!r}: {existing} is not a folder")
        with tempfile.TemporaryFile(dir=existing):
            return
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}={str(value)!r} cannot be written: {reason}. Choose another folder") from error

"""Architectures: classes of functionals by name and version, and functionals as plain data."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from .functional import Functional

_Class = TypeVar("_Class", bound=type[Functional])
_ELSEWHERE = {"libxc": "ase_nnxc.interop.libxc"}  # modules that register others, and are not imported here
_classes: dict[tuple[str, int], type[Functional]] = {}
_keys: dict[type[Functional], tuple[str, int]] = {}


class UnknownArchitecture(LookupError):
    """No class is registered under a name and version."""


def register_architecture(name: str, version: int) -> Callable[[_Class], _Class]:
    """Return a class decorator that registers a class of functionals, so that checkpoints can hold them.

    `cls(**config)` must make the same functional from what its method `config()` returns, a dict of plain data
    (numbers, strings, lists, dicts, None); everything else that it computes with is in its parameters and buffers. The
    version must be raised whenever the same config and tensors would give other numbers than before.

    Parameters
    ----------
    name : str
        Name of the architecture, as in the cards of checkpoints.
    version : int
        Version of the architecture, from 1.

    Raises
    ------
    ValueError
        If another class is registered with this name and version.
    """

    def register(cls: _Class) -> _Class:
        known = _classes.get((name, version))
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            class_name = f"{known.__module__}.{known.__qualname__}"
            raise ValueError(f"architecture {name!r} version {version} is already registered, by {class_name}")
        _classes[name, version] = cls
        _keys[cls] = (name, version)
        return cls

    return register


def architecture_names() -> list[str]:
    """Return the names of the registered architectures."""
    return sorted({name for name, _ in _classes})


def find_architecture(name: str, version: int | None = None) -> tuple[str, int, type[Functional]] | None:
    """Return the registered name, the version and the class of an architecture; None if it is not registered.

    Parameters
    ----------
    name : str
        Registered name or name of the class, in upper or lower case, with or without "-" and "_".
    version : int, optional
        Version of the architecture. Default: the newest.
    """
    wanted = _plain_name(name)
    found = [
        (known, number, cls)
        for (known, number), cls in _classes.items()
        if wanted in (_plain_name(known), _plain_name(cls.__name__)) and version in (None, number)
    ]
    return max(found, key=lambda item: item[1], default=None)


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def describe(functional: Functional) -> dict[str, Any]:
    """Return a functional as plain data without its tensors: architecture, version, config.

    Raises
    ------
    UnknownArchitecture
        If its class is not registered.
    """
    key = _keys.get(type(functional))
    if key is None:
        raise UnknownArchitecture(
            f"the class {type(functional).__qualname__} is not registered: decorate it with "
            '@register_architecture("name", version)'
        )
    return {"architecture": key[0], "version": key[1], "config": functional.config()}


def build(description: dict[str, Any]) -> Functional:
    """Return the functional of a description made by `describe`, with the tensors of its constructor.

    Raises
    ------
    UnknownArchitecture
        If no class is registered with this name and version; the message says what to import.
    """
    name, version = description["architecture"], description["version"]
    cls = _classes.get((name, version))
    if cls is None:
        versions = sorted(v for n, v in _classes if n == name)
        known = f"only registered with version {', '.join(map(str, versions))}" if versions else "not registered"
        if close := difflib.get_close_matches(str(name), {n for n, _ in _classes} - {name}, n=1):
            known += f" (did you mean {close[0]!r}?)"
        module = f"{_ELSEWHERE[name]}, which" if name in _ELSEWHERE else "the module that"
        raise UnknownArchitecture(
            f"architecture {name!r} version {version} is {known}: import {module} defines it with "
            f'@register_architecture("{name}", {version})'
        )
    return cls(**description["config"])

"""Architectures: the classes of functionals that files may name, and functionals as plain data."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from .functional import Functional

_Class = TypeVar("_Class", bound=type[Functional])
_ELSEWHERE = {"libxc": "ase_nnxc.interop.libxc"}  # modules that register more, and are not imported here
_classes: dict[tuple[str, int], type[Functional]] = {}
_keys: dict[type[Functional], tuple[str, int]] = {}


class UnknownArchitecture(LookupError):
    """No class is registered under a name and version."""


def register_architecture(name: str, version: int) -> Callable[[_Class], _Class]:
    """Class decorator that lets checkpoints hold functionals of a class, and makes them again.

    The class must be made by `cls(**config)` from what its method `config()` returns, a dict of plain data (numbers,
    strings, lists, dicts, None); everything else that it computes with stands in its parameters and buffers.
    The version is raised whenever the same config and tensors would give other numbers than before.

    Parameters
    ----------
    name : str
        Of the architecture, as cards write it.
    version : int
        From 1.

    Raises
    ------
    ValueError
        If another class has this name and version.
    """

    def register(cls: _Class) -> _Class:
        known = _classes.get((name, version))
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"architecture {name!r} version {version} is already {known.__qualname__}")
        _classes[name, version] = cls
        _keys[cls] = (name, version)
        return cls

    return register


def describe(functional: Functional) -> dict[str, Any]:
    """A functional as plain data without its tensors: architecture, version, config.

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
    """The functional that `describe` described, with tensors as its constructor leaves them.

    Raises
    ------
    UnknownArchitecture
        If no class is registered for it.
    """
    name, version = description["architecture"], description["version"]
    cls = _classes.get((name, version))
    if cls is None:
        versions = sorted(v for n, v in _classes if n == name)
        known = f"only of version {', '.join(map(str, versions))}" if versions else "not registered"
        if close := difflib.get_close_matches(str(name), {n for n, _ in _classes} - {name}, n=1):
            known += f" (did you mean {close[0]!r}?)"
        module = f"{_ELSEWHERE[name]}, which" if name in _ELSEWHERE else "the module that"
        raise UnknownArchitecture(
            f"architecture {name!r} version {version} is {known}: import {module} defines it with "
            f'@register_architecture("{name}", {version})'
        )
    return cls(**description["config"])

"""Import paths of version 0.1.0's first modules: they work until the next release, with a DeprecationWarning."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MODULES = {
    "ase_nnxc.differentiable": "ase_nnxc.calculator.gradients",
    "ase_nnxc.electrons": "ase_nnxc.calculator.levels",
    "ase_nnxc.fit": "ase_nnxc.eos.birch_murnaghan",
    "ase_nnxc.interop.published": "ase_nnxc.interop.published_weights",
    "ase_nnxc.ks.differentiable": "ase_nnxc.ks.adjoint",
    "ase_nnxc.ks.pulay": "ase_nnxc.ks.pulay_stress",
    "ase_nnxc.pseudo_files": "ase_nnxc.pseudopotentials",
    "ase_nnxc.pseudos": "ase_nnxc.pseudopotentials",
    "ase_nnxc.report": "ase_nnxc.calculator.log",
    "ase_nnxc.restart": "ase_nnxc.calculator.restart",
    "ase_nnxc.xc.published": "ase_nnxc.xc.published_networks",
}
"""Module as it was called -> module that holds its public names."""


class _Finder(MetaPathFinder, Loader):
    """Finds modules by their former names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is now {MODULES[name]}", DeprecationWarning, stacklevel=2)
        sys.modules[name] = import_module(MODULES[name])


def install() -> None:
    """Let Python find modules by their former names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module, by which former names of it are still found.

    Parameters
    ----------
    module : str
        `__name__` of the module.
    names : mapping of str to str
        Former name -> "module:name" where it is now.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = names[name].partition(":")
        warnings.warn(f"{module}.{name} is now {place}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(place), new)

    return __getattr__

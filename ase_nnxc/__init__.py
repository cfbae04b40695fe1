"""Differentiable plane-wave Kohn-Sham density functional theory in PyTorch, behind an ASE calculator.

Importing the package is light: torch is loaded when something that needs it is first used. The import registers the
calculator in ASE under the name "nnxc", which `ase.calculators.calculator.get_calculator_class` then finds. A process
that ASE starts itself, as for `NamedPackedCalculator`, must import the package as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import external_calculators, register_calculator_class

from . import _moved

if TYPE_CHECKING:
    from .calculator import NNXCCalculator, PySCFCalculator
    from .checkpoints import list_models, load_functional, save_functional
    from .registry import get_functional
    from .xc import Feature, Functional, HybridXC, Sum, register_architecture, register_feature

__version__ = "0.1.0"

_HOME = {
    "Feature": "xc",
    "Functional": "xc",
    "HybridXC": "xc",
    "NNXCCalculator": "calculator",
    "PySCFCalculator": "calculator",
    "Sum": "xc",
    "get_functional": "registry",
    "list_models": "checkpoints",
    "load_functional": "checkpoints",
    "register_architecture": "xc",
    "register_feature": "xc",
    "save_functional": "checkpoints",
}

__all__ = [
    "Feature",
    "Functional",
    "HybridXC",
    "NNXCCalculator",
    "PySCFCalculator",
    "Sum",
    "__version__",
    "get_functional",
    "list_models",
    "load_functional",
    "register_architecture",
    "register_feature",
    "save_functional",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _calculator(*args: Any, **kwargs: Any) -> "NNXCCalculator":
    """Make an NNXCCalculator; ASE calls this for the name "nnxc"."""
    from .calculator import NNXCCalculator  # torch is loaded when the first calculator is made

    return NNXCCalculator(*args, **kwargs)


if "nnxc" not in external_calculators:  # it is there if the package is imported anew
    register_calculator_class("nnxc", _calculator)

_moved.install()

"""Differentiable plane-wave Kohn-Sham density functional theory in torch, behind an ASE calculator.

Importing the package is light: torch is loaded when `NNXCCalculator` is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calculator import NNXCCalculator

__all__ = ["NNXCCalculator", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "NNXCCalculator":
        from .calculator import NNXCCalculator

        return NNXCCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

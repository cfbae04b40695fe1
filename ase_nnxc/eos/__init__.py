"""Equations of state: scans of the volume that find the minimum of the free energy, and their fit.

Names are loaded when they are first used, because training needs the fit only, without the libraries of a scan.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
    from .plot import plot_eos
    from .points import Point
    from .result import EOSResult
    from .scan import ScanError, scan_eos

_HOME = {
    "BirchMurnaghan": "birch_murnaghan",
    "EOSResult": "result",
    "Point": "points",
    "ScanError": "scan",
    "fit_birch_murnaghan": "birch_murnaghan",
    "plot_eos": "plot",
    "scan_eos": "scan",
}

__all__ = ["BirchMurnaghan", "EOSResult", "Point", "ScanError", "fit_birch_murnaghan", "plot_eos", "scan_eos"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Conventional functionals by name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .xc import Functional

# name: the function or class of ase_nnxc.xc that makes it, and its arguments
_MAKERS = {
    "LDA": ("LDA",),
    "PBE": ("PBE",),
    "PBEsol": ("pbesol",),
    "RPBE": ("rpbe",),
    "revPBE": ("revpbe",),
    "SCAN": ("SCAN",),
    "r2SCAN": ("R2SCAN",),
    "LDA-PZ": ("LDA", "pz81"),
    "LDA-VWN": ("LDA", "vwn"),
}

CONVENTIONAL = tuple(_MAKERS)
"""Names of the conventional functionals."""


def find_conventional(name: str) -> str | None:
    """Return the usual spelling of a name in upper or lower case; None if it is not a conventional functional."""
    return next((known for known in CONVENTIONAL if known.lower() == name.lower()), None)


def make_conventional(name: str) -> "Functional":
    """Return the functional of a name of `CONVENTIONAL`."""
    from . import xc  # loads torch, which a list of names does not need

    maker, *arguments = _MAKERS[name]
    functional: Functional = getattr(xc, maker)(*arguments)
    return functional

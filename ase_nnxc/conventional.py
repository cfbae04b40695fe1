"""The conventional functionals in torch, by name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .xc import Functional

# name -> what of ase_nnxc.xc makes it, with its arguments
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
"""Their names."""


def find_conventional(name: str) -> str | None:
    """The name as it is written, of one in any case; None if it is no conventional functional."""
    return next((known for known in CONVENTIONAL if known.lower() == name.lower()), None)


def make_conventional(name: str) -> "Functional":
    """The functional of one of the names."""
    from . import xc  # late, so that torch loads when one is first asked for

    maker, *arguments = _MAKERS[name]
    functional: Functional = getattr(xc, maker)(*arguments)
    return functional

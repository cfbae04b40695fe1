"""Norm-conserving pseudopotentials: what they are, where they are found, and which one an element gets."""

from .choice import (
    Entry,
    check_family,
    default_valences,
    find_entry,
    find_pseudos,
    find_table,
    is_path,
    library,
    recommended_cutoff,
    spelled,
    table_digest,
)
from .files import read_pseudo
from .gth import GTH
from .protocol import Pseudopotential
from .tabulated import Tabulated

__all__ = [
    "GTH",
    "Entry",
    "Pseudopotential",
    "Tabulated",
    "check_family",
    "default_valences",
    "find_entry",
    "find_pseudos",
    "find_table",
    "is_path",
    "library",
    "read_pseudo",
    "recommended_cutoff",
    "spelled",
    "table_digest",
]

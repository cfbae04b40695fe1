"""Norm-conserving pseudopotentials: what they are, how they are read, and which one an element gets."""

from .choice import check_pseudos, default_valences, find_entry, find_pseudos, find_table, is_generated, plain_pseudos
from .cp2k_format import Entry
from .cutoffs import recommended_cutoff
from .families import check_family, is_family, library
from .files import RADIAL_CUTOFF, is_file_or_folder, read_pseudo
from .gth import GTH
from .oncv.generate import NAME as GENERATED
from .oncv.generate import generate
from .protocol import Pseudopotential, RecommendedCutoff
from .tabulated import Tabulated

__all__ = [
    "GENERATED",
    "GTH",
    "RADIAL_CUTOFF",
    "Entry",
    "Pseudopotential",
    "RecommendedCutoff",
    "Tabulated",
    "check_family",
    "check_pseudos",
    "default_valences",
    "find_entry",
    "find_pseudos",
    "find_table",
    "generate",
    "is_family",
    "is_file_or_folder",
    "is_generated",
    "library",
    "plain_pseudos",
    "read_pseudo",
    "recommended_cutoff",
]

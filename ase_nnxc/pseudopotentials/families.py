"""Families of GTH tables and where they are found.

Two files of PySCF hold GTH tables: GTH_POTENTIALS, whose families are called gth-pbe, gth-pade (= gth-lda), gth-blyp,
... here, and POTENTIAL_UZH, whose tables have the same names but other numbers and are therefore called uzh-pbe,
uzh-scan, uzh-pbe0 here. A file of this package adds gth-nlcc-pbe, with core corrections. A table is named by its family
and a valence, ``gth-pbe-q19``. PySCF itself is not imported: finding and reading a table takes milliseconds.
"""

import difflib
import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from ase.calculators.calculator import InputError

from .cp2k_format import Entry, read_entries, split_name

FILES = {"gth": "GTH_POTENTIALS", "uzh": "POTENTIAL_UZH"}  # of PySCF, by the prefix of their families


@cache
def library(prefix: str) -> Mapping[str, Mapping[str, Mapping[str, Entry]]]:
    """Index the tables whose names begin with a prefix.

    Parameters
    ----------
    prefix : str
        "gth" for GTH_POTENTIALS and the tables of this package, "uzh" for POTENTIAL_UZH.

    Returns
    -------
    mapping
        family ("gth-pbe") -> element -> valence ("q11", or "" for the family's alias) -> Entry.

    Raises
    ------
    ModuleNotFoundError
        If PySCF is not installed.
    """
    spec = importlib.util.find_spec("pyscf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("GTH tables are read from the data files of PySCF, but PySCF is not installed")
    folder = Path(spec.submodule_search_locations[0], "pbc", "gto", "pseudo")
    text = (folder / FILES[prefix]).read_text(encoding="utf-8")
    if prefix == "gth":
        text += "\n" + (files("ase_nnxc") / "data" / "GTH_NLCC_POTENTIALS").read_text(encoding="utf-8")
    index: dict[str, dict[str, dict[str, Entry]]] = {}
    for entry, names in read_entries(text, prefix):
        for name in names:
            family, valence = split_name(name)
            index.setdefault(family, {}).setdefault(entry.symbol, {})[valence] = entry
    return index


def tables_of_family(family: str) -> Mapping[str, Mapping[str, Entry]]:
    """Return the tables of a family: element -> valence ("q11", or "" for the alias) -> Entry.

    Raises
    ------
    InputError
        If there is no such family; the message names the closest one.
    """
    if family.split("-")[-1] in ("all", "allelectron"):
        raise InputError(
            f"{family!r}: ALLELECTRON entries are bare nuclei, too hard for plane waves; choose a pseudopotential"
        )
    prefix = family.split("-")[0]
    tables = library(prefix).get(family) if prefix in FILES else None
    if tables is None:
        known = sorted(name for p in FILES for name in library(p))
        closest = difflib.get_close_matches(family if "-" in family else f"gth-{family}", known, n=1)
        hint = f" (did you mean {closest[0]!r}?)" if closest else ""
        raise InputError(
            f"unknown pseudopotential family {family!r}{hint}; known families: {', '.join(known)}; "
            f"to name a folder, write {family + '/'!r}"
        )
    return tables


def check_family(family: str) -> None:
    """Raise InputError, which names the closest one, unless there is a family of this name ("gth-pbe")."""
    tables_of_family(family)


def is_family(family: str) -> bool:
    """Return whether there is a family of this name."""
    prefix = family.split("-")[0]
    return prefix in FILES and family in library(prefix)


def families_with(symbol: str) -> list[str]:
    """Names of all families that have a table for an element."""
    return sorted(family for prefix in FILES for family, tables in library(prefix).items() if symbol in tables)

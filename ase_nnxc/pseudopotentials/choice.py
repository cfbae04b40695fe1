"""Which pseudopotential an element gets: the `pseudos` of a user, default valences, other functionals' tables."""

import difflib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from ..xc.functional import Functional
from .cp2k_format import Entry, split_name
from .families import families_with, tables_of_family
from .files import RADIAL_CUTOFF, file_of_element, is_file_or_folder, read_pseudo
from .oncv.generate import NAME, generate
from .protocol import Pseudopotential


@cache
def default_valences() -> Mapping[str, Mapping[str, Any]]:
    """Return element -> {"valence": int, "reason": str}: the tables of a family without an alias."""
    return json.loads((files("ase_nnxc") / "data" / "valences.json").read_text(encoding="utf-8"))["elements"]


def find_entry(symbol: str, name: str) -> Entry:
    """Find the table of an element by the name of a family or of a table.

    Parameters
    ----------
    symbol : str
        Element.
    name : str
        "gth-pbe", "uzh-pbe", "gth-pbe-q11", ...; case does not matter. A family without a valence means CP2K's
        alias; where there is none, the shipped default valence (ase_nnxc/data/valences.json), or the only table.

    Raises
    ------
    InputError
        If the family, the element or the valence does not exist. The message names the closest family, the families
        that have the element, or the valences there are.
    """
    family, valence = split_name(name.lower())
    tables = tables_of_family(family).get(symbol)
    if tables is None:
        families = families_with(symbol)
        hint = f"families that have it: {', '.join(families)}" if families else "no family has it"
        raise InputError(f"no pseudopotential for {symbol!r} in {family!r}; {hint}")
    if valence:
        if valence not in tables:
            raise InputError(f"{symbol} has no table {name!r}; valences of {family}: {_valences(tables)}")
        return tables[valence]
    default = f"q{default_valences()[symbol]['valence']}" if symbol in default_valences() else ""
    for key in ("", default):
        if key in tables:
            return tables[key]
    if len(tables) == 1:
        return next(iter(tables.values()))
    raise InputError(f"{family!r} has several tables for {symbol}; add one of {_valences(tables)}, as in {family}-q..")


def _valences(tables: Mapping[str, Entry]) -> str:
    """List the valences of tables."""
    return ", ".join(sorted((s for s in tables if s), key=lambda s: int(re.sub(r"\D", "", s))))


def find_table(symbol: str, name: str, radial_cutoff: float = RADIAL_CUTOFF) -> Pseudopotential:
    """Find the pseudopotential of an element by its name or path.

    Parameters
    ----------
    symbol : str
        Element.
    name : str
        Name of a family or a table, or path of a file or folder.
    radial_cutoff : float
        Radius where the radial functions of a file end, bohr; see `read_pseudo`. GTH tables are analytic.

    Raises
    ------
    InputError
        As `find_entry` and `read_pseudo`, if the file is for another element, or if the folder does not have exactly
        one file for the element.
    """
    if not is_file_or_folder(name):
        return find_entry(symbol, name).read()
    path = file_of_element(symbol, Path(name)) if Path(name).is_dir() else name
    pseudopotential = read_pseudo(path, radial_cutoff)
    if pseudopotential.symbol != symbol:
        raise InputError(f"{pseudopotential.name} is a pseudopotential of {pseudopotential.symbol}, not of {symbol}")
    return pseudopotential


def plain_pseudos(pseudos: Any) -> Any:
    """Return what a user gave as `pseudos` with strings in place of path objects, still recognised as paths."""
    if isinstance(pseudos, Mapping):
        return {key: plain_pseudos(name) for key, name in pseudos.items()}
    if isinstance(pseudos, os.PathLike):
        path = os.fspath(pseudos)
        return path if is_file_or_folder(path) else os.path.join(os.curdir, path)
    return pseudos


def check_pseudos(pseudos: Any) -> None:
    """Check what a user gives as `pseudos`, without reading any table or file.

    Raises
    ------
    InputError
        Unless it is what `find_pseudos` accepts: the name of a table or a path, a mapping from elements (and "default")
        to these, or None; and all paths exist.
    """
    names = _by_element(pseudos)
    if not isinstance(names, Mapping):
        raise InputError(f"pseudos: expected a name, a path or a dict of these by element, got {pseudos!r}")
    for key, name in names.items():
        if key != "default" and key not in atomic_numbers:
            closest = difflib.get_close_matches(str(key).capitalize(), ["default", *atomic_numbers], n=1)
            hint = f" (did you mean {closest[0]!r}?)" if closest else ""
            raise InputError(f"pseudos: {key!r} is neither an element nor 'default'{hint}")
        if not isinstance(name, str):
            raise InputError(f"pseudos: expected the name of a table or a path for {key!r}, got {name!r}")
        if is_file_or_folder(name) and not Path(name).exists():
            raise InputError(f"pseudos: no file or folder {name!r}")


def _by_element(pseudos: Any) -> Any:
    """Return `pseudos` as a mapping from elements or "default" to names and paths, if it is valid."""
    pseudos = plain_pseudos(pseudos)
    if pseudos is None:
        return {}
    return {"default": pseudos} if isinstance(pseudos, str) else pseudos


def find_pseudos(
    symbols: Sequence[str],
    xc_family: str,
    pseudos: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    matching_family: str | None = None,
    xc: str | None = None,
    functional: Functional | None = None,
    functional_named: Callable[[str], Functional] | None = None,
    radial_cutoff: float = RADIAL_CUTOFF,
) -> dict[str, Pseudopotential]:
    """Find the pseudopotential of each element.

    Parameters
    ----------
    symbols : sequence of str
        Elements; repetitions are allowed.
    xc_family : str
        Family of the exchange-correlation functional: "pade" for LDA, "pbe" for PBE and its relatives.
    pseudos : None, str, PathLike or mapping
        None or "oncv": generated for `functional`, see `generate`. "oncv-PBE": generated for the functional of that
        name. A name: a family ("gth-pbe", "uzh-pbe") or a table ("gth-pbe-q18"). A path: a UPF or psp8 file, or a
        folder of files ELEMENT*.upf. A mapping: element -> name or path, and "default" -> one for all other elements.
    matching_family : str, optional
        Family of tables that match the functional as well as those of `xc_family`, such as "blyp".
    xc : str, optional
        Name of the functional in the warning; default: `xc_family`.
    functional : Functional, optional
        The exchange-correlation functional, for which "oncv" generates pseudopotentials.
    functional_named : callable, optional
        Function that returns the functional of a name, here PBE of "oncv-PBE".
    radial_cutoff : float
        Radius where the radial functions of files end, bohr; see `read_pseudo`. GTH tables are analytic.

    Returns
    -------
    dict
        element -> pseudopotential, in the order in which the elements first appear.

    Raises
    ------
    InputError
        If an element, family, valence, or key of the mapping is unknown, a file cannot be found or used, or a
        pseudopotential cannot be generated.

    Warns
    -----
    UserWarning
        Once, if pseudopotentials were generated for another functional.
    """
    check_pseudos(pseudos)
    names = _by_element(pseudos)
    tables: dict[str, Pseudopotential] = {}
    for symbol in dict.fromkeys(symbols):
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(f"unknown element {symbol!r}")
        name = names.get(symbol, names.get("default", NAME))
        if is_generated(name):
            tables[symbol] = generate(symbol, _functional_of(name, functional, functional_named), name)
        else:
            tables[symbol] = find_table(symbol, name, radial_cutoff)
    matching = {xc_family, matching_family} | ({"pbesol"} if "pbe" in (xc_family, matching_family) else set())
    found = [table for table in tables.values() if not is_generated(table.name)]
    mismatched = sorted({table.name for table in found if table.functional not in matching})
    if mismatched:
        warnings.warn(
            f"pseudopotentials {', '.join(mismatched)} were generated for a functional other than "
            f"{xc or xc_family.upper()}",
            stacklevel=2,
        )
    return tables


def is_generated(name: str) -> bool:
    """Whether this is a name of generated pseudopotentials: "oncv", or "oncv-PBE" and the like."""
    return name.lower() == NAME or name.lower().startswith(f"{NAME}-")


def _functional_of(
    name: str, functional: Functional | None, functional_named: Callable[[str], Functional] | None
) -> Functional:
    """Return the functional for which the pseudopotentials of a name are generated: that in use, or a named one."""
    if name.lower() != NAME:
        functional = functional_named(name[len(NAME) + 1 :]) if functional_named else None
    if functional is None:
        raise InputError(f"pseudos={name!r}: the functional to generate for is not given")
    return functional

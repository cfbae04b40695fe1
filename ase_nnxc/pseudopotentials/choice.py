"""Finds pseudopotentials, GTH tables by name and files by path, and hands them on as plain numbers.

Two files of PySCF hold GTH tables in CP2K's format (M. Krack, Theor. Chem. Acc. 114, 145 (2005), and their heads):
GTH_POTENTIALS, whose families are called gth-pbe, gth-pade (= gth-lda), gth-blyp, ... here, and POTENTIAL_UZH, whose
tables carry the same names with other numbers and are therefore called uzh-pbe, uzh-scan, uzh-pbe0 here. A file of this
package's own adds gth-nlcc-pbe, with core corrections. A table is a family with a valence, ``gth-pbe-q19``. PySCF
itself is not imported: finding and reading a table takes milliseconds.
"""

import difflib
import hashlib
import importlib.util
import json
import math
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from .files import SUFFIXES, read_pseudo
from .gth import GTH, Channel, GaussianCore
from .tabulated import Tabulated

_PREFIXES = ("gth", "uzh")
# "Cu GTH-PBE-q11 GTH-PBE": an element and its table's names at the head of an entry
_HEAD = re.compile(r"^[ \t]*([A-Z][a-z]?)[ \t]+((?:GTH-|ALL)\S*(?:[ \t]+\S+)*)[ \t]*$", re.MULTILINE)
_SUFFIX = re.compile(r"-(q\d+(?:_old)?)$")


@dataclass(frozen=True)
class Entry:
    """One table of a file, not yet read: element, name in this package ("uzh-pbe-q3"), and the lines after its head."""

    symbol: str
    name: str
    text: str

    @property
    def configuration(self) -> tuple[int, ...]:
        """Numbers of valence electrons in s, p, d, f."""
        return tuple(int(n) for n in self.text.split("\n", 1)[0].split())

    def read(self) -> GTH:
        """The numbers of the table, in Hartree atomic units.

        Raises
        ------
        InputError
            If the entry is damaged or has parts beyond the local, the separable one and a core density (spin-orbit).
        """
        words = iter(self.text.split("\n", 1)[1].split())
        try:
            rloc = float(next(words))
            cloc = tuple(float(next(words)) for _ in range(int(next(words))))
            core, word = None, next(words)
            if word == "NLCC":
                core, word = _read_core(words), next(words)
            channels = [_read_channel(angular, words) for angular in range(int(word))]
        except (StopIteration, RuntimeError, ValueError):
            raise InputError(f"the table {self.name} of {self.symbol} is damaged, or of an unknown form") from None
        rest = " ".join(words)
        if rest:
            raise InputError(
                f"the table {self.name} of {self.symbol} has parts that are not supported (spin-orbit coupling?), "
                f"beginning with {rest[:30]!r}"
            )
        return GTH(
            symbol=self.symbol,
            number=atomic_numbers[self.symbol],
            valence=sum(self.configuration),
            rloc=rloc,
            cloc=cloc,
            channels=tuple(c for c in channels if c.h),
            configuration=self.configuration,
            name=self.name,
            core=core,
        )


def _read_core(words: Iterator[str]) -> GaussianCore:
    """What follows on NLCC: one Gaussian, its radius, and 4 pi times its height."""
    one, radius, single, height = (next(words) for _ in range(4))
    if (one, single) != ("1", "1"):
        raise ValueError("a core density of one Gaussian is expected")
    return GaussianCore(radius=float(radius), height=float(height) / (4 * math.pi))


def _read_channel(angular: int, words: Iterator[str]) -> Channel:
    """A radius, the number n of projectors, and the upper triangle of h (n, n) row by row."""
    radius, n = float(next(words)), int(next(words))
    upper = {(i, j): float(next(words)) for i in range(n) for j in range(i, n)}
    h = tuple(tuple(upper[min(i, j), max(i, j)] for j in range(n)) for i in range(n))
    return Channel(l=angular, radius=radius, h=h)


@cache
def library(prefix: str) -> Mapping[str, Mapping[str, Mapping[str, Entry]]]:
    """Index of the tables whose names begin so.

    Parameters
    ----------
    prefix : str
        "gth" for GTH_POTENTIALS and the tables of this package, "uzh" for POTENTIAL_UZH.

    Returns
    -------
    mapping
        family ("gth-pbe") -> element -> valence ("q11", or "" for the family's alias) -> Entry. Placeholders ("NA") and
        bare nuclei (ALLELECTRON) are left out.
    """
    spec = importlib.util.find_spec("pyscf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the pseudopotentials are read from PySCF's data, and PySCF is not installed")
    folder = Path(spec.submodule_search_locations[0], "pbc", "gto", "pseudo")
    text = (folder / {"gth": "GTH_POTENTIALS", "uzh": "POTENTIAL_UZH"}[prefix]).read_text(encoding="utf-8")
    if prefix == "gth":
        text += "\n" + (files("ase_nnxc") / "data" / "GTH_NLCC_POTENTIALS").read_text(encoding="utf-8")
    text = re.sub(r"^[ \t]*#.*\n", "", text, flags=re.MULTILINE)
    heads = list(_HEAD.finditer(text))
    index: dict[str, dict[str, dict[str, Entry]]] = {}
    for head, end in zip(heads, [h.start() for h in heads[1:]] + [len(text)]):
        body = text[head.end() : end].strip()
        names = [prefix + name[3:] for name in head[2].lower().split()]
        if body == "NA" or head[2].startswith("ALL"):
            continue
        entry = Entry(symbol=head[1], name=names[0], text=body)
        for name in names:
            family, suffix = _split(name)
            index.setdefault(family, {}).setdefault(head[1], {})[suffix] = entry
    return index


def _split(name: str) -> tuple[str, str]:
    """("gth-pbe", "q11") of "gth-pbe-q11"; ("gth-pbe", "") of "gth-pbe"."""
    match = _SUFFIX.search(name)
    return (name[: match.start()], match[1]) if match else (name, "")


def _data(name: str) -> Any:
    """A JSON file of the package's data folder."""
    return json.loads((files("ase_nnxc") / "data" / name).read_text(encoding="utf-8"))


@cache
def default_valences() -> Mapping[str, Mapping[str, Any]]:
    """element -> {"valence": int, "reason": str}: the tables taken when the user names none."""
    return _data("valences.json")["elements"]


@cache
def _cutoffs() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """How ("measured" or "estimated") -> element -> table -> Hartree."""
    return _data("cutoffs.json")


def _family(name: str) -> Mapping[str, Mapping[str, Entry]]:
    """The tables of a family by element and valence; InputError with the closest name for an unknown one."""
    if name.split("-")[-1] in ("all", "allelectron"):
        raise InputError(
            f"{name!r}: ALLELECTRON entries are bare nuclei, too hard for plane waves; choose a pseudopotential"
        )
    prefix = name.split("-")[0]
    tables = library(prefix).get(name) if prefix in _PREFIXES else None
    if tables is None:
        known = sorted(family for p in _PREFIXES for family in library(p))
        closest = difflib.get_close_matches(name if "-" in name else f"gth-{name}", known, n=1)
        hint = f" (did you mean {closest[0]!r}?)" if closest else ""
        listed = f"known: {', '.join(known)}; a folder is written {name + '/'!r}"
        raise InputError(f"unknown pseudopotential family {name!r}{hint}; {listed}")
    return tables


def check_family(name: str) -> None:
    """InputError, with the closest name, unless there is a family of this name ("gth-pbe")."""
    _family(name)


def find_entry(symbol: str, name: str, prefer_default: bool = False) -> Entry:
    """The entry of an element by the name of a family or of a table.

    Parameters
    ----------
    symbol : str
        Element.
    name : str
        "gth-pbe", "uzh-pbe", "gth-pbe-q11", ...; capitals do not matter.
    prefer_default : bool
        What a family without a valence means first: the shipped default valence (True) or CP2K's alias (False). Where
        that does not exist: the other one, or the only table there is.

    Raises
    ------
    InputError
        Unknown family (closest match named), element (families that have it named) or valence (allowed ones named).
    """
    family, suffix = _split(name.lower())
    tables = _family(family).get(symbol)
    if tables is None:
        having = sorted(f for p in _PREFIXES for f, elements in library(p).items() if symbol in elements)
        where = f"families that have it: {', '.join(having)}" if having else "no family has it"
        raise InputError(f"no pseudopotential for {symbol!r} in {family!r}; {where}")
    if suffix:
        if suffix not in tables:
            raise InputError(f"{symbol} has no table {name!r}; valences of {family}: {_listed(tables)}")
        return tables[suffix]
    default = f"q{default_valences()[symbol]['valence']}" if symbol in default_valences() else ""
    for key in (default, "") if prefer_default else ("", default):
        if key in tables:
            return tables[key]
    if len(tables) == 1:
        return next(iter(tables.values()))
    raise InputError(f"{family!r} has several tables for {symbol}; name one of {_listed(tables)}, as in {family}-q..")


def _listed(tables: Mapping[str, Entry]) -> str:
    return ", ".join(sorted((s for s in tables if s), key=lambda s: int(re.sub(r"\D", "", s))))


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a file or a folder: it has a path separator, or a suffix of such files."""
    if isinstance(name, os.PathLike):
        return True
    return any(separator in name for separator in (os.sep, os.altsep or os.sep)) or name.lower().endswith(SUFFIXES)


def spelled(pseudos: Any) -> Any:
    """What a user gave as pseudos, paths as plain strings that are still known for paths."""
    if isinstance(pseudos, Mapping):
        return {key: spelled(name) for key, name in pseudos.items()}
    if isinstance(pseudos, os.PathLike):
        path = os.fspath(pseudos)
        return path if is_path(path) else os.path.join(os.curdir, path)
    return pseudos


def find_table(symbol: str, name: str) -> GTH | Tabulated:
    """The pseudopotential of an element by the name of a family or table, or the path of a file or folder.

    Raises
    ------
    InputError
        As `find_entry` and `read_pseudo`; if a file is one of another element, a folder has none or several of this.
    """
    if not is_path(name):
        return find_entry(symbol, name).read()
    table = read_pseudo(_file_of(symbol, Path(name)) if Path(name).is_dir() else name)
    if table.symbol != symbol:
        raise InputError(f"{table.name} is a pseudopotential of {table.symbol}, not of {symbol}")
    return table


def _file_of(symbol: str, folder: Path) -> Path:
    """The file ELEMENT*.upf (or .psp8) of a folder, whatever the case: Si.upf, si_pbe_v1.UPF, not Sn.upf for S."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    own = [p for p in files if re.match(rf"{symbol}(?![a-z])", p.name, re.IGNORECASE)]
    if len(own) == 1:
        return own[0]
    if own:
        raise InputError(
            f"{folder} has several files for {symbol}: {', '.join(p.name for p in own)}; name one, as in "
            f"pseudos={{{symbol!r}: {str(own[0])!r}}}"
        )
    there = ", ".join(p.name for p in files) or "no file of such a kind"
    raise InputError(f"{folder} has no {symbol}*.upf or {symbol}*.psp8; there is {there}")


def find_pseudos(
    symbols: Sequence[str],
    xc_family: str,
    pseudos: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    also: str | None = None,
    xc: str | None = None,
) -> dict[str, GTH | Tabulated]:
    """The pseudopotential of each element.

    Parameters
    ----------
    symbols : sequence of str
        Elements, repetitions allowed.
    xc_family : str
        Family of the exchange-correlation functional: "pade" for LDA, "pbe" for PBE and its relatives.
    pseudos : None, str, PathLike or mapping
        None: family gth-`xc_family` with the shipped default valences (ase_nnxc/data/valences.json). A name: a family
        ("gth-pbe", "uzh-pbe": CP2K's alias of each element) or a table ("gth-pbe-q18"). A path: a UPF or psp8 file, or
        a folder of files ELEMENT*.upf. A mapping: element -> name or path, and "default" -> one for the others.
    also : str, optional
        Another family of tables that suit the functional, such as "blyp": no warning about these.
    xc : str, optional
        What the warning calls the functional; default: `xc_family`.

    Returns
    -------
    dict
        element -> table, in the order in which the elements first appear.

    Raises
    ------
    InputError
        Unknown element, family, valence, or key of the mapping; a file that cannot be found or used.

    Warns
    -----
    UserWarning
        Once, if tables were made for another functional.
    """
    pseudos = spelled(pseudos)
    named: Any = {"default": pseudos} if isinstance(pseudos, str) else pseudos or {}
    _check(named)
    tables: dict[str, GTH | Tabulated] = {}
    for symbol in dict.fromkeys(symbols):
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(f"unknown element {symbol!r}")
        name = named.get(symbol, named.get("default"))
        default = f"gth-{xc_family}"
        tables[symbol] = find_entry(symbol, default, True).read() if name is None else find_table(symbol, name)
    foreign = sorted({t.name for t in tables.values() if not _made_for(_functional(t), {xc_family, also})})
    if foreign:
        warnings.warn(
            f"pseudopotentials {', '.join(foreign)} were made for another functional than {xc or xc_family.upper()}",
            stacklevel=2,
        )
    return tables


def _check(named: object) -> None:
    """InputError unless `named` maps elements (or "default") to names."""
    if not isinstance(named, Mapping):
        raise InputError(f"pseudos: a name, a path or a dict of these by element expected, got {named!r}")
    for key, name in named.items():
        if key != "default" and key not in atomic_numbers:
            closest = difflib.get_close_matches(str(key).capitalize(), ["default", *atomic_numbers], n=1)
            hint = f" (did you mean {closest[0]!r}?)" if closest else ""
            raise InputError(f"pseudos: {key!r} is neither an element nor 'default'{hint}")
        if not isinstance(name, str):
            raise InputError(f"pseudos: the name of a table or a path expected for {key!r}, got {name!r}")
        if is_path(name) and not Path(name).exists():
            raise InputError(f"pseudos: there is no file or folder {name!r}")


def _functional(table: GTH | Tabulated) -> str:
    """What a table was made for, such as "pbe"."""
    return table.functional if isinstance(table, Tabulated) else _split(table.name)[0].rsplit("-", 1)[1]


def _made_for(functional: str, families: Collection[str | None]) -> bool:
    """Whether tables for a functional belong to one of the families; those for PBEsol go with the PBE family."""
    return functional in families or (functional == "pbesol" and "pbe" in families)


def recommended_cutoff(table: GTH | Tabulated) -> tuple[float, Literal["measured", "estimated", "of the file"]]:
    """Cutoff of the plane waves in Hartree that converges a lattice constant to 0.1 %, and how it is known.

    The numbers stand in ase_nnxc/data/cutoffs.json. "measured": lattice constants were computed. "estimated", for all
    other tables: the cutoff at which the truncation error of the pseudo-atom's energy falls below a threshold common to
    all tables, computed by benchmarks/estimate_cutoffs.py, where formula and calibration are stated. "of the file": a
    UPF file says so itself, in its attribute wfc_cutoff; of what accuracy is its author's matter.

    Raises
    ------
    InputError
        If the table is in neither list, or the file recommends none.
    """
    if isinstance(table, Tabulated):
        if table.ecut is None:
            raise InputError(f"{table.name} recommends no cutoff: give ecut")
        return table.ecut, "of the file"
    how: Literal["measured", "estimated"]
    for how in ("measured", "estimated"):
        cutoff = _cutoffs()[how].get(table.symbol, {}).get(table.name)
        if cutoff is not None:
            return float(cutoff), how
    raise InputError(f"no recommended cutoff for the table {table.name} of {table.symbol}: give ecut")


def table_digest(table: GTH | Tabulated) -> str:
    """sha256 of a table's numbers (not of its name), hexadecimal: two tables of one digest are the same potential."""
    if isinstance(table, Tabulated):
        return table.digest
    channels = [[c.l, c.radius, c.h] for c in table.channels]
    numbers = [table.number, table.valence, table.rloc, table.cloc, channels]
    if table.core is not None:
        numbers.append([table.core.radius, table.core.height])
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()

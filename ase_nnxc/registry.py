"""Functionals by name, and the exact names of functionals."""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.calculators.calculator import InputError

from .checkpoints import (
    find_model,
    is_checkpoint_path,
    is_libxc_name,
    is_unchanged,
    list_models,
    load_functional,
    model_roots,
)
from .conventional import CONVENTIONAL, find_conventional, make_conventional
from .pseudopotentials import is_generated
from .xc import Functional, HybridXC, Sum, UnknownArchitecture, describe
from .xc.functional import check_functional
from .xc.identity import functional_digest

# "name" or "coefficient*name", followed by "+" or the end; the coefficient is a decimal number
_TERM = re.compile(
    r"\s*(?:(?P<coefficient>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*)?(?P<name>[^\s*+]+)\s*(?P<more>\+|\Z)"
)

# Functionals that GTH tables were made for, by the architectures or libxc's names of their parts, and the names of the
# tables. Names of other functionals are those of the tables: "blyp", "scan".
_FAMILIES = {
    "b88+lyp": "blyp",
    "b88+p86": "bp",
    "bp86": "bp",
    "lyp+optx": "olyp",
    "hcth_120": "hcth120",
    "hcth_407": "hcth407",
    "scan+scan": "scan",
    "r2scan": "scan",
    "r2scan+r2scan": "scan",
}


@dataclass(frozen=True)
class Resolved:
    """A functional, and its exact name.

    Attributes
    ----------
    functional : Functional
        The functional.
    xc : str or Functional
        Argument of `resolve` that gives the same functional again, later and elsewhere: names with their versions, or
        the object.
    """

    functional: Functional
    xc: str | Functional
    _text: str = ""

    def describe(self) -> str:
        """Return a text for readers: names with versions and hashes, or class, size and digest of an object."""
        return self._text or _describe_object(self.functional)

    def fingerprint(self) -> str:
        """Return a text that changes whenever the tensors, the config() or the repr of an object change."""
        return self._text or functional_digest(self.functional)


def get_functional(xc: str | os.PathLike[str] | Functional) -> Functional:
    """Return the functional of a name; a functional object is returned as it is.

    Parameters
    ----------
    xc : str, PathLike or Functional
        A name: a conventional functional of this package ("LDA", "PBE", "r2SCAN" ...), a neural one ("pbe-clone",
        "pbe-clone@1"), or one of libxc or PySCF ("gga_x_b88", "BLYP"), in upper or lower case, searched for in this
        order; terms joined by "+", each a name or coefficient*name; the path of a checkpoint (a PathLike or a string
        with a path separator); or an object.

    Raises
    ------
    InputError
        If there is no such functional, if a name is ambiguous, if the functional cannot be used (see
        `check_functional`), or if it is not the sum of one exchange and one correlation.
    """
    return resolve(xc).functional


def resolve(xc: str | os.PathLike[str] | Functional) -> Resolved:
    """Return the functional of a name, as `get_functional` does, together with its exact name."""
    resolved = _checked(xc)
    kind = resolved.functional.kind
    if kind != "xc":
        raise InputError(f"xc={xc if isinstance(xc, str) else resolved.describe()} is {_INCOMPLETE[kind]}")
    return resolved


def get_part(xc: str | os.PathLike[str] | Functional) -> Functional:
    """Return the functional of a name, as `get_functional` does; it may be exchange or correlation only."""
    return _checked(xc).functional


def _checked(xc: str | os.PathLike[str] | Functional) -> Resolved:
    """As `resolve`, of any kind."""
    with torch.inference_mode(False):  # tensors made in inference mode could not be differentiated later
        resolved = _resolve(xc)
        try:
            check_functional(resolved.functional)
        except ValueError as error:
            raise InputError(f"xc: {error}") from error
    return resolved


def _resolve(xc: str | os.PathLike[str] | Functional) -> Resolved:
    """As `resolve`, without a check of the functional."""
    if isinstance(xc, Functional):
        return Resolved(xc, xc)
    if not isinstance(xc, str | os.PathLike):
        raise InputError(f"xc={xc!r}: expected a name ({_known()}), a path or a Functional object")
    if isinstance(xc, str) and not is_checkpoint_path(xc):
        return _resolve_terms(xc)
    return _resolve_model(xc)


_INCOMPLETE = {
    "x": "exchange only: add a correlation with '+', as in 'gga_x_pbe+gga_c_pbe'",
    "c": "correlation only: add an exchange with '+', as in 'gga_x_pbe+gga_c_pbe'",
    "correction": "a correction to another functional: add that functional with '+'",
}


def pseudo_family(functional: Functional) -> str:
    """Return the family of GTH tables that suits a functional and draws no warning, such as "pbe".

    It is that of its card, if this names one, or that of its parts if they agree. Otherwise it is "pade" for a
    functional of the density only, and "pbe" for all others, whose tables exist for most elements and have measured
    cutoffs.
    """
    pseudos = None if functional.card is None else functional.card["pseudos"]
    if pseudos is not None and not is_generated(pseudos):
        return str(pseudos).split("-")[-1]
    if isinstance(functional, Sum | HybridXC):
        families = {pseudo_family(part) for part in functional.parts}
        if len(families) == 1:
            return families.pop()
    return "pade" if set(functional.features) == {"density"} else "pbe"


def named_family(functional: Functional) -> str | None:
    """Return the family of tables named after a functional, such as "blyp" or "scan"; None if it has no name."""
    try:
        names = list(_part_names(describe(functional)))
    except UnknownArchitecture:
        return None
    joined = "+".join(sorted(re.sub(r"^(lda|gga|mgga)_(xc|x|c)_", "", name) for name in names))
    return _FAMILIES.get(joined, joined)


def _part_names(description: dict[str, Any]) -> Iterator[str]:
    """Architectures, or libxc's names, of the terms of a functional."""
    architecture, config = description["architecture"], description["config"]
    if architecture == "sum":
        for _, part in config["terms"]:
            yield from _part_names(part)
    else:
        yield config["name"] if architecture == "libxc" else architecture


# ---- parsing --------------------------------------------------------------------------------------------------------


def _resolve_terms(text: str) -> Resolved:
    """A name, or names with coefficients joined by "+"."""
    terms = [(coefficient, _resolve_name(name)) for coefficient, name in list(_split(text))]
    if len(terms) == 1 and terms[0][0] is None:
        return terms[0][1]
    try:
        functional = Sum([(float(coefficient or 1), term.functional) for coefficient, term in terms])
    except ValueError as error:
        raise InputError(f"xc={text!r}: {error}") from error
    prefixes = [f"{coefficient}*" if coefficient else "" for coefficient, _ in terms]
    return Resolved(
        functional,
        "+".join(f"{prefix}{term.xc}" for prefix, (_, term) in zip(prefixes, terms)),
        " + ".join(f"{prefix}{term.describe()}" for prefix, (_, term) in zip(prefixes, terms)),
    )


def _split(text: str) -> Iterator[tuple[str | None, str]]:
    """The coefficient, or None, and the name of each term."""
    position, more = 0, "+"
    while more:
        match = _TERM.match(text, position)
        if match is None:
            raise InputError(
                f"xc={text!r} cannot be parsed: expected terms joined by '+', each a name or coefficient*name, where a "
                f"coefficient may be negative (names: {_known()})"
            )
        yield match["coefficient"], match["name"]
        position, more = match.end(), match["more"]


def _resolve_name(name: str) -> Resolved:
    """One functional by name: conventional ones first, libxc last, which takes half a second to load."""
    base, at, _ = name.lower().partition("@")
    conventional = find_conventional(base)
    if conventional is not None:
        if at:
            raise InputError(f"xc={name!r}: {conventional} is a conventional functional, which has no versions")
        return Resolved(make_conventional(conventional), conventional, conventional)
    folder = None if at else find_model(base)
    if folder is not None and folder.parent != model_roots()[0].folder and is_libxc_name(base):
        raise InputError(f"xc={name!r} is ambiguous, a functional of libxc or PySCF and a model: write {folder.name!r}")
    if at or folder is not None:
        return _resolve_model(name.lower())
    return _resolve_libxc(name)


def _resolve_model(name_or_path: str | os.PathLike[str]) -> Resolved:
    """A checkpoint, by its name or the path of its folder."""
    functional = load_functional(name_or_path)
    card = functional.card or {}
    name = f"{card['name']}@{card['version']}"
    text = f"{name} (sha256 {card['sha256'][:12]})"
    if not is_checkpoint_path(name_or_path):
        return Resolved(functional, name, text)
    path = str(Path(name_or_path).expanduser().resolve())
    return Resolved(functional, path, f"{text} of {path}")


def _resolve_libxc(name: str) -> Resolved:
    """A functional by its name in libxc or PySCF."""
    from .interop.libxc import Libxc, UnknownFunctional, libxc_names  # loads PySCF

    try:
        return Resolved(Libxc(name), name.lower(), f"{name.lower()} (libxc)")
    except UnknownFunctional as error:
        spelling = {known.lower(): known for known in (*libxc_names(), *_names())}
        close = difflib.get_close_matches(name.lower(), spelling, n=1)
        hint = f"; did you mean {spelling[close[0]]!r}?" if close else ""
        raise InputError(f"unknown functional xc={name!r}: expected one of {_known()}{hint}") from error
    except ValueError as error:
        raise InputError(f"xc: {error}") from error


# ---- names ----------------------------------------------------------------------------------------------------------


def _names() -> list[str]:
    """Names of conventional functionals and of models."""
    return [*CONVENTIONAL, *dict.fromkeys(model.name for model in list_models())]


def _known() -> str:
    """The names for messages."""
    return f"{', '.join(_names())} and those of libxc"


def _describe_object(functional: Functional) -> str:
    """Name, version and hash of a model that was not changed; otherwise class, number of parameters and digest."""
    card = functional.card
    if card is not None and is_unchanged(functional):
        return f"{card['name']}@{card['version']} (sha256 {card['sha256'][:12]})"
    count = sum(parameter.numel() for parameter in functional.parameters())
    return f"{type(functional).__qualname__}, {count} parameters (digest {functional_digest(functional)[:12]})"

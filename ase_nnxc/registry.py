"""Names of functionals: the only place that knows them."""

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ase.calculators.calculator import InputError

from .checkpoints import find_model, is_path, list_models, load_functional

if TYPE_CHECKING:
    from .xc import Functional

# "name" or "coefficient*name", the coefficient a decimal number
_TERM = re.compile(r"\s*(?:(?P<coefficient>-?(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)\s*\*\s*)?(?P<name>[^\s*]+)\s*")


@dataclass(frozen=True)
class Resolved:
    """A functional, and how to call it.

    Attributes
    ----------
    functional : Functional
        The functional.
    xc : str or Functional
        What `resolve` makes the same of again, later and elsewhere: names with their versions, or the object.
    """

    functional: "Functional"
    xc: "str | Functional"
    _text: str = ""

    def describe(self) -> str:
        """For readers: names with versions and hashes; of an object its class, its numbers, a digest of its tensors."""
        return self._text or _describe_object(self.functional)


def get_functional(xc: "str | os.PathLike[str] | Functional") -> "Functional":
    """The functional of a name; a functional object is handed back as it is.

    Parameters
    ----------
    xc : str, PathLike or Functional
        A name: a conventional functional of this package ("LDA", "PBE", "r2SCAN" ...), a neural one ("pbe-clone",
        "pbe-clone@1"), or one of libxc or PySCF ("gga_x_b88", "BLYP"), in any case and looked for in this order; terms
        joined by "+", each a name or coefficient*name; the path of a checkpoint (a PathLike or a string with a path
        separator); or an object.

    Raises
    ------
    InputError
        If there is no such functional, if it cannot be used here, or if it is not one exchange and one correlation.
    """
    return resolve(xc).functional


def resolve(xc: "str | os.PathLike[str] | Functional") -> Resolved:
    """As `get_functional`, and how to call what was found."""
    from .xc import Functional

    if isinstance(xc, Functional):
        found = Resolved(xc, xc)
    elif not isinstance(xc, str | os.PathLike):
        raise InputError(f"xc={xc!r}: a name ({_known()}), a path or a Functional object is expected")
    elif isinstance(xc, str) and not is_path(xc):
        found = _resolve_terms(xc)
    else:
        found = _resolve_model(xc)
    kind = found.functional.kind
    if kind != "xc":
        raise InputError(f"xc={xc if isinstance(xc, str) else found.describe()} is {_INCOMPLETE[kind]}")
    return found


_INCOMPLETE = {
    "x": "exchange alone: its correlation is missing, add one with '+' as in 'gga_x_pbe+gga_c_pbe'",
    "c": "correlation alone: its exchange is missing, add one with '+' as in 'gga_x_pbe+gga_c_pbe'",
    "correction": "a correction of another functional: add that with '+'",
}


def pseudo_family(functional: "Functional") -> str:
    """The family of GTH tables made for a functional, such as "pbe".

    That of its card or of its parts, if these tell one; else "pade" for one of the density alone, "pbe" for all others.
    """
    from .xc import HybridXC, Sum

    if functional.card is not None and functional.card["pseudos"] is not None:
        return str(functional.card["pseudos"]).removeprefix("gth-")
    if isinstance(functional, Sum | HybridXC):
        families = {pseudo_family(part) for part in functional.parts}
        if len(families) == 1:
            return families.pop()
    return "pade" if set(functional.features) == {"density"} else "pbe"


# ---- parsing --------------------------------------------------------------------------------------------------------


def _resolve_terms(text: str) -> Resolved:
    """A name, or names with coefficients joined by "+"."""
    from .xc import Sum

    matches = [_TERM.fullmatch(term) for term in text.split("+")]
    terms = [(match["coefficient"], _resolve_name(match["name"])) for match in matches if match]
    if len(terms) < len(matches):
        raise InputError(
            f"xc={text!r} cannot be read: terms are joined by '+', each a name or coefficient*name; a coefficient may "
            f"be negative (names: {_known()})"
        )
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


def _resolve_name(name: str) -> Resolved:
    """One functional by name: conventional ones first, libxc, which takes a second to load, last."""
    makers = _makers()
    by_lower = {known.lower(): known for known in makers}
    base, at, _ = name.lower().partition("@")
    if base in by_lower:
        if at:
            raise InputError(f"xc={name!r}: {by_lower[base]} is a conventional functional, which has no versions")
        return Resolved(makers[by_lower[base]](), by_lower[base], by_lower[base])
    if at or find_model(base):
        return _resolve_model(name.lower())
    return _resolve_libxc(name)


def _resolve_model(name_or_path: "str | os.PathLike[str]") -> Resolved:
    """A checkpoint, by its name or the path of its folder."""
    functional = load_functional(name_or_path)
    card = functional.card or {}
    called = f"{card['name']}@{card['version']}"
    text = f"{called} (sha256 {card['sha256'][:12]})"
    if not is_path(name_or_path):
        return Resolved(functional, called, text)
    path = str(Path(name_or_path).expanduser().resolve())
    return Resolved(functional, path, f"{text} of {path}")


def _resolve_libxc(name: str) -> Resolved:
    """A functional of libxc, by its name there or PySCF's."""
    from .interop.libxc import Libxc, UnknownFunctional, libxc_names

    try:
        return Resolved(Libxc(name), name.lower(), f"{name.lower()} (libxc)")
    except UnknownFunctional as error:
        known = {known.lower(): known for known in (*libxc_names(), *_own_names())}
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {known[close[0]]!r}?" if close else ""
        raise InputError(f"unknown functional xc={name!r}: known are {_known()}{hint}") from error
    except ValueError as error:
        raise InputError(f"xc: {error}") from error


# ---- names ----------------------------------------------------------------------------------------------------------


def _makers() -> "dict[str, Callable[[], Functional]]":
    """What makes each conventional functional. Imported late, so that torch loads when one is first asked for."""
    from .xc import LDA, PBE, R2SCAN, SCAN, pbesol, revpbe, rpbe

    return {
        "LDA": LDA,
        "PBE": PBE,
        "PBEsol": pbesol,
        "RPBE": rpbe,
        "revPBE": revpbe,
        "SCAN": SCAN,
        "r2SCAN": R2SCAN,
        "LDA-PZ": lambda: LDA("pz81"),
        "LDA-VWN": lambda: LDA("vwn"),
    }


def is_reserved(name: str) -> bool:
    """Whether a name means a functional of the package, so that no checkpoint elsewhere is found by it."""
    shipped = {model.name for model in list_models() if model.origin == "package"}
    return name.lower() in {known.lower() for known in _makers()} | shipped


def _own_names() -> list[str]:
    """Those of conventional functionals and of models."""
    return [*_makers(), *dict.fromkeys(model.name for model in list_models())]


def _known() -> str:
    """All names, for messages."""
    return f"{', '.join(_own_names())} and those of libxc"


def _describe_object(functional: "Functional") -> str:
    """The repr of an object in one line, with a digest of its tensors if it has any."""
    tensors = functional.state_dict()
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return " ".join(repr(functional).split()) + (f" (sha256 {digest.hexdigest()[:12]})" if tensors else "")

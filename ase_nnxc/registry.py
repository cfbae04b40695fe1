"""Names of functionals: the only place that knows them."""

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ase.calculators.calculator import InputError

if TYPE_CHECKING:
    from .xc import Functional


def get_functional(xc: "str | Functional") -> "Functional":
    """The functional of a name; a functional object is handed back as it is.

    Parameters
    ----------
    xc : str or Functional
        "LDA", "PBE", "PBEsol", "RPBE" or "revPBE" in any case, or an object.

    Raises
    ------
    InputError
        If there is no functional of that name.
    """
    from .xc import Functional

    if isinstance(xc, Functional):
        return xc
    makers = _makers()
    by_lower = {name.lower(): name for name in makers}
    if not isinstance(xc, str):
        raise InputError(f"xc={xc!r}: a name ({', '.join(makers)}) or a Functional object is expected")
    if xc.lower() in by_lower:
        return makers[by_lower[xc.lower()]]()
    close = difflib.get_close_matches(xc.lower(), by_lower, n=1)
    hint = f"; did you mean {by_lower[close[0]]!r}?" if close else ""
    raise InputError(f"unknown functional xc={xc!r}: known are {', '.join(makers)}{hint}")


def pseudo_family(functional: "Functional") -> str:
    """The family of GTH tables made for a functional: "pade" for one of the density alone, "pbe" with its gradient."""
    return "pbe" if "gradient" in functional.features else "pade"


def _makers() -> "dict[str, Callable[[], Functional]]":
    """What makes each named functional. Imported late, so that torch loads when a functional is first asked for."""
    from .xc import LDA, PBE, pbesol, revpbe, rpbe

    return {"LDA": LDA, "PBE": PBE, "PBEsol": pbesol, "RPBE": rpbe, "revPBE": revpbe}

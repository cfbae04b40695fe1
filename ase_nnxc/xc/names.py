"""Checks of names that users choose from a list."""

import difflib
from collections.abc import Collection, Iterable


def check_names(what: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the names as a tuple if all of them are known and none is repeated.

    Parameters
    ----------
    what : str
        Meaning of the names, for the message: "constraint", "feature".
    names : iterable of str
        The names to check.
    known : collection of str
        The names that are allowed.

    Raises
    ------
    ValueError
        If a name is unknown (the message gives the closest match), or if a name is given twice.
    """
    names = tuple(names)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(known)}{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"a {what} is given twice in {', '.join(names)}")
    return names

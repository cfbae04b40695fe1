"""Shells of an atom and their occupations."""

import re
from collections.abc import Sequence
from typing import NamedTuple

LETTERS = "spdf"
_SHELL = re.compile(r"([1-9])([spdf])(\d+(?:\.\d+)?)")


class Shell(NamedTuple):
    """A shell of an atom.

    Attributes
    ----------
    n : int
        Principal quantum number.
    l : int
        Angular momentum.
    electrons : float
        Number of electrons in it, which may be fractional or zero.
    """

    n: int
    l: int  # noqa: E741  (the usual symbol)
    electrons: float

    @property
    def nodes(self) -> int:
        """Number of nodes of the radial function."""
        return self.n - self.l - 1

    def __str__(self) -> str:
        return f"{self.n}{LETTERS[self.l]}"


def parse_shells(text: str) -> tuple[Shell, ...]:
    """Return the shells of a configuration such as "1s2 2s2 2p1.5".

    Raises
    ------
    ValueError
        If a word is not a shell, if a shell has more electrons than places, or if a shell is repeated.
    """
    shells = tuple(_parse(word) for word in text.split())
    if len({shell[:2] for shell in shells}) < len(shells):
        raise ValueError(f"{text!r} has a shell twice")
    return shells


def _parse(word: str) -> Shell:
    match = _SHELL.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not a shell, expected one such as '3p4'")
    shell = Shell(int(match[1]), LETTERS.index(match[2]), float(match[3]))
    if shell.nodes < 0 or shell.electrons > 4 * shell.l + 2:
        raise ValueError(f"there is no shell {word!r}")
    return shell


def count_electrons(shells: Sequence[Shell]) -> float:
    """Return the number of electrons in shells."""
    return sum(shell.electrons for shell in shells)

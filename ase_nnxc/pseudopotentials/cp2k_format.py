"""Reads GTH tables in CP2K's format: M. Krack, Theor. Chem. Acc. 114, 145 (2005), and the heads of CP2K's files."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from .gth import GTH, Channel, GaussianCore

# the first line of an entry, "Cu GTH-PBE-q11 GTH-PBE": the element and the names of its table
_HEAD = re.compile(r"^[ \t]*([A-Z][a-z]?)[ \t]+((?:GTH-|ALL)\S*(?:[ \t]+\S+)*)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)
_VALENCE = re.compile(r"-(q\d+(?:_old)?)$")


@dataclass(frozen=True)
class Entry:
    """One table of a file, not yet parsed.

    Attributes
    ----------
    symbol : str
        Element.
    name : str
        Name in this package, such as "uzh-pbe-q3".
    text : str
        The lines below the head.
    """

    symbol: str
    name: str
    text: str

    @property
    def configuration(self) -> tuple[int, ...]:
        """Numbers of valence electrons in s, p, d, f."""
        return tuple(int(n) for n in self.text.split("\n", 1)[0].split())

    def read(self) -> GTH:
        """Parse the numbers of the table, Hartree atomic units.

        Raises
        ------
        InputError
            If the entry is damaged, or has parts besides the local part, the separable part and a core density (such as
            spin-orbit coupling).
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
            raise InputError(f"the table {self.name} of {self.symbol} is damaged or has an unknown format") from None
        rest = " ".join(words)
        if rest:
            raise InputError(
                f"the table {self.name} of {self.symbol} has parts that are not supported (spin-orbit coupling?), "
                f"starting with {rest[:30]!r}"
            )
        return GTH(
            symbol=self.symbol,
            number=atomic_numbers[self.symbol],
            valence=sum(self.configuration),
            rloc=rloc,
            cloc=cloc,
            channels=tuple(c for c in channels if c.h),
            configuration=self.configuration,
            functional=split_name(self.name)[0].rsplit("-", 1)[-1],
            name=self.name,
            core=core,
        )


def _read_core(words: Iterator[str]) -> GaussianCore:
    """Read what follows NLCC: the number of Gaussians, a radius, the number of coefficients, 4 pi times the height."""
    gaussians, radius, coefficients, height = (next(words) for _ in range(4))
    if (gaussians, coefficients) != ("1", "1"):
        raise ValueError("expected a core density of one Gaussian")
    return GaussianCore(radius=float(radius), height=float(height) / (4 * math.pi))


def _read_channel(angular: int, words: Iterator[str]) -> Channel:
    """Read a radius, the number n of projectors, and the upper triangle of h (n, n) row by row."""
    radius, n = float(next(words)), int(next(words))
    upper = {(i, j): float(next(words)) for i in range(n) for j in range(i, n)}
    h = tuple(tuple(upper[min(i, j), max(i, j)] for j in range(n)) for i in range(n))
    return Channel(l=angular, radius=radius, h=h)


def read_entries(text: str, prefix: str) -> Iterator[tuple[Entry, Sequence[str]]]:
    """Iterate over the tables of a file, each with all its names.

    Placeholders without numbers ("NA") and bare nuclei (ALLELECTRON) are left out.

    Parameters
    ----------
    text : str
        Content of the file.
    prefix : str
        What stands in this package for the "GTH" at the beginning of every name.
    """
    text = _COMMENT.sub("", text)
    heads = list(_HEAD.finditer(text))
    for head, end in zip(heads, [h.start() for h in heads[1:]] + [len(text)]):
        body = text[head.end() : end].strip()
        if body == "NA" or head[2].startswith("ALL"):
            continue
        names = [prefix + name[3:] for name in head[2].lower().split()]
        yield Entry(symbol=head[1], name=names[0], text=body), names


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a table into family and valence: ("gth-pbe", "q11"), or ("gth-pbe", "") without a valence."""
    match = _VALENCE.search(name)
    return (name[: match.start()], match[1]) if match else (name, "")

"""Checks of CIF files that ASE's reader does not make."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

LONGEST_LINE = 2**13
"""Characters of the longest line that is read; CIF 1.1 allows 2048. ASE needs a time that grows with their square."""

_ELEMENT = re.compile(r"([A-Z][a-z]?)(\d*)(?![\w.])")


def check_lines(path: Path) -> None:
    """Raise ValueError if a file has a line that is too long."""
    with path.open("rb") as file:
        longest = max(map(len, file), default=0)
    if longest > LONGEST_LINE:
        raise ValueError(f"a line has {longest} characters; CIF allows 2048, and up to {LONGEST_LINE} are read")


def check_content(path: Path, atoms: Atoms) -> None:
    """Raise ValueError unless the cell is complete and holds a whole number of formula units, if the file states them.

    Where a file is cut or damaged, ASE leaves out the cell or the sites behind it without a word.
    """
    if atoms.cell.rank < 3 and b"_cell_length" in path.read_bytes():
        raise ValueError("a length or an angle of the cell is missing or damaged")
    formula = _formula(path)
    found = Counter(atoms.get_chemical_symbols())
    units = max(1, len(atoms) // max(1, sum(formula.values())))
    if formula and found != {symbol: units * count for symbol, count in formula.items()}:
        stated = " ".join(f"{symbol}{count}" for symbol, count in formula.items())
        raise ValueError(
            f"the cell holds {atoms.get_chemical_formula()}, which is not a whole number of the formula units {stated} "
            "of _chemical_formula_sum: sites are missing or damaged; complete the file, or correct the formula"
        )


def _formula(path: Path) -> Counter[str]:
    """Return the formula of the structure that ASE reads; empty if there is none, or one of partly occupied sites."""
    from ase.io.cif import parse_cif

    with path.open("rb") as file:
        blocks = [block for block in parse_cif(file) if block.has_structure()]
    text = str(blocks[-1].get("_chemical_formula_sum", "")) if blocks else ""
    counts = Counter[str]()
    for word in text.split():
        match = _ELEMENT.fullmatch(word)
        if match is None:
            return Counter()
        counts["H" if match[1] == "D" else match[1]] += int(match[2] or 1)
    return counts

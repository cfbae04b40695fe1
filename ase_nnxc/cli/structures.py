"""Structures of the commands: from a file that ASE reads, an element, or a formula with a prototype."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cif import check_content, check_lines
from .common import UsageError, closest

if TYPE_CHECKING:
    from ase import Atoms

# prototypes and their lattice constant a for a nearest-neighbour distance of one
PROTOTYPES = {
    "sc": 1.0,
    "fcc": math.sqrt(2),
    "bcc": 2 / math.sqrt(3),
    "hcp": 1.0,
    "diamond": 4 / math.sqrt(3),
    "zincblende": 4 / math.sqrt(3),
    "wurtzite": math.sqrt(8 / 3),
    "rocksalt": 2.0,
    "cesiumchloride": 2 / math.sqrt(3),
    "fluorite": 4 / math.sqrt(3),
}
LARGEST = 2**26  # bytes of a file of a structure
LONGEST_VECTOR = 1e6  # Angstrom
LONGEST = 300  # characters of a reason that a reader of ASE gives, which may quote the file
CLOSE_PACKED = ("sc", "fcc", "bcc", "hcp")  # for these the estimate is the element's atomic volume
WELL_DEFINED = ("sc", "fcc", "bcc", "hcp", "bct", "diamond", "rhombohedral")  # reference states ASE builds correctly


def read_structure(text: str, prototype: str | None = None, a: float | None = None) -> tuple[Atoms, str]:
    """Read or build a structure.

    Parameters
    ----------
    text
        A file that ASE reads, an element symbol, or a chemical formula. An existing file takes precedence.
    prototype
        One of `PROTOTYPES`; `text` is then always an element or a formula.
    a
        Lattice constant in Angstrom, for elements and formulas only.

    Returns
    -------
    tuple
        The structure and a name for it.

    Raises
    ------
    UsageError
        If the file cannot be read or the crystal cannot be built.
    """
    path = Path(text)
    if prototype is None and (path.is_file() or "/" in text or path.suffix):
        if a is not None:
            raise UsageError("--a cannot be used with a structure file, only with an element or a formula")
        return _read_file(path), path.stem
    atoms = _build(text, prototype, a)
    return atoms, text if prototype is None else f"{text}-{prototype}"


def parse_magmoms(text: str, symbols: Sequence[str]) -> list[float]:
    """Return the initial moments of the atoms from ``0.6``, ``2,-2`` or ``Fe=2.5,O=0``.

    Elements that are not named get a moment of zero.
    """
    try:
        if "=" not in text:
            moments = [float(x) for x in text.split(",")]
            if len(moments) == 1:
                moments *= len(symbols)
            if len(moments) != len(symbols):
                raise UsageError(f"--magmom: expected one value or one per atom ({len(symbols)}), got {len(moments)}")
            return moments
        by_element = {name.strip(): float(value) for name, _, value in (p.partition("=") for p in text.split(","))}
    except ValueError:
        raise UsageError(f"--magmom: expected numbers or a form such as Fe=2.5,O=0, got {text!r}") from None
    absent = [name for name in by_element if name not in symbols]
    if absent:
        raise UsageError(f"--magmom: the structure contains no {absent[0]}")
    return [by_element.get(s, 0.0) for s in symbols]


def _read_file(path: Path) -> Atoms:
    from ase import Atoms
    from ase.data import chemical_symbols
    from ase.io import read
    from ase.io.formats import filetype

    from ase_nnxc.regular_files import check_regular_file

    try:
        check_regular_file(path, LARGEST)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    try:
        is_cif = filetype(str(path)) == "cif"
        if is_cif:
            check_lines(path)
        atoms = read(path)
        assert isinstance(atoms, Atoms)  # one image
        if is_cif:
            check_content(path, atoms)
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"ASE cannot read a structure from {path} ({reason[:LONGEST]})") from error
    if len(atoms) == 0:
        raise UsageError(f"{path} contains no atoms")
    if not ((abs(atoms.positions) <= LONGEST_VECTOR).all() and (abs(atoms.cell.array) <= LONGEST_VECTOR).all()):
        raise UsageError(
            f"{path}: a position or a cell vector is not a finite number, or longer than {LONGEST_VECTOR:g} Angstrom"
        )
    if not ((atoms.numbers > 0) & (atoms.numbers < len(chemical_symbols))).all():
        raise UsageError(f"{path}: an atomic number is not one from 1 to {len(chemical_symbols) - 1}")
    atoms.calc = None
    return atoms


def _build(formula: str, prototype: str | None, a: float | None) -> Atoms:
    """Build a bulk crystal from ASE's reference states and prototypes."""
    from ase.build import bulk
    from ase.data import atomic_numbers, chemical_symbols, reference_states
    from ase.symbols import string2symbols

    if prototype is not None and prototype not in PROTOTYPES:
        raise UsageError(
            f"--structure: unknown prototype {prototype!r}{closest(prototype, PROTOTYPES)} "
            f"(known: {', '.join(PROTOTYPES)})"
        )
    try:
        symbols = string2symbols(formula)
    except (KeyError, ValueError):
        symbols = []
    if not symbols or not all(s in atomic_numbers and s != "X" for s in symbols):
        raise UsageError(f"{formula!r} is not a file, an element or a formula{closest(formula, chemical_symbols[1:])}")
    reference = reference_states[atomic_numbers[symbols[0]]] if len(symbols) == 1 else None
    known = reference["symmetry"] if reference else None
    if prototype is None and known not in WELL_DEFINED:
        if len(symbols) > 1:
            raise UsageError(
                f"{formula} needs a crystal structure: give --structure ({', '.join(PROTOTYPES)}) or a structure file"
            )
        raise UsageError(f"ASE has no simple crystal of {formula}: give --structure and --a, or a structure file")
    estimated = prototype is not None and prototype != known and a is None
    if prototype is not None and estimated:
        a = _estimate_lattice_constant(symbols, prototype)
    try:
        atoms = bulk(formula, prototype, a=a)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UsageError(f"cannot build {formula}{f' as {prototype}' if prototype else ''}: {error}") from error
    if estimated:
        print(f"nnxc: no lattice constant was given; starting from an estimate, a = {a:.3f} A", file=sys.stderr)
    return atoms


def _estimate_lattice_constant(symbols: list[str], prototype: str) -> float:
    """Estimate the lattice constant (Angstrom).

    It is that of the atomic volume in ASE's ground-state crystal for an element in a close-packed prototype, and that
    of the sum of two covalent radii otherwise: radii are much too small for metals.

    Raises
    ------
    UsageError
        If ASE cannot build the ground-state crystal of the element.
    """
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii, reference_states

    number = atomic_numbers[symbols[0]]
    reference = reference_states[number]
    if len(symbols) == 1 and prototype in CLOSE_PACKED:
        try:
            known = bulk(symbols[0])
        except (ValueError, RuntimeError, KeyError):  # without a basis of atoms, or of a type that ASE does not build
            known = None
        if known is None or not reference or reference["symmetry"] not in WELL_DEFINED:
            raise UsageError(f"ASE has no crystal of {symbols[0]} whose volume gives an estimate of a: give --a")
        unit = bulk(symbols[0], prototype, a=1.0)
        return float((known.get_volume() / len(known) / (unit.get_volume() / len(unit))) ** (1 / 3))
    return float(PROTOTYPES[prototype] * (covalent_radii[number] + covalent_radii[atomic_numbers[symbols[-1]]]))

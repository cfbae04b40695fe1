"""Reader of psp8 files: ABINIT's documentation of pspcod 8, written by ONCVPSP."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import chemical_symbols

from .content import LARGEST_L, MOST_POINTS, FileContent
from .protocol import Array
from .reading import fortran_number, whole_valence

# ABINIT's numbers of functionals (negative: those of libxc), by the name of the family of tables ("pade" is LDA)
_IXC = {
    "pade": (1, 2, 3, 7, -1007, -1009, -1012),
    "pbe": (11, -101130),
    "pbesol": (-116133,),
    "blyp": (-106131,),
    "revpbe": (14, -102130),
    "rpbe": (15, -117130),
    "scan": (-263267,),
    "r2scan": (-497498,),
}

_FAMILIES = {"lda": "pade"}  # "pade" is the family of tables for LDA

MESH_TOLERANCE = 1e-6  # bohr, of the radii


@dataclass(frozen=True)
class _Header:
    """The first six lines: what the blocks below them hold."""

    symbol: str
    valence: int
    ixc: int
    lloc: int  # "angular momentum" of the block of the local potential, 4 if it is none of the others
    points: int
    counts: list[int]  # of projectors by angular momentum
    has_core: bool
    extension: int  # 1: a block of the valence density follows


def ixc_of(functional: str) -> int | None:
    """Return ABINIT's number of a functional or a family of tables, in any case; None if it has none here."""
    name = functional.lower()
    numbers = _IXC.get(_FAMILIES.get(name, name))
    return None if numbers is None else numbers[-1]


def read_psp8(text: str, path: str) -> FileContent:
    """Read the content of a psp8 file, which is in Hartree atomic units.

    Parameters
    ----------
    text : str
        The file.
    path : str
        Its path, for messages.

    Raises
    ------
    InputError
        If the pseudopotential is of a kind that is not supported.
    ValueError
        If the file is damaged.
    """
    lines = _complete_lines(text.replace("D", "E").replace("d", "e"))
    if len(lines) < 6:
        raise ValueError(f"the file has {len(lines)} lines, expected a header of 6")
    header = _read_header([line.split() for line in lines[:6]], path)
    rest = iter(lines[6:])
    angular, projectors, couplings, meshes, (radii, local) = [], [], [], [], np.empty((2, 0))
    for l in sorted({*(l for l, count in enumerate(header.counts) if count), header.lloc}):  # noqa: E741
        first, *energies = _next(rest).split() or [""]
        if first != str(l):
            raise ValueError(f"the block of l = {l} begins with {first!r}")
        if l == header.lloc:
            radii, local = _block(rest, header.points, 1)
            meshes.append(radii)
            continue
        count = header.counts[l]
        if len(energies) != count:
            raise ValueError(f"the block of l = {l} has {len(energies)} energies, expected one for {count} projectors")
        angular += [l] * count
        couplings += [float(energy) for energy in energies]
        mesh, *functions = _block(rest, header.points, count)
        meshes.append(mesh)
        projectors += functions
    mesh, core = _read_core(rest, header)
    _check_meshes([*meshes, mesh])
    return FileContent(
        symbol=header.symbol,
        valence=header.valence,
        radii=radii,
        spacing=np.gradient(radii),
        local=local,
        angular=angular,
        projectors=projectors,
        couplings=np.diag(couplings),
        core=core,
        density=None,
        configuration=None,
        functional=next((family for family, numbers in _IXC.items() if header.ixc in numbers), f"ixc={header.ixc}"),
        ecut=None,
    )


def _read_header(lines: list[list[str]], path: str) -> _Header:
    code, ixc, lmax, lloc, points = (int(word) for word in lines[2][:5])
    if code != 8:
        raise InputError(f"{path} has pspcod {code}; only pspcod 8 is supported")
    if int(lines[5][0]) > 1:
        raise InputError(f"{path} is relativistic with spin-orbit coupling, which is not supported")
    number, largest = fortran_number(lines[1][0]), len(chemical_symbols) - 1
    if not 1 <= number <= largest or number % 1:
        raise ValueError(f"zatom is {number}, expected an atomic number from 1 to {largest}")
    if not 0 <= lmax <= LARGEST_L or not 0 <= lloc <= LARGEST_L + 1:
        raise ValueError(f"lmax is {lmax} and lloc {lloc}, expected 0 to {LARGEST_L} and 0 to {LARGEST_L + 1}")
    if not 3 <= points <= MOST_POINTS:
        raise ValueError(f"mmax is {points}, expected 3 to {MOST_POINTS} radii")
    counts = [int(word) for word in lines[4][: lmax + 1]]
    if len(counts) != lmax + 1 or min(counts) < 0:
        raise ValueError(f"nproj is {' '.join(lines[4])!r}, expected {lmax + 1} numbers of projectors")
    if lloc <= lmax and counts[lloc]:
        raise ValueError(f"l = {lloc} is that of the local potential (lloc) and has {counts[lloc]} projectors")
    core_charge = fortran_number(lines[3][1])
    if not math.isfinite(core_charge):
        raise ValueError(f"fchrg is {core_charge}, expected a finite number, zero without a core density")
    return _Header(
        symbol=chemical_symbols[int(number)],
        valence=whole_valence(lines[1][1], path),
        ixc=ixc,
        lloc=lloc,
        points=points,
        counts=counts,
        has_core=core_charge > 0,
        extension=int(lines[5][0]),
    )


def _read_core(lines: Iterator[str], header: _Header) -> tuple[Array, Array | None]:
    """The radii and the core density, bohr^-3, of the block after that of the local potential."""
    if header.has_core:
        radii, core = _block(lines, header.points, 1, derivatives=4)
        return radii, core / (4 * np.pi)
    if header.extension == 0 and next(lines, "").split()[:1] == ["1"]:
        raise ValueError("fchrg is 0.0, but a block of a core density follows")
    return np.empty(0), None


def _complete_lines(text: str) -> list[str]:
    """The lines, without a last one that has no end and is shorter than the one before: its number may lack digits."""
    lines = text.splitlines()
    if len(lines) > 1 and not text.endswith(("\n", "\r")) and len(lines[-1]) < len(lines[-2].rstrip()):
        lines.pop()
    return lines


def _next(lines: Iterator[str]) -> str:
    """The next line of a block."""
    line = next(lines, None)
    if line is None:
        raise ValueError("the file ends in the middle of a block")
    return line


def _block(lines: Iterator[str], points: int, columns: int, derivatives: int = 0) -> Array:
    """Read a block: radii and `columns` functions (1 + columns, points).

    Each line begins with its number; up to `derivatives` further columns, the same in each line, are skipped.
    """
    rows, width = [], 0
    for number in range(1, points + 1):
        words = _next(lines).split()
        if number == 1:
            width = min(max(len(words) - 2, columns), columns + derivatives)
        if len(words) != 2 + width or words[0] != str(number):
            raise ValueError(
                f"expected a line with the number {number}, a radius and {width} values, got {' '.join(words)[:80]!r}"
            )
        rows.append([float(word) for word in words[1 : 2 + columns]])
    return np.array(rows).reshape(-1, 1 + columns).T


def _check_meshes(meshes: list[Array]) -> None:
    """Raise ValueError unless the radii of all blocks are those of one linear mesh r_i = i h, as ABINIT requires."""
    for radii in meshes:
        linear = np.linspace(0.0, meshes[0][-1], len(radii)) if len(radii) else radii
        wrong = ~(np.abs(radii - linear) <= MESH_TOLERANCE)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(f"radius {i + 1} is {radii[i]} bohr, expected {linear[i]:.6f} bohr of a linear mesh")

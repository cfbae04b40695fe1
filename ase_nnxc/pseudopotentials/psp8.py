"""Reader of psp8 files: ABINIT's documentation of pspcod 8, written by ONCVPSP."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import chemical_symbols

from .protocol import Array
from .reading import FileContent, fortran_number, whole_valence

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
    lines = text.replace("D", "E").replace("d", "e").splitlines()
    header = _read_header([line.split() for line in lines[:6]], path)
    rest = iter(lines[6:])
    angular, projectors, couplings, (radii, local) = [], [], [], np.empty((2, 0))
    for l in sorted({*(l for l, count in enumerate(header.counts) if count), header.lloc}):  # noqa: E741
        first, *energies = _next(rest).split()
        if int(first) != l:
            raise ValueError(f"the block of l = {l} begins with {first}")
        if l == header.lloc:
            radii, local = _block(rest, header.points, 1)
            continue
        count = header.counts[l]
        angular += [l] * count
        couplings += [float(energy) for energy in energies[:count]]
        projectors += list(_block(rest, header.points, count)[1:])
    return FileContent(
        symbol=header.symbol,
        valence=header.valence,
        radii=radii,
        spacing=np.gradient(radii),
        local=local,
        angular=angular,
        projectors=projectors,
        couplings=np.diag(couplings),
        core=_block(rest, header.points, 1)[1] / (4 * np.pi) if header.has_core else None,
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
    return _Header(
        symbol=chemical_symbols[round(fortran_number(lines[1][0]))],
        valence=whole_valence(lines[1][1], path),
        ixc=ixc,
        lloc=lloc,
        points=points,
        counts=[int(word) for word in lines[4][: lmax + 1]],
        has_core=fortran_number(lines[3][1]) > 0,
    )


def _next(lines: Iterator[str]) -> str:
    """The next line."""
    line = next(lines, None)
    if line is None:
        raise ValueError("the file ends in the middle of a block")
    return line


def _block(lines: Iterator[str], points: int, columns: int) -> Array:
    """Read a block: radii and `columns` functions (1 + columns, points). Each line begins with its number."""
    return np.array([[float(x) for x in _next(lines).split()[1 : 2 + columns]] for _ in range(points)]).T

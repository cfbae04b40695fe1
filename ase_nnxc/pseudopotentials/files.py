"""Pseudopotentials from files: which names are paths, which file of a folder belongs to an element, and reading it."""

import os
import re
from functools import lru_cache
from pathlib import Path

from ase.calculators.calculator import InputError

from ..regular_files import check_regular_file, read_regular_file
from .psp8 import read_psp8
from .reading import tabulate
from .tabulated import Tabulated
from .upf import read_upf

SUFFIXES = (".upf", ".psp8")

# Default end of radial functions, bohr. Beyond it, files hold only the tails of the local potential's Coulomb part and
# of the density, and those are noisy: for PseudoDojo's Cu, the mean of the local potential moves by 0.1 % from here to
# the end of the mesh, and with it the equilibrium volume by 2 %. psp8 files of PseudoDojo end at this very radius; pw.x
# uses 10 bohr.
RADIAL_CUTOFF = 5.99

LONGEST = 300  # characters of a reason, which may quote the file
LARGEST = 2**24  # bytes of a file; PseudoDojo's have less than 2**20


def read_pseudo(path: str | os.PathLike[str], radial_cutoff: float = RADIAL_CUTOFF) -> Tabulated:
    """Read a pseudopotential from a file. Each file is read once in a process, unless it changes.

    Parameters
    ----------
    path : str or PathLike
        A psp8 file by its suffix ".psp8", else a UPF file.
    radial_cutoff : float
        Radius where all radial functions end, bohr, if the mesh of the file does not end before. The local potential is
        -Z/r beyond it.

    Raises
    ------
    InputError
        If there is no such file, it is not a regular file of at most `LARGEST` bytes, it is damaged, it is of a kind
        that is not supported (ultrasoft, PAW, spin-orbit coupling), or `radial_cutoff` is not positive.
    """
    if not radial_cutoff > 0:
        raise InputError(f"radial_cutoff={radial_cutoff!r}: expected a positive length in bohr")
    path = os.fspath(path)
    try:
        status = check_regular_file(path, LARGEST)
    except FileNotFoundError:
        raise InputError(f"no pseudopotential file {path!r}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    return _read(path, status.st_mtime_ns, status.st_size, float(radial_cutoff))


@lru_cache(maxsize=256)
def _read(path: str, mtime: int, size: int, radial_cutoff: float) -> Tabulated:
    try:
        text = read_regular_file(path, LARGEST).decode("utf-8", errors="replace")
        content = read_psp8(text, path) if path.lower().endswith(".psp8") else read_upf(text, path)
        return tabulate(content, radial_cutoff, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is damaged or cannot be used: {str(error)[:LONGEST]}") from error


def is_file_or_folder(name: str | os.PathLike[str]) -> bool:
    """Whether a name is a path and not the name of a table: it has a path separator or the suffix of such files."""
    if isinstance(name, os.PathLike):
        return True
    return any(separator in name for separator in (os.sep, os.altsep or os.sep)) or name.lower().endswith(SUFFIXES)


def file_of_element(symbol: str, folder: Path) -> Path:
    """Return the file ELEMENT*.upf or ELEMENT*.psp8 of a folder, in any case: Si.upf, si_pbe_v1.UPF; not Sn.upf for S.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    matches = [p for p in files if re.match(rf"{symbol}(?![a-z])", p.name, re.IGNORECASE)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(
            f"{folder} has several files for {symbol}: {', '.join(p.name for p in matches)}; choose one, as in "
            f"pseudos={{{symbol!r}: {str(matches[0])!r}}}"
        )
    names = ", ".join(p.name for p in files) or "none"
    raise InputError(f"{folder} has no file {symbol}*.upf or {symbol}*.psp8; pseudopotential files in it: {names}")

"""The memory that a calculation needs at least, compared with that of the machine before anything is allocated."""

import math
import os
from collections.abc import Sequence

import torch
from ase.calculators.calculator import InputError

from ..ks.crystal import Crystal

COMPLEX, REAL, INTEGER = 16, 8, 8  # bytes of a number
GRID_ARRAYS = 12  # real arrays on the FFT box that exist at the same time
GIB = 2**30


def check_memory(crystal: Crystal, ecut: float, box: Sequence[int]) -> None:
    """Raise InputError if one k-point needs more memory than the machine has, or the GPU on which the crystal is.

    Parameters
    ----------
    crystal : Crystal
        The atoms in atomic units.
    ecut : float
        Cutoff, Hartree.
    box : sequence of int
        Points of the FFT box.
    """
    needed, present, owner = least_memory(crystal, ecut, box), physical_memory(), "this machine"
    if crystal.device.type == "cuda":
        present, owner = torch.cuda.mem_get_info(crystal.device)[1], str(crystal.device)
    if present is not None and needed > present:
        raise InputError(
            f"the calculation needs at least {needed / GIB:.3g} GiB of memory ({len(crystal.potentials)} atoms, an FFT "
            f"box of {box[0]} x {box[1]} x {box[2]} points), but {owner} has {present / GIB:.3g} GiB; lower ecut or "
            "gpts, or use a smaller cell or less vacuum"
        )


def least_memory(crystal: Crystal, ecut: float, box: Sequence[int]) -> float:
    """Return a lower bound of the memory of one k-point, bytes: orbitals, projectors, grid."""
    waves = float(crystal.volume) * (2 * ecut) ** 1.5 / (6 * math.pi**2)  # V k^3 / 6 pi^2, the mean over k-points
    bands = 0.5 * crystal.nelectrons
    projectors = sum((2 * channel.l + 1) * len(channel.h) for p in crystal.potentials for channel in p.channels)
    plane_waves = COMPLEX * waves * (crystal.nspin * bands + projectors)
    grid = math.prod(map(float, box)) * (GRID_ARRAYS * REAL + 3 * INTEGER)
    return plane_waves + grid


def physical_memory() -> int | None:
    """Return the memory of the machine, bytes, or None if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None

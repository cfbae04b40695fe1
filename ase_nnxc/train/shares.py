"""Which rank calculates which record of a training."""

from collections.abc import Sequence

import numpy as np

from .records import Record

MOLECULE_VOLUME = 1000.0  # Angstrom^3, typical of the cell in which a molecule is calculated


def shares(records: Sequence[Record], count: int) -> dict[str, int]:
    """Return the rank of each record by name: the largest first, each to the rank with the smallest load so far.

    R. L. Graham, SIAM J. Appl. Math. 17, 416 (1969). The load of a structure is its number of atoms times its volume,
    proportional to orbitals times grid points.
    """
    loads, ranks = [0.0] * count, {}
    for record in sorted(records, key=_load, reverse=True):
        rank = loads.index(min(loads))
        ranks[record.name] = rank
        loads[rank] += _load(record)
    return ranks


def _load(record: Record) -> float:
    return float(record.natoms @ np.where(record.volumes > 0, record.volumes, MOLECULE_VOLUME))

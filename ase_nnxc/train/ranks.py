"""Ranks: processes of torch.distributed that train one functional together, each on its own records."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from ase.calculators.calculator import CalculationFailed

from .records import Record

Result = TypeVar("Result")

MOLECULE_VOLUME = 1000.0  # Angstrom^3, typical of the cell in which a molecule is calculated
TIMEOUT = timedelta(days=7)  # a rank may wait for the SCFs of another; a rank that has ended is noticed at once


class RankError(CalculationFailed):
    """Another process of the run failed."""


class Ranks:
    """The processes of a run: those of torch.distributed, or only this one.

    A process group with the backend gloo is created if `torchrun` started this process and there is no group.

    Attributes
    ----------
    number, count : int
        Number of this process, from 0, and number of processes.
    """

    def __init__(self) -> None:
        self.number, self.count = 0, 1
        if not dist.is_available():
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo")
        if dist.is_initialized():
            self.number, self.count = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """Return the results of `work` on each rank, in their order; an exception on one rank is raised on all.

        Parameters
        ----------
        work : callable
            Called on each rank; its result must be on the CPU and can be pickled.

        Raises
        ------
        Exception
            The exception that `work` raised on this rank.
        RankError
            If `work` raised an exception on another rank.
        """
        if self.count == 1:
            return [work()]
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # of any type: the other ranks wait for an answer
            failure = error
        message = None if failure is None else f"{type(failure).__name__}: {failure}"
        answers: list[Any] = [None] * self.count
        dist.all_gather_object(answers, (result, message), group=self._group)
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(answers):
            if message is not None:
                raise RankError(f"rank {rank} failed: {message}")
        return [answer for answer, _ in answers]

    def first(self, work: Callable[[], Result]) -> Result:
        """Return on all ranks the result of `work` on rank 0, which alone calls it; raise as `gather`."""
        result: Any = self.gather(lambda: work() if self.number == 0 else None)[0]
        return result


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

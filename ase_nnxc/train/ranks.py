"""Processes that train one functional together, each on records of its own, by torch.distributed."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from ase.calculators.calculator import CalculationFailed

from .records import Record

Result = TypeVar("Result")

MOLECULE = 1000.0  # Angstrom^3; the cell that a molecule gets is about so large
PATIENCE = timedelta(days=7)  # one rank may wait for the SCFs of another; a rank that ends is noticed at once


class RankError(CalculationFailed):
    """Another process of the run failed."""


class Ranks:
    """The processes that take part in a run: those of torch.distributed, or this one alone.

    A process group is made, with the backend gloo, if `torchrun` started this process and there is none.

    Attributes
    ----------
    number, count : int
        Which one this process is, from 0, and how many there are.
    """

    def __init__(self) -> None:
        self.number, self.count = 0, 1
        if not dist.is_available():
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo")
        if dist.is_initialized():
            self.number, self.count = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """What `work` returns on each rank, in their order; an exception of one ends the call on all.

        Parameters
        ----------
        work : callable
            Called on each rank; its result can be pickled and is on the CPU.

        Raises
        ------
        Exception
            What `work` raised on this rank.
        RankError
            If it raised on another one.
        """
        if self.count == 1:
            return [work()]
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # the others must hear of it, whatever it is
            failure = error
        told = None if failure is None else f"{type(failure).__name__}: {failure}"
        answers: list[Any] = [None] * self.count
        dist.all_gather_object(answers, (result, told), group=self._group)
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(answers):
            if message is not None:
                raise RankError(f"rank {rank} failed: {message}")
        return [answer for answer, _ in answers]

    def first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on rank 0, which alone calls it, on all ranks; errors as of `gather`."""
        result: Any = self.gather(lambda: work() if self.number == 0 else None)[0]
        return result


def shares(records: Sequence[Record], count: int) -> dict[str, int]:
    """Rank of each record by name: the heaviest first, each to the rank that has least to do so far.

    R. L. Graham, SIAM J. Appl. Math. 17, 416 (1969). The weight of a structure is atoms times volume, as its orbitals
    times points of the grid.
    """
    loads, ranks = [0.0] * count, {}
    for record in sorted(records, key=_weight, reverse=True):
        rank = loads.index(min(loads))
        ranks[record.name] = rank
        loads[rank] += _weight(record)
    return ranks


def _weight(record: Record) -> float:
    return float(record.natoms @ np.where(record.volumes > 0, record.volumes, MOLECULE))

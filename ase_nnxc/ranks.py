"""Ranks: processes of torch.distributed that work together.

Ranks share the k-points of a ground state (`NNXCCalculator(share_kpoints=True)`) or the records of a training. All of
them run the same program; `torchrun` starts them.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")

TIMEOUT = timedelta(days=7)  # a rank may wait for the SCFs of another; a rank that has ended is noticed at once


class RankError(RuntimeError):
    """A rank failed that others wait for, or its process has ended."""


class Ranks:
    """The processes that work together, by default only this one. `world` returns those of torch.distributed.

    All ranks must call the methods in the same order. On one rank they change nothing and cost nothing.

    Parameters
    ----------
    number, count : int
        Number of this process, from 0, and number of processes.
    group : ProcessGroup, optional
        Group of all processes with the backend gloo; required for more than one.
    """

    def __init__(self, number: int = 0, count: int = 1, group: Any = None) -> None:
        self.number, self.count, self._group = number, count, group

    def together(self, work: Callable[[], Result]) -> Result:
        """Return the result of `work` on this rank; if it raises an exception on any rank, raise one on all.

        Parameters
        ----------
        work : callable
            Called on each rank. It may use the ranks itself.

        Raises
        ------
        Exception
            The exception that `work` raised on this rank, if it raised one on every rank.
        RankError
            If `work` raised an exception on some ranks only; the message is that of the first of them.
        """
        if self.count == 1:
            return work()
        try:
            result = work()
        except RankError:  # the others know
            raise
        except Exception as error:  # of any type: the others wait for an answer
            self._exchange(error)
            raise
        self._exchange(None)
        return result

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """Return the results of `work` on each rank, in their order; raise as `together`.

        Parameters
        ----------
        work : callable
            Called on each rank; its result must be on the CPU and can be pickled.
        """
        result = self.together(work)
        if self.count == 1:
            return [result]
        answers: list[Any] = [None] * self.count
        with _lost_connections():
            dist.all_gather_object(answers, result, group=self._group)
        return answers

    def first(self, work: Callable[[], Result]) -> Result:
        """Return on all ranks the result of `work` on rank 0, which alone calls it; raise as `gather`."""
        result: Any = self.gather(lambda: work() if self.number == 0 else None)[0]
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks, which have the same shape and dtype.

        The result is the same on all ranks to the last bit. If a rank has failed, RankError is raised.
        """
        if self.count == 1:
            return tensor
        self._exchange(None)
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _lost_connections():
            dist.all_reduce(total, group=self._group_of(total))
        return total

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor of rank 0, in place of one that may differ from it by rounding; raise as `sum`."""
        if self.count == 1:
            return tensor
        self._exchange(None)
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _lost_connections():
            dist.broadcast(copy, src=0, group=self._group_of(copy))
        return copy

    def leave(self) -> None:
        """Forget the group, which then can be destroyed."""
        self._group = None

    def _group_of(self, tensor: Tensor) -> Any:
        """Return the group for a tensor: that of gloo, or on a GPU the group of the user or of `world`."""
        return self._group if tensor.device.type == "cpu" else dist.group.WORLD

    def _exchange(self, failure: Exception | None) -> None:
        """Tell all ranks whether this one has failed; raise RankError if some have, but not all."""
        with _lost_connections():
            number = torch.tensor(int(failure is not None), device="cpu")
            dist.all_reduce(number, group=self._group)
            if int(number) == 0:
                return
            messages: list[Any] = [None] * self.count
            own = None if failure is None else f"{type(failure).__name__}: {failure}"
            dist.all_gather_object(messages, own, group=self._group)
        if None in messages:
            rank, message = next((rank, message) for rank, message in enumerate(messages) if message is not None)
            raise RankError(f"rank {rank} failed: {message}") from failure


def world() -> Ranks:
    """Return the processes of torch.distributed, or only this one.

    A process group is created if `torchrun` started this process and there is no group: with gloo on CPUs and, if there
    are GPUs, NCCL on these. It is destroyed as the process ends.
    """
    if not dist.is_available():
        return Ranks()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")
        atexit.register(_end)
    return _ranks_of(dist.group.WORLD) if dist.is_initialized() else Ranks()


@cache
def _ranks_of(group: Any) -> Ranks:
    """Return the ranks of torch.distributed's default group."""
    return Ranks(dist.get_rank(group), dist.get_world_size(group), dist.new_group(backend="gloo", timeout=TIMEOUT))


def _end() -> None:
    """Destroy all process groups: the threads of one that is left when the process ends may abort it."""
    if dist.is_initialized():
        _ranks_of(dist.group.WORLD).leave()
        _ranks_of.cache_clear()
        dist.destroy_process_group()


@contextmanager
def _lost_connections() -> Iterator[None]:
    """Turn the error that torch.distributed raises if a process has ended into RankError."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(f"another rank has ended: {error}") from error

"""Ranks: processes of torch.distributed that work together.

Ranks share the k-points of a ground state (`NNXCCalculator(share_kpoints=True)`) or the records of a training. All of
them run the same program; `torchrun` starts them. Groups of ranks work on different ground states at the same time.
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
    """A rank failed that others wait for, or its process has ended.

    Parameters
    ----------
    message : str
        Which rank failed, and why.
    ranks : Ranks, optional
        The ranks that have been told.
    """

    def __init__(self, message: str, ranks: "Ranks | None" = None) -> None:
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self) -> tuple[type["RankError"], tuple[str]]:
        """Return how to make the error in another process, where the ranks are others."""
        return RankError, (str(self),)


class Ranks:
    """The processes that work together, by default only this one. `world` returns those of torch.distributed.

    All ranks must call the methods in the same order. On one rank they change nothing and cost nothing.

    Parameters
    ----------
    number, count : int
        Number of this process, from 0, and number of processes.
    group : ProcessGroup, optional
        Group of these processes with the backend gloo; required for more than one.
    gpu_group : ProcessGroup, optional
        Group of these processes for tensors on GPUs; required for these.
    """

    def __init__(self, number: int = 0, count: int = 1, group: Any = None, gpu_group: Any = None) -> None:
        self.number, self.count, self._group, self._gpu_group = number, count, group, gpu_group
        self._splits: dict[int, Ranks] = {}  # the group of this rank by the number of groups

    def __deepcopy__(self, memo: Any) -> "Ranks":
        """Return these ranks: a copy of a calculator works with the same processes."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to be pickled, unless this is one process."""
        if self.count > 1:
            raise TypeError("a group of ranks cannot be pickled; set share_kpoints=False before a calculator is")
        return Ranks, ()

    def split(self, groups: int) -> "Ranks":
        """Return the group of this rank, of so many groups of equal size. Ranks that follow each other form a group.

        All ranks of `world` must split alike. A group is made once. One group is these ranks themselves.

        Parameters
        ----------
        groups : int
            Number of groups.

        Raises
        ------
        ValueError
            If it does not divide the number of ranks, or if these are a part of `world`.
        """
        divisors = [n for n in range(1, self.count + 1) if self.count % n == 0]
        if type(groups) is not int or groups not in divisors:
            allowed = ", ".join(map(str, divisors))
            raise ValueError(f"groups={groups!r}: expected a divisor of {self.count}, the number of ranks: {allowed}")
        if groups == 1:
            return self
        if self.count < dist.get_world_size():
            raise ValueError(f"groups={groups}: a group of ranks cannot be split again, only all ranks can")
        if groups not in self._splits:
            self._splits[groups] = self._make_group(self.count // groups)
        return self._splits[groups]

    def _make_group(self, size: int) -> "Ranks":
        """Return the group of this rank if groups have this size."""
        if size == 1:
            return Ranks()
        parts = [list(range(first, first + size)) for first in range(0, self.count, size)]
        with self._lost_connections():  # all ranks create all process groups, in the same order
            gloo = [dist.new_group(part, TIMEOUT, "gloo") for part in parts]
            of_gpus = [dist.new_group(part) if torch.cuda.is_available() else None for part in parts]
        own = self.number // size
        return Ranks(self.number % size, size, gloo[own], of_gpus[own])

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
            If `work` raised an exception on some ranks only; the message is that of the first of them, with its number
            in `world`.
        """
        if self.count == 1:
            return work()
        try:
            result = work()
        except Exception as error:  # of any type: the others wait for an answer, unless they know
            if not (isinstance(error, RankError) and error.ranks is self):
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
        with self._lost_connections():
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
        with self._lost_connections():
            dist.all_reduce(total, group=self._group_of(total))
        return total

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor of rank 0, in place of one that may differ from it by rounding; raise as `sum`."""
        if self.count == 1:
            return tensor
        self._exchange(None)
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        group = self._group_of(copy)
        with self._lost_connections():
            dist.broadcast(copy, src=dist.get_global_rank(group, 0), group=group)
        return copy

    def leave(self) -> None:
        """Forget the process groups, which then can be destroyed, here and in the groups of `split`."""
        self._group = self._gpu_group = None
        for group in self._splits.values():
            group.leave()

    def _group_of(self, tensor: Tensor) -> Any:
        """Return the process group for a tensor."""
        return self._group if tensor.device.type == "cpu" else self._gpu_group

    def _exchange(self, failure: Exception | None) -> None:
        """Tell all ranks whether this one has failed; raise RankError if some have, but not all."""
        with self._lost_connections():
            number = torch.tensor(int(failure is not None), device="cpu")
            dist.all_reduce(number, group=self._group)
            if int(number) == 0:
                return
            messages: list[Any] = [None] * self.count
            own = None if failure is None else _message_of(failure)
            dist.all_gather_object(messages, own, group=self._group)
        if None in messages:
            raise RankError(next(message for message in messages if message is not None), self) from failure

    @contextmanager
    def _lost_connections(self) -> Iterator[None]:
        """Turn the error that torch.distributed raises if a process has ended into RankError."""
        try:
            yield
        except RuntimeError as error:
            raise RankError(f"another rank has ended: {error}", self) from error


def _message_of(failure: Exception) -> str:
    """Return what other ranks are told of an error on this one, which may be that of a rank in its group."""
    if isinstance(failure, RankError):
        return str(failure)
    return f"rank {dist.get_rank()} failed: {type(failure).__name__}: {failure}"


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
    """Return the ranks of torch.distributed's default group, which also serves for GPUs."""
    gloo = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(group), dist.get_world_size(group), gloo, group)


def _end() -> None:
    """Destroy all process groups: the threads of one that is left when the process ends may abort it."""
    if dist.is_initialized():
        _ranks_of(dist.group.WORLD).leave()
        _ranks_of.cache_clear()
        dist.destroy_process_group()

"""The spin channels and k-points of a calculation, and all loops over them."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from .basis import Sphere
from .parallel import iterate

Result = TypeVar("Result")

# Bytes of a batch on a CPU. With 1, 2, 4, 8, 16 MB an SCF of silicon at 36 k-points takes 2.3, 2.1, 2.1, 2.0, 2.1 s,
# one of aluminium at 29 k-points 0.63, 0.53, 0.55, 0.51, 0.54 s (one core of an AMD EPYC with 32 MB of cache).
CACHE = 2**23


def _available(device: torch.device) -> int:
    """Return the number of bytes for a batch of k-points; copies and temporary tensors need more of a GPU's memory."""
    if device.type == "cpu":
        return CACHE
    spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch keeps it for itself
    return (torch.cuda.mem_get_info(device)[0] + spare) // 4


@dataclass(frozen=True, eq=False)
class Block:
    """One spin channel at one k-point.

    Attributes
    ----------
    number : int
        Index in the order of all blocks, spin by spin.
    spin, k : int
        Indices of the spin channel and of the k-point.
    sphere : Sphere
        Plane waves of the k-point.
    """

    number: int
    spin: int
    k: int
    sphere: Sphere


class KPoints:
    """The blocks of a calculation, and the operations over all of them.

    Two kinds of data belong to the blocks. Large data, such as orbitals, are lists with one entry for each of `blocks`;
    they stay on the process that made them. Small data, such as eigenvalues, are complete tensors (nspin, nk, ...).
    `map` works on large data, `gather` makes complete tensors of small data, and `sum` and `sum_of_spins` add
    contributions. `map_batches` hands several k-points to a function that is written over a leading axis: on a CPU so
    many that a batch stays in its cache, on a GPU so many that a batch fits its memory.

    Every loop over the k-points of the orbitals goes through this class; it is where ranks of torch.distributed come
    in: `blocks` holds those of one rank, at least one of each spin. `gather` is an all-gather in the order of
    `Block.number`; `sum` and `sum_of_spins` add the sums of the ranks in the order of the ranks; `entry` fetches from
    the rank that holds it. Writing a ground state (`calculator/packing.py`) then collects orbitals on one rank.

    Parameters
    ----------
    nspin : int
        Number of spin channels.
    spheres : sequence of Sphere
        Plane waves of each k-point.
    device : torch.device
        Device on which functions of the blocks run.

    Attributes
    ----------
    blocks : tuple of Block
        The blocks, in the order in which sums add them.
    weights : Tensor
        (nk,) weights of the k-points, adding up to one.
    """

    def __init__(self, nspin: int, spheres: Sequence[Sphere], device: torch.device):
        self.nspin, self.nk, self.device = nspin, len(spheres), device
        self.blocks = tuple(
            Block(spin * self.nk + k, spin, k, sphere) for spin in range(nspin) for k, sphere in enumerate(spheres)
        )
        self.weights = torch.tensor([s.weight for s in spheres], dtype=torch.float64, device=device)

    def entry(self, entries: Sequence[Result], spin: int, k: int) -> Result:
        """Return the entry of one block in a list with an entry for each block."""
        return entries[spin * self.nk + k]

    def map(self, function: Callable[..., Result], *lists: Sequence[Any]) -> list[Result]:
        """Return the results of `function(block, *entries)` for all blocks, computed without gradients.

        Parameters
        ----------
        function : callable
            Function of one block. Several threads call it, so it must not change shared data.
        *lists : sequence
            Lists with one entry for each block; the entries are passed to `function`.
        """
        return list(self._iterate(function, lists))

    def map_batches(self, function: Callable[..., list[Result]], memory: int, *lists: Sequence[Any]) -> list[Result]:
        """Return results for all blocks, computed without gradients in batches of k-points of one spin channel.

        Parameters
        ----------
        function : callable
            Function `function(blocks, *entries)` of several blocks and a sequence of entries of each list; returns a
            list with the result of each block. Several threads call it, so it must not change shared data.
        memory : int
            Bytes that the function needs for one block.
        *lists : sequence
            Lists with one entry for each block.
        """
        rows = list(zip(self.blocks, *lists, strict=True))
        items = [tuple(zip(*rows[start:end])) for start, end in self._batches(memory)]
        parts = iterate(lambda entries: function(*entries), items, self.device)
        return [result for part in parts for result in part]

    def _batches(self, memory: int) -> list[tuple[int, int]]:
        """Return first and last indices, the latter exclusive, of batches of about equal size."""
        size = max(1, _available(self.device) // memory)
        if self.device.type == "cpu":
            size = min(size, math.ceil(len(self.blocks) / torch.get_num_threads()))
        number = math.ceil(self.nk / size)
        bounds = [self.nk * i // number + spin * self.nk for spin in range(self.nspin) for i in range(number + 1)]
        return [(start, end) for start, end in pairwise(bounds) if start < end]

    def gather(self, entries: Sequence[Tensor]) -> Tensor:
        """Return the tensors of all blocks, which have the same shape, as one tensor (nspin, nk, ...)."""
        return torch.stack(list(entries)).unflatten(0, (self.nspin, self.nk))

    @overload
    def sum(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor: ...

    @overload
    def sum(self, function: Callable[..., list[Tensor]], *lists: Sequence[Any]) -> list[Tensor]: ...

    def sum(self, function: Callable[..., Any], *lists: Sequence[Any]) -> Any:
        """Return the sum of `function(block, *entries)`, a tensor or a list of tensors, over the blocks in order.

        The parameters are those of `map`.
        """
        with closing(self._iterate(function, lists)) as contributions:
            total = next(contributions)
            for part in contributions:
                total = total + part if isinstance(part, Tensor) else [a + b for a, b in zip(total, part)]
        return total

    def sum_of_spins(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor:
        """Return the sums (nspin, ...) over the k-points of each spin channel.

        The parameters are those of `map`, but the results of `function` must be new tensors: sums are made in them.
        """
        totals: list[Tensor | None] = [None] * self.nspin
        with closing(self._iterate(function, lists)) as contributions:
            for part, block in zip(contributions, self.blocks):
                total = totals[block.spin]
                totals[block.spin] = part if total is None else total.add_(part)
        return torch.stack([total for total in totals if total is not None])

    def _iterate(
        self, function: Callable[..., Result], lists: Sequence[Sequence[Any]]
    ) -> Generator[Result, None, None]:
        return iterate(lambda entries: function(*entries), list(zip(self.blocks, *lists, strict=True)), self.device)

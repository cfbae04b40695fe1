"""The spin channels and k-points of a calculation, and all loops over them."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from ..ranks import Ranks
from .basis import Sphere, stack_spheres
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
    `map` works on large data, `gather` makes complete tensors of small data, and `sum` adds contributions.
    `map_batches` and `sum_batches_of_spins` hand several k-points to a function that is written over a leading axis: on
    a CPU so many that a batch stays in its cache, on a GPU so many that a batch fits its memory.

    Every loop over the k-points of the orbitals goes through this class, so that it can share them among ranks: each
    rank has its own `blocks`. All ranks must call the methods in the same order, and not in functions of a block. An
    error on one rank is raised on all (`Ranks.together`). Sums, `gather`, `same`, `entry` and `collect` return the same
    on all ranks.

    Parameters
    ----------
    nspin : int
        Number of spin channels.
    spheres : sequence of Sphere
        Plane waves of each k-point.
    device : torch.device
        Device on which functions of the blocks run.
    ranks : Ranks, optional
        Processes that share the blocks; default: this one alone.

    Attributes
    ----------
    blocks : tuple of Block
        The blocks of this rank, in the order in which sums add them. Each rank has about the same number of blocks that
        follow each other.
    weights : Tensor
        (nk,) weights of the k-points, adding up to one.

    Raises
    ------
    ValueError
        If there are more ranks than blocks.
    """

    def __init__(self, nspin: int, spheres: Sequence[Sphere], device: torch.device, ranks: Ranks | None = None):
        self.nspin, self.nk, self.device, self._ranks = nspin, len(spheres), device, ranks or Ranks()
        self._all = [
            Block(spin * self.nk + k, spin, k, sphere) for spin in range(nspin) for k, sphere in enumerate(spheres)
        ]
        rank, count = self._ranks.number, self._ranks.count
        if count > len(self._all):
            raise ValueError(
                f"{count} ranks cannot share {self.nk} irreducible k-points of {nspin} spin channel"
                f"{'s' * (nspin - 1)}: use at most {len(self._all)} ranks"
            )
        self._spheres: dict[tuple[int, ...], Sphere] = {}  # by the indices of the k-points
        self._kept_batches: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by bytes of a block and threads
        self._own = slice(len(self._all) * rank // count, len(self._all) * (rank + 1) // count)
        self.blocks = tuple(self._all[self._own])
        self.weights = torch.tensor([s.weight for s in spheres], dtype=torch.float64, device=device)

    def entry(self, entries: Sequence[Tensor], spin: int, k: int) -> Tensor:
        """Return the orbitals (nbands, npw) of one block, from those of each block of this rank."""
        wanted = self._all[spin * self.nk + k]
        if wanted in self.blocks:
            own = entries[self.blocks.index(wanted)]
        else:
            own = entries[0].new_zeros(len(entries[0]), wanted.sphere.npw)
        return self._ranks.sum(own)

    def collect(self, entries: Sequence[Tensor]) -> list[Tensor]:
        """Return the orbitals of the blocks of all ranks, from those of each block of this rank."""
        return [self.entry(entries, block.spin, block.k) for block in self._all]

    def select(self, entries: Sequence[Tensor]) -> list[Tensor]:
        """Return the orbitals of the blocks of this rank, from those of all ranks."""
        return list(entries[self._own])

    def same(self, tensor: Tensor) -> Tensor:
        """Return one tensor on all ranks, where they may differ by rounding; a GPU adds numbers in any order."""
        return self._ranks.of_first(tensor)

    def map(self, function: Callable[..., Result], *lists: Sequence[Any]) -> list[Result]:
        """Return the results of `function(block, *entries)` for all blocks, computed without gradients.

        Parameters
        ----------
        function : callable
            Function of one block. Several threads call it, so it must not change shared data.
        *lists : sequence
            Lists with one entry for each block; the entries are passed to `function`.
        """
        return self._ranks.together(lambda: list(self._iterate(function, lists)))

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
        parts = self._ranks.together(lambda: list(self._iterate_batches(function, memory, lists)))
        return [result for part in parts for result in part]

    def stacked_sphere(self, blocks: Sequence[Block]) -> Sphere:
        """Return the plane waves of the k-points of a batch, padded to a common number; they are kept."""
        ks = tuple(block.k for block in blocks)
        if ks not in self._spheres:
            self._spheres[ks] = stack_spheres([block.sphere for block in blocks])
        return self._spheres[ks]

    def _batches(self, memory: int) -> list[tuple[int, int]]:
        """Return first and last indices, the latter exclusive, of batches of about equal size.

        They are the same whenever they are asked for, although other processes take and return memory of a GPU: terms
        keep what they made for a batch.
        """
        key = memory, torch.get_num_threads()
        if key not in self._kept_batches:
            self._kept_batches[key] = self._make_batches(max(1, _available(self.device) // memory))
        return self._kept_batches[key]

    def _make_batches(self, size: int) -> list[tuple[int, int]]:
        if self.device.type == "cpu":
            size = min(size, math.ceil(len(self.blocks) / torch.get_num_threads()))
        batches: list[tuple[int, int]] = []
        for _, channel in groupby(range(len(self.blocks)), lambda i: self.blocks[i].spin):
            first, *others = channel
            count = 1 + len(others)
            number = math.ceil(count / size)
            batches += pairwise(first + count * i // number for i in range(number + 1))
        return batches

    def gather(self, entries: Sequence[Tensor]) -> Tensor:
        """Return the tensors of all blocks, which have the same shape, as one tensor (nspin, nk, ...)."""
        own = torch.stack(list(entries))
        complete = own.new_zeros(len(self._all), *own.shape[1:])
        complete[self._own] = own
        return self._ranks.sum(complete).unflatten(0, (self.nspin, self.nk))

    @overload
    def sum(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor: ...

    @overload
    def sum(self, function: Callable[..., list[Tensor]], *lists: Sequence[Any]) -> list[Tensor]: ...

    def sum(self, function: Callable[..., Any], *lists: Sequence[Any]) -> Any:
        """Return the sum of `function(block, *entries)`, a tensor or a list of tensors, over all blocks.

        The parameters are those of `map`.
        """

        def own_sum() -> Any:
            with closing(self._iterate(function, lists)) as contributions:
                total = next(contributions)
                for part in contributions:
                    total = total + part if isinstance(part, Tensor) else [a + b for a, b in zip(total, part)]
            return total

        total = self._ranks.together(own_sum)
        return self._ranks.sum(total) if isinstance(total, Tensor) else [self._ranks.sum(t) for t in total]

    def sum_batches_of_spins(self, function: Callable[..., Tensor], memory: int, *lists: Sequence[Any]) -> Tensor:
        """Return the sums (nspin, ...) over batches of k-points of each spin channel.

        The parameters are those of `map_batches`, but `function` returns one new tensor: sums are made in them.
        """

        def own_sums() -> Tensor:
            totals: dict[int, Tensor] = {}
            spins = [self.blocks[start].spin for start, _ in self._batches(memory)]
            with closing(self._iterate_batches(function, memory, lists)) as contributions:
                for part, spin in zip(contributions, spins, strict=True):
                    totals[spin] = totals[spin].add_(part) if spin in totals else part
            zero = torch.zeros_like(next(iter(totals.values())))  # this rank may have blocks of one spin only
            return torch.stack([totals.get(spin, zero) for spin in range(self.nspin)])

        return self._ranks.sum(self._ranks.together(own_sums))

    def _iterate(
        self, function: Callable[..., Result], lists: Sequence[Sequence[Any]]
    ) -> Generator[Result, None, None]:
        return iterate(lambda entries: function(*entries), list(zip(self.blocks, *lists, strict=True)), self.device)

    def _iterate_batches(
        self, function: Callable[..., Result], memory: int, lists: Sequence[Sequence[Any]]
    ) -> Generator[Result, None, None]:
        rows = list(zip(self.blocks, *lists, strict=True))
        items = [tuple(zip(*rows[start:end])) for start, end in self._batches(memory)]
        return iterate(lambda entries: function(*entries), items, self.device)

"""The spin channels and k-points of a calculation, and all loops over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from .basis import Sphere
from .parallel import iterate

Result = TypeVar("Result")


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
    contributions.

    Every loop over the k-points of the orbitals goes through this class. To work on several blocks at once on a GPU,
    change `_iterate`. To share the blocks among ranks of torch.distributed, let `blocks` hold those of one rank, let
    `gather` do an all-gather in the order of `Block.number`, and let `sum` and `sum_of_spins` add the sums of the ranks
    in the order of the ranks.

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
    """

    def __init__(self, nspin: int, spheres: Sequence[Sphere], device: torch.device):
        self.nspin, self.nk, self.device = nspin, len(spheres), device
        self.blocks = tuple(
            Block(spin * self.nk + k, spin, k, sphere) for spin in range(nspin) for k, sphere in enumerate(spheres)
        )

    def number(self, spin: int, k: int) -> int:
        """Return the index of a block in lists of blocks."""
        return spin * self.nk + k

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
        contributions = self._iterate(function, lists)
        total = next(contributions)
        for part in contributions:
            total = total + part if isinstance(part, Tensor) else [a + b for a, b in zip(total, part)]
        return total

    def sum_of_spins(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor:
        """Return the sums (nspin, ...) over the k-points of each spin channel; the parameters are those of `map`."""
        totals: list[Tensor | None] = [None] * self.nspin
        for block, part in zip(self.blocks, self._iterate(function, lists)):
            total = totals[block.spin]
            totals[block.spin] = part if total is None else total.add_(part)
        return torch.stack([total for total in totals if total is not None])

    def _iterate(self, function: Callable[..., Result], lists: Sequence[Sequence[Any]]) -> Iterator[Result]:
        return iterate(lambda entries: function(*entries), list(zip(self.blocks, *lists, strict=True)), self.device)

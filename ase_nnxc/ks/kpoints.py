"""The spin channels and k-points of a calculation: the one object that loops over them."""

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
        Place in the order of all blocks, spin by spin.
    spin, k : int
        Numbers of the spin channel and of the k-point.
    sphere : Sphere
        Plane waves of the k-point.
    """

    number: int
    spin: int
    k: int
    sphere: Sphere


class KPoints:
    """Blocks of a calculation, and what is done with all of them.

    Data of the blocks come in two kinds. Large ones, such as orbitals, are lists with one entry for each of `blocks`
    and stay where they were made. Small ones, such as eigenvalues, are tensors (nspin, nk, ...) that are complete
    everywhere. `map` works on the large ones, `gather` makes small ones complete, and `sum` adds up contributions.

    Nothing else in the core loops over k-points. A GPU that works on several blocks at once changes `map` and `sum`;
    ranks of torch.distributed that share the blocks make `blocks` those of one rank, `gather` an all-gather in the
    order of `Block.number`, and `sum` the sum of the ranks' sums in the order of the ranks.

    Parameters
    ----------
    nspin : int
        Number of spin channels.
    spheres : sequence of Sphere
        Plane waves of each k-point.
    device : torch.device
        Where the work is done.

    Attributes
    ----------
    blocks : tuple of Block
        In the order in which sums over them are done.
    weights : Tensor
        (nk,) weights of the k-points, adding up to one.
    """

    def __init__(self, nspin: int, spheres: Sequence[Sphere], device: torch.device):
        self.nspin, self.nk, self.device = nspin, len(spheres), device
        self.blocks = tuple(
            Block(spin * self.nk + k, spin, k, sphere) for spin in range(nspin) for k, sphere in enumerate(spheres)
        )
        self.weights = torch.tensor([s.weight for s in spheres], dtype=torch.float64, device=device)

    def number(self, spin: int, k: int) -> int:
        """Place of a block in the lists of blocks."""
        return spin * self.nk + k

    def map(self, function: Callable[..., Result], *lists: Sequence[Any]) -> list[Result]:
        """Results of `function(block, *entries)` for each block, without gradients.

        Parameters
        ----------
        function : callable
            Work on one block; it must not change shared data.
        *lists : sequence
            One entry for each block, passed on to `function`.
        """
        return list(self._iterate(function, lists))

    def gather(self, entries: Sequence[Tensor]) -> Tensor:
        """Small tensors of one shape, one for each block, as one tensor (nspin, nk, ...)."""
        return torch.stack(list(entries)).unflatten(0, (self.nspin, self.nk))

    @overload
    def sum(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor: ...

    @overload
    def sum(self, function: Callable[..., list[Tensor]], *lists: Sequence[Any]) -> list[Tensor]: ...

    def sum(self, function: Callable[..., Any], *lists: Sequence[Any]) -> Any:
        """Sum over the blocks, in their order, of `function(block, *entries)`, a tensor or a list of tensors.

        Parameters are those of `map`.
        """
        contributions = self._iterate(function, lists)
        total = next(contributions)
        for part in contributions:
            total = total + part if isinstance(part, Tensor) else [a + b for a, b in zip(total, part)]
        return total

    def sum_of_spins(self, function: Callable[..., Tensor], *lists: Sequence[Any]) -> Tensor:
        """Sums over the k-points of each spin channel (nspin, ...) of tensors; parameters are those of `map`."""
        totals: list[Tensor | None] = [None] * self.nspin
        for block, part in zip(self.blocks, self._iterate(function, lists)):
            total = totals[block.spin]
            totals[block.spin] = part if total is None else total.add_(part)
        return torch.stack([total for total in totals if total is not None])

    def _iterate(self, function: Callable[..., Result], lists: Sequence[Sequence[Any]]) -> Iterator[Result]:
        return iterate(lambda entries: function(*entries), list(zip(self.blocks, *lists, strict=True)), self.device)

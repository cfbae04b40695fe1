"""One map over k-points: Python threads on a CPU (torch releases the interpreter lock), in turn on a GPU."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_depth = 0
_saved = 1

if hasattr(os, "register_at_fork"):  # OpenMP's threads do not survive a fork: a child would wait for them forever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def _few_torch_threads() -> Iterator[int]:
    """Give torch few threads while k-points share the cores; yields the caller's number and restores it at the end."""
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = torch.get_num_threads()
        _depth += 1
        workers = _saved
        torch.set_num_threads(1)
    try:
        yield workers
    finally:
        with _lock:
            _depth -= 1
            torch.set_num_threads(_saved)


def map_kpoints(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """Apply `function` to every item, without gradients; the results come in the order of the items.

    Parameters
    ----------
    function : callable
        Work on one item; must not change shared data.
    items : sequence
        One for each spin and k-point.
    device : torch.device
        Where the work is done; a GPU is kept busy by one thread.
    """
    return list(iterate_kpoints(function, items, device))


def iterate_kpoints(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterable[Result]:
    """As `map_kpoints`, but the results are handed out one by one, so that a sum over them needs no more memory."""

    def quiet(item: Item) -> Result:
        with torch.no_grad():  # the grad mode is a thread's own
            return function(item)

    if device.type != "cpu" or len(items) == 1:
        yield from map(quiet, items)
        return
    with _few_torch_threads() as workers:
        if workers == 1:
            yield from map(quiet, items)
            return
        threads = min(workers, len(items))
        torch.set_num_threads(workers // threads)  # what the k-points leave over; the pool's threads take it on
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(quiet, items)

"""Python threads that share the cores: torch releases the interpreter's lock, so that each works on an item of its own.

The threads belong to one pool, which is made when it is first used and stays for the life of the process. Scratch
memory that a thread keeps (see `transforms`) is therefore allocated once.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_depth = 0  # how many maps are running
_threads_of_caller = 1  # torch's number of threads before the first of them began
_pool: ThreadPoolExecutor | None = None
_thread = threading.local()  # of a thread of the pool: `is_worker`, and `share`, its number of torch threads


def _after_fork() -> None:
    """Begin anew in a child process, which has none of its parent's threads.

    The threads of OpenMP do not survive a fork either: a child that used more than one would wait for them forever.
    """
    global _lock, _depth, _pool
    _lock, _depth, _pool = threading.Lock(), 0, None
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _one_torch_thread() -> Iterator[int]:
    """Give torch one thread while the pool uses the cores; yield the caller's number and restore it at the end."""
    global _depth, _threads_of_caller
    with _lock:
        if _depth == 0:
            _threads_of_caller = torch.get_num_threads()
        _depth += 1
        cores = _threads_of_caller
        torch.set_num_threads(1)
    try:
        yield cores
    finally:
        with _lock:
            _depth -= 1
            torch.set_num_threads(_threads_of_caller)


def iterate(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """Apply `function` to every item, without gradients; yield the results in the order of the items.

    Results are handed out one by one, so that a sum over them needs little memory. On a CPU as many items are worked on
    at a time as torch has threads; on a GPU, which one thread keeps busy, one. An exception of the function ends the
    iteration, and no item is being worked on any more when it is raised.

    Parameters
    ----------
    function : callable
        Work on one item; it must not change shared data.
    items : sequence
        What to work on.
    device : torch.device
        Where the work is done.
    """

    def without_gradients(item: Item) -> Result:
        with torch.no_grad():  # the grad mode belongs to a thread
            return function(item)

    if device.type != "cpu" or len(items) <= 1 or getattr(_thread, "is_worker", False):
        yield from map(without_gradients, items)
        return
    with _one_torch_thread() as cores:
        if cores == 1:
            yield from map(without_gradients, items)
            return
        threads = min(cores, len(items))
        yield from _iterate_in_pool(without_gradients, items, threads, cores // threads)


def _iterate_in_pool(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, share: int
) -> Iterator[Result]:
    """Results, in order, of `threads` threads that each take the next item and have `share` torch threads."""
    results: deque[Future[Result]] = deque(Future() for _ in items)
    waiting: queue.SimpleQueue[tuple[Item, Future[Result]]] = queue.SimpleQueue()
    for pair in zip(items, results):
        waiting.put(pair)

    def work() -> None:
        _set_torch_threads(share)
        while True:
            try:
                item, result = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                result.set_result(function(item))
            except BaseException as error:
                result.set_exception(error)

    workers = [_get_pool().submit(work) for _ in range(threads)]
    try:
        while results:
            yield results.popleft().result()
    finally:
        while not waiting.empty():  # after an exception, or if the caller wants no more
            try:
                waiting.get_nowait()
            except queue.Empty:
                break
        wait(workers)


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), "ase_nnxc", initializer=_begin_worker)
        return _pool


def _begin_worker() -> None:
    _thread.is_worker, _thread.share = True, 0


def _set_torch_threads(share: int) -> None:
    """Set torch's number of threads in this thread of the pool; the thread keeps it."""
    if _thread.share != share:
        torch.set_num_threads(share)
        _thread.share = share

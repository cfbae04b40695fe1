"""Python threads that share the cores. Torch releases the global interpreter lock, so they run at the same time.

The threads belong to one pool, which is created at first use and lives as long as the process. The scratch memory of a
thread (see `transforms`) is therefore allocated once.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # results for each thread

_lock = threading.Lock()
_depth = 0  # number of running iterations
_threads_of_caller = 1  # torch's number of threads before the first of these iterations began
_pool: ThreadPoolExecutor | None = None
_thread = threading.local()  # in a thread of the pool: `is_worker`, and `share`, its number of torch threads


def _after_fork() -> None:
    """Reset the state in a child process, which has none of the threads of its parent.

    OpenMP threads do not survive a fork either: a child that used more than one would wait for them forever.
    """
    global _lock, _depth, _pool
    _lock, _depth, _pool = threading.Lock(), 0, None
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _one_torch_thread() -> Iterator[int]:
    """Set torch to one thread while the pool uses the cores; yield the caller's number, and restore it at the end."""
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


def iterate(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Generator[Result, None, None]:
    """Apply `function` to every item, without gradients; yield the results in the order of the items.

    Results are yielded one by one, and the threads get ahead of the caller by at most `AHEAD` results each, so that a
    sum over them needs little memory. On a CPU the number of items processed at the same time is torch's number of
    threads. On a GPU, which one thread keeps busy, items are processed one by one. After an exception in `function` no
    further item is begun; the exception is raised when all running calls have finished.

    The caller must exhaust or close the iterator: torch has one thread until then.

    Parameters
    ----------
    function : callable
        Function of one item. Several threads call it, so it must not change shared data.
    items : sequence
        Arguments of `function`.
    device : torch.device
        Device on which `function` runs.
    """

    def without_gradients(item: Item) -> Result:
        with torch.no_grad():  # each thread has its own grad mode
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
) -> Generator[Result, None, None]:
    """Yield results in order; `threads` threads take items from a queue, each with `share` torch threads."""
    results: deque[Future[Result]] = deque(Future() for _ in items)
    waiting: queue.SimpleQueue[tuple[Item, Future[Result]]] = queue.SimpleQueue()
    for pair in zip(items, results):
        waiting.put(pair)
    places = threading.Semaphore(AHEAD * threads)  # for results that the caller has not taken yet

    def work() -> None:
        _set_torch_threads(share)
        while True:
            places.acquire()
            try:
                item, result = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                result.set_result(function(item))
            except BaseException as error:
                result.set_exception(error)
                stop()

    def stop() -> None:
        """Let no thread begin another item."""
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        places.release(threads)

    workers = [_get_pool().submit(work) for _ in range(threads)]
    try:
        while results:  # items are begun in order: one that failed comes before all that were not begun
            yield results.popleft().result()
            places.release()
    finally:
        stop()
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
    """Set torch's number of threads in this thread of the pool, where the setting persists."""
    if _thread.share != share:
        torch.set_num_threads(share)
        _thread.share = share

"""Cores used over events: each worker is a thread that computes a piece of its own, with one core and the same weights.

Splitting every operator over the cores instead, as torch and onnxruntime do by themselves, makes all threads wait for
the slowest hundreds of times per batch: alone that costs a few percent, beside another busy process most of the speed
(`benchmarks/cores.py`). torch releases the interpreter lock inside its operators, so threads are enough, and results
do not depend on their number: each piece is computed by one thread, whichever it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import local
from typing import TypeVar

import torch

from shards.base import free_cores

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2
"""Pieces waiting for a free worker, so that none waits for the consumer."""
_this_thread = local()


def workers_for(device: str) -> int:
    """A sensible number of workers where a network runs: one for a GPU."""
    return free_cores() if torch.device(device).type == "cpu" else 1


def in_order(function: Callable[[T], R], pieces: Iterable[T], workers: int) -> Iterator[R]:
    """The results of `function` for `pieces`, in their order; an exception is raised in place of the result.

    Args:
        pieces: taken by the consumer's thread, at most `workers + AHEAD` in advance.
        workers: threads. Calls made by a worker stay in its thread, so calls may be nested.
    """
    if workers == 1 or getattr(_this_thread, "is_worker", False):
        yield from map(function, pieces)
        return
    with single_threaded(), ThreadPoolExecutor(workers, "worker", _begin) as pool:
        yield from buffered_map(pool, function, pieces, workers + AHEAD)


def buffered_map(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], buffersize: int
) -> Iterator[R]:
    """`pool.map(function, items, buffersize=buffersize)` of Python 3.14: results in order, so many items in advance."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= buffersize:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def single_threaded() -> Iterator[None]:
    """torch's own threads off: while workers compute, also for what the consumer does meanwhile, or in small operators
    that are not worth waking them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin() -> None:
    """In a worker: the number of threads is a setting of each thread."""
    torch.set_num_threads(1)
    _this_thread.is_worker = True

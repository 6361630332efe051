"""torch's threads in a training: on as many cores as nobody else keeps busy.

The threads wait for each other in every operator. Beside a neighbour that has one of the cores, all of them wait for
the thread that has none: two threads are then a quarter to a sixteenth as fast as one (`benchmarks/cores.py`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from shards.base import Neighbours, counted

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between checks of what others use."""
TOLERATED = 0.25
"""Share of a core that others may use before a thread is taken from it; the system always does a little."""


class FreeThreads:
    """Follows the load. Sums are added up in an order that depends on the number of threads, so a run that is to be
    repeated bit for bit keeps its own, and so does one whose user says `OMP_NUM_THREADS`."""

    def __init__(self, neighbours: Neighbours, fixed: bool, environment: Mapping[str, str] = os.environ) -> None:
        """Start with the threads that torch has now; there will never be more.

        Args:
            neighbours: what is measured.
            fixed: never change the number.
            environment: where `OMP_NUM_THREADS` may be.
        """
        self._neighbours, self._most = neighbours, torch.get_num_threads()
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self._most
        self._fixed = fixed or self._most == 1 or bool(environment.get("OMP_NUM_THREADS"))

    def follow(self) -> None:
        """Use what is free now; cheap enough to be called after every step."""
        if self._fixed or self._neighbours.seconds < LOOK_S:
            return
        others = self._neighbours.look()
        if others is None:
            return
        threads = threads_beside(others, self._cores, self._most)
        if threads != torch.get_num_threads():
            logger.info("others keep %.1f cores busy: computing with %s", others, counted(threads, "thread"))
            torch.set_num_threads(threads)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """After the block torch has its initial number of threads again."""
        try:
            yield
        finally:
            torch.set_num_threads(self._most)


def threads_beside(others: float, cores: int, limit: int) -> int:
    """Threads that have a core each.

    Args:
        others: cores that other processes keep busy.
        cores: cores that this process may run on.
        limit: how many of them it may keep busy.
    """
    return max(1, min(limit, cores - math.ceil(others - TOLERATED)))

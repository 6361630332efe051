"""Threads follow what others leave; a run that is to be repeated keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.base import Neighbours
from xectrain.training.threads import LOOK_S, FreeThreads, threads_beside


class Told(Neighbours):
    """Neighbours that keep as many cores busy as a test says."""

    def __init__(self, others: float | None, seconds: float = LOOK_S) -> None:
        super().__init__(Path("/nowhere"))
        self.others, self.waited = others, seconds

    @property
    def seconds(self) -> float:
        return self.waited

    def look(self) -> float | None:
        return self.others


@pytest.mark.parametrize(
    ("others", "cores", "limit", "threads"),
    [
        (0.0, 2, 2, 2),
        (0.2, 2, 2, 2),  # the system itself
        (0.5, 2, 2, 1),  # two threads would wait for one another half of the time
        (1.2, 2, 2, 1),
        (7.0, 2, 2, 1),
        (3.0, 64, 8, 8),  # a quota: there is room beside the others
        (60.0, 64, 8, 4),
    ],
)
def test_a_thread_for_every_core_that_nobody_uses(others: float, cores: int, limit: int, threads: int) -> None:
    assert threads_beside(others, cores, limit) == threads


@pytest.fixture
def two_threads() -> None:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_threads_go_beside_a_neighbour_and_come_back() -> None:
    neighbours = Told(100.0)
    threads = FreeThreads(neighbours, fixed=False, environment={})
    with threads.given_back():
        threads.follow()
        assert torch.get_num_threads() == 1
        neighbours.others = None  # the system does not say
        threads.follow()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("fixed", "environment", "seconds"),
    [(True, {}, LOOK_S), (False, {"OMP_NUM_THREADS": "2"}, LOOK_S), (False, {}, LOOK_S / 2)],
)
def test_threads_stay_where_they_are_meant_or_it_is_too_soon(
    fixed: bool, environment: dict[str, str], seconds: float
) -> None:
    FreeThreads(Told(100.0, seconds), fixed, environment).follow()
    assert torch.get_num_threads() == 2

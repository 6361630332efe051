"""Workers: results in order whoever computes them, one thread each, errors where they belong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from xectrain.workers import AHEAD, in_order, workers_for


def test_results_come_in_order_from_several_threads():
    def square(number: int) -> tuple[int, str]:
        time.sleep(0.01 * (number % 3))  # later ones are done before earlier ones
        return number * number, threading.current_thread().name

    found = list(in_order(square, range(12), 3))
    assert [value for value, _ in found] == [number * number for number in range(12)]
    assert {name for _, name in found} <= {f"worker_{i}" for i in range(3)}


def test_each_computes_with_one_thread_and_the_setting_comes_back():
    before = torch.get_num_threads()
    assert set(in_order(lambda _: torch.get_num_threads(), range(4), 2)) == {1}
    assert torch.get_num_threads() == before


def test_what_a_worker_calls_stays_in_its_thread():
    def nested(_: int) -> set[str]:
        return set(in_order(lambda _: threading.current_thread().name, range(3), 2))

    assert all(len(names) == 1 for names in in_order(nested, range(4), 2))


def test_pieces_are_taken_as_they_are_needed():
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, pieces(), 2)
    assert next(results) == 0
    assert len(taken) <= 2 + AHEAD
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 2 + AHEAD


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_where_the_result_would(workers):
    def checked(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    results = in_order(checked, range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_a_gpu_is_one_worker(monkeypatch):
    assert workers_for("cuda:1") == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert workers_for("cpu") == 1

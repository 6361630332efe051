"""Processes: everything is done once, failures arrive, a killed one ends the work at once, and nothing is left."""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import signal
import threading
import time

import pytest

from ingest.processes import Processes
from shards.base import InputError, XecError


def nothing() -> None:
    """Beginning with no preparation."""


def test_every_piece_is_done_once() -> None:
    with Processes(3, nothing) as crew:
        for count in (0, 1, 2, 40):  # fewer than there are processes, and more
            assert dict(crew.run(math.sqrt, [(i,) for i in range(count)])) == {i: math.sqrt(i) for i in range(count)}
        assert len(multiprocessing.active_children()) >= 3
    assert not [c for c in multiprocessing.active_children() if c.name.startswith("SpawnProcess")]


def test_this_process_works_too_and_does_not_wait_for_the_others_to_start() -> None:
    with Processes(1, nothing) as crew:
        done = dict(crew.run(_who, [(0.01,)] * 20, _who))
        assert set(done) == set(range(20))
        assert done[0] == os.getpid()
        both = {os.getpid(), *(child.pid for child in multiprocessing.active_children())}
        assert set(done.values()) <= both
        while set(done.values()) != both:  # until the other has started
            done |= crew.run(_who, [(0.01,)] * 20, _who)
        assert dict(crew.run(_who, [], _who)) == {}
        with pytest.raises(ZeroDivisionError):
            list(crew.run(_who, [(0.5,)] * 3, lambda _: 1 // 0))  # the other has one, or two, but not all
        assert list(crew.run(_who, [(0,)], _who)) == [(0, os.getpid())]


def _who(pause: float) -> int:
    time.sleep(pause)
    return os.getpid()


def test_in_order_whatever_finishes_first() -> None:
    with Processes(2, nothing) as crew:
        waits = [0.3, 0.0, 0.0, 0.05, 0.0]
        assert list(crew.in_order(operator.mul, [(i, 2) for i in range(50)])) == [2 * i for i in range(50)]
        finished = [index for index, _ in crew.run(time.sleep, [(wait,) for wait in waits])]
        assert finished != sorted(finished)
        assert list(crew.in_order(time.sleep, [(wait,) for wait in waits])) == [None] * 5


def test_a_large_piece_meets_a_large_answer() -> None:
    block = bytes(5_000_000)
    with Processes(2, nothing) as crew:
        assert [len(x) for x in crew.in_order(bytes.join, [(b"", [block]) for _ in range(6)])] == [len(block)] * 6


def test_a_failure_carries_where_it_happened_and_ends_the_rest() -> None:
    with Processes(2, nothing) as crew:
        with pytest.raises(RuntimeError, match=r"(?s)in a worker process.*ZeroDivisionError"):
            list(crew.run(operator.truediv, [(1, 0), *[(1, 1)] * 20]))
        assert dict(crew.run(math.sqrt, [(4,)])) == {0: 2}  # with new processes


def test_project_errors_arrive_whole() -> None:
    with Processes(2, nothing) as crew:
        with pytest.raises(InputError) as caught:
            list(crew.run(_raise_input_error, [()]))
        with pytest.raises(FileNotFoundError, match="no_such_file"):
            list(crew.run(os.stat, [("no_such_file",)]))
    assert str(caught.value) == str(_input_error())


def test_what_was_not_taken_does_not_answer_the_next_run() -> None:
    with Processes(2, nothing) as crew:
        first = crew.run(math.sqrt, [(9,)] * 20)
        assert next(first)[1] == 3
        first.close()
        assert sorted(crew.run(math.sqrt, [(4,)] * 5)) == [(i, 2) for i in range(5)]


@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_worker_that_dies_ends_the_work(how: str) -> None:
    threads = threading.active_count()
    end, found = {"killed": (signal.raise_signal, "SIGKILL"), "left": (os._exit, "exit code 9")}[how]
    with Processes(2, nothing) as crew:
        with pytest.raises(XecError, match=f"a worker process died.*{found}.*continues"):
            list(crew.run(end, [(9,)] * 3))
        assert threading.active_count() == threads
        assert dict(crew.run(math.sqrt, [(4,)])) == {0: 2}


def test_a_worker_killed_at_any_moment_of_its_start_ends_the_work() -> None:
    for pause in (0, 0.01, 0.05, 0.2):
        with Processes(2, nothing) as crew:
            killer = threading.Timer(pause, lambda crew=crew: [_kill(worker) for worker in crew._workers[:1]])
            with pytest.raises(XecError, match="a worker process died"):
                killer.start()
                for _ in crew.run(time.sleep, [(0.05,)] * 1000):
                    if not killer.is_alive():  # it came before there was one
                        _kill(crew._workers[0])
            killer.join()


def _kill(worker: object) -> None:
    os.kill(worker.process.pid, signal.SIGKILL)  # type: ignore[attr-defined]


def _input_error() -> InputError:
    return InputError("is cut", file="a.root", found=3, expected=4, remedy="get it again")


def _raise_input_error() -> None:
    raise _input_error()

"""Worker processes; when one of them dies, the work ends with a one-line error.

`concurrent.futures.ProcessPoolExecutor` does the same with threads in the parent, which in Python before 3.12.1 race
with `submit` when a worker is killed: a traceback on the screen, or a result that never comes
(https://github.com/python/cpython/issues/109047). One pipe per process needs no thread and no lock.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from shards.base import XecError

Call = tuple[Callable[..., Any], tuple[Any, ...]]
AHEAD = 2
"""Pieces a process has at a time: the one it does and the next."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    """Whether it has begun; it says so in its first message, and is given nothing before."""
    pieces: list[int] = field(default_factory=list)
    """The pieces it was given, in order; its answers come in the same order."""


class Processes:
    """Up to `number` processes, started when first needed, each of which begins with a call of `begin`."""

    def __init__(self, number: int, begin: Callable[..., None], *arguments: Any) -> None:
        self.number = number
        self._begin: Call = begin, arguments
        self._workers: list[_Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()

    def run(
        self, function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]], own: Callable[..., Any] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Call `function` with each of `pieces`; yields (index, result) in the order of completion.

        Args:
            own: what this process calls itself with pieces for which no other is ready: it begins at once, while the
                others start. None: it only waits.

        The first failure stops the rest; of simultaneous failures the one with the lowest index is raised. A
        piece is handed out only when a result is taken, so that the results that wait are bounded.

        Raises:
            XecError: a process died.
            XecError, OSError: as `function` raised them.
            RuntimeError: `function` raised anything else; the text is its traceback.
        """
        try:
            yield from self._run(function, pieces, own)
        except BaseException:  # also when the caller stops early: pieces under way must not answer the next run
            self.close()
            raise

    def in_order(self, function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of `run` in the order of `pieces`."""
        early: dict[int, Any] = {}
        following = 0
        for index, result in self.run(function, pieces):
            early[index] = result
            while following in early:
                yield early.pop(following)
                following += 1

    def _run(
        self, function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]], own: Callable[..., Any] | None
    ) -> Iterator[tuple[int, Any]]:
        left = deque(enumerate(pieces))
        while len(self._workers) < min(self.number, len(pieces) - (own is not None)):
            self._workers.append(self._start())
        for worker in self._workers:
            self._fill(worker, function, left)
        while left or any(worker.pieces for worker in self._workers):
            watched = {worker.pipe: worker for worker in self._workers if worker.pieces or not worker.ready}
            timeout = 0 if own is not None and left else None
            answers = [watched[pipe] for pipe in wait(list(watched), timeout) if isinstance(pipe, Connection)]
            for worker, index, result in sorted(_taken(answers), key=lambda answer: answer[1]):
                if isinstance(result, _Failure):
                    raise result.error
                if index >= 0:
                    yield index, result
                self._fill(worker, function, left)
            if own is not None and left and not answers:
                index, piece = left.popleft()
                yield index, own(*piece)

    def _fill(self, worker: _Worker, function: Callable[..., Any], left: deque[tuple[int, tuple[Any, ...]]]) -> None:
        """Give a piece to a worker that has none, and the next one, too, unless the others then had nothing to do."""
        while worker.ready and left and len(worker.pieces) < AHEAD:
            if worker.pieces and len(left) <= len(self._workers):
                return
            _give(worker, function, *left.popleft())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._begin), daemon=True)
        worker = _Worker(process, ours)
        try:
            process.start()
        except BrokenPipeError as error:  # killed while it started
            raise _died(worker) from error
        finally:
            theirs.close()
        return worker


@dataclass(frozen=True)
class _Failure:
    error: Exception


def _give(worker: _Worker, function: Callable[..., Any], index: int, piece: tuple[Any, ...]) -> None:
    worker.pieces.append(index)
    try:
        worker.pipe.send((function, piece))
    except OSError as error:
        raise _died(worker) from error


def _taken(workers: Iterable[_Worker]) -> Iterator[tuple[_Worker, int, Any]]:
    """What workers answered: (worker, index, result); the index of the message that it is ready is −1."""
    for worker in workers:
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise _died(worker) from error
        index = worker.pieces.pop(0) if worker.ready else -1
        worker.ready = True
        yield worker, index, answer


def _died(worker: _Worker) -> XecError:
    worker.process.join(timeout=10)
    code = worker.process.exitcode
    return XecError(
        "a worker process died",
        found=signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}",
        remedy="most likely memory ran out: use fewer workers; the same command continues where this one stopped",
    )


# -- in the worker --------------------------------------------------------------------------------------------------


def _work(pipe: Connection, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, calls), daemon=True).start()
    begin(*arguments)
    pipe.send(None)  # ready
    while True:
        function, piece = calls.get()
        try:
            answer = function(*piece)
        except (XecError, OSError) as error:
            answer = _Failure(error)
        except Exception:  # noqa: BLE001  not every exception survives pickle: its traceback does
            answer = _Failure(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        pipe.send(answer)


def _read(pipe: Connection, calls: queue.SimpleQueue[Call]) -> None:
    """Take what is sent as it comes, so that the parent never waits for this process, and end with the parent."""
    try:
        while True:
            calls.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)

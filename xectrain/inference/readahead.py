"""Reading in threads while the consumer works on what was read before, in order and in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ingest.reading.rootio import Chunk, Source, SourceReader, read_chunks

T = TypeVar("T")
AHEAD = 3
"""Items read while the consumer works on another."""
LARGEST_BLOCK = 4096
"""Storage blocks of more events are read by one thread, a piece at a time: whole ones would take too much memory."""


@dataclass
class _Failure:
    error: BaseException


@dataclass
class _Feed:
    """Hand-over between the reading thread and its consumer."""

    items: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(AHEAD))
    stopped: threading.Event = field(default_factory=threading.Event)

    def put(self, item: Any) -> bool:
        while not self.stopped.is_set():
            try:
                self.items.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


_END = object()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, produced by a thread up to `AHEAD` in advance; an exception comes out where it belongs."""
    feed = _Feed()

    def produce() -> None:
        try:
            for item in items:
                if not feed.put(item):
                    return
            feed.put(_END)
        except BaseException as error:  # noqa: BLE001  handed to the consumer, which raises it
            feed.put(_Failure(error))

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := feed.items.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        feed.stopped.set()
        thread.join()


def read_source(source: Source, step: int, threads: int) -> Iterator[Chunk]:
    """All events of a source in order, in chunks of about `step`, read by several threads.

    Decompression runs outside the interpreter lock, so threads help. Each has the file open for itself and takes whole
    storage blocks, so that no basket is decoded twice; at most `threads + AHEAD` chunks are in memory.
    """
    with SourceReader(source) as reader:
        ranges = _ranges(reader.boundaries().tolist(), step)
    if threads == 1 or max(stop - start for start, stop in ranges) > max(LARGEST_BLOCK, step):
        yield from ahead(read_chunks(source, step=step))
        return
    waiting: deque[Future[Chunk]] = deque()
    with _Readers(source) as readers, ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for start, stop in ranges:
                waiting.append(pool.submit(readers.read, start, stop))
                if len(waiting) >= threads + AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _ranges(boundaries: list[int], step: int) -> list[tuple[int, int]]:
    """Consecutive storage blocks taken together until they hold at least `step` events."""
    ranges, start = [], boundaries[0]
    for stop in boundaries[1:]:
        if stop - start >= step or stop == boundaries[-1]:
            ranges.append((start, stop))
            start = stop
    return ranges


class _Readers:
    """One open reader per thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.local = threading.local()
        self.opened: list[SourceReader] = []

    def read(self, start: int, stop: int) -> Chunk:
        """Entries [start, stop), by this thread's reader."""
        if not hasattr(self.local, "reader"):
            self.local.reader = SourceReader(self.source)
            self.opened.append(self.local.reader)
        chunk: Chunk = self.local.reader.read(start, stop)
        return chunk

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self.opened:
            reader.close()

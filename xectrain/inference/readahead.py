"""Reading in threads while the consumer works on what was read before, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat, takewhile
from typing import TypeVar

from ingest.reading.rootio import Chunk, Source, SourceReader, read_chunks
from xectrain.workers import buffered_map

T = TypeVar("T")
AHEAD = 3
"""Items read while the consumer works on another."""
LARGEST_BLOCK = 4096
"""Storage blocks of more events are read by one thread, a piece at a time: whole ones would take too much memory."""


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, produced by a thread up to `AHEAD` in advance; an exception is raised in its place."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        produced = buffered_map(pool, lambda _: next(items, end), repeat(None), AHEAD)
        yield from takewhile(lambda item: item is not end, produced)


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
    with _Readers(source) as readers, ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        yield from buffered_map(pool, readers.read, ranges, threads + AHEAD)


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

    def read(self, entries: tuple[int, int]) -> Chunk:
        """Entries [start, stop), by this thread's reader."""
        if not hasattr(self.local, "reader"):
            self.local.reader = SourceReader(self.source)
            self.opened.append(self.local.reader)
        chunk: Chunk = self.local.reader.read(*entries)
        return chunk

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self.opened:
            reader.close()

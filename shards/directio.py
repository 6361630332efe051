"""Write a large file past the page cache.

Shards are written once, fsynced, and read again much later or on another machine. Pages of the cache that are filled
only to be written out can cost more processor time than everything else about a shard; with O_DIRECT the data go to the
disk from where they are. Where a file system does not support that (some network ones), writes are ordinary.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

BUFFER = 4 << 20
ALIGNMENT = 4096
"""Addresses, offsets and sizes of direct writes are multiples of this."""

DIRECT = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A new file, written from front to end, by a thread of its own while the caller makes the next piece.

    A context manager; not fsynced, which is for whoever publishes the file. Errors of writing are raised by a later
    call or at the end of the block.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._direct = bool(DIRECT)
        try:
            self._handle = os.open(path, flags | DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct, self._handle = False, os.open(path, flags, 0o666)
        self._buffers = [memoryview(mmap.mmap(-1, BUFFER)) for _ in range(2)]  # memory that is aligned to pages
        self._filled = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def write(self, data: memoryview) -> None:
        """Append `data` (contiguous)."""
        left = data.cast("B")
        while left:
            size = min(len(left), BUFFER - self._filled)
            self._buffers[0][self._filled : self._filled + size] = left[:size]
            self._filled += size
            left = left[size:]
            if self._filled == BUFFER:
                self._flush()

    def _flush(self) -> None:
        """Hand the full buffer to the thread, and take the other one, which it has finished with by then."""
        self._wait()
        self._writing = self._thread.submit(self._write, self._buffers[0][: self._filled])
        self._buffers.reverse()
        self._filled = 0

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
        finally:
            self._thread.shutdown(wait=True)
            os.close(self._handle)

    def _write(self, data: memoryview) -> None:
        """Write all of `data`: whole pages directly, what is left of the file's end through the page cache."""
        while data:
            whole = len(data) // ALIGNMENT * ALIGNMENT
            if self._direct and not whole:
                self._ordinary()
            try:
                written = os.write(self._handle, data[:whole] if self._direct else data)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._ordinary()  # opened as asked, but the file system wants another alignment
                continue
            if written % ALIGNMENT:
                self._ordinary()  # a short write, as on a disk that fills up
            data = data[written:]

    def _ordinary(self) -> None:
        """Go on through the page cache."""
        if self._direct:
            fcntl.fcntl(self._handle, fcntl.F_SETFL, fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~DIRECT)
            self._direct = False

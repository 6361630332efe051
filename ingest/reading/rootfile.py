"""Opening ROOT files with uproot: plain positioned reads, one list of what can go wrong, trees found by name.

Reading with `pread` instead of a memory map costs one copy of the compressed bytes and buys errors instead of SIGBUS
where a file shrinks or a network file system fails, and a resident set that does not grow with what was read. zlib
baskets are decompressed by libdeflate, which takes half of zlib's time and verifies the same checksums.
"""

from __future__ import annotations

import os
import queue
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward  # noqa: F401  (uproot needs it for jagged data; imported with it, not at the first such branch)
import cramjam
import deflate
import numpy as np
import uproot
import uproot.compression
import uproot.deserialization
import uproot.source.chunk
import uproot.source.futures

from shards.base import CorruptError, InputError, nearest

DECODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    cramjam.DecompressionError,
    deflate.DeflateError,
    struct.error,
    uproot.deserialization.DeserializationError,
    zlib.error,
)
"""What uproot and the decompressors raise on damaged bytes: damage can lead anywhere in their code."""

TREE_CLASSES = ("TTree", "TNtuple", "TNtupleD", "TChain", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")


class _Libdeflate(uproot.ZLIB):  # type: ignore[misc]
    """What `uproot.ZLIB.library = "deflate"` promises: in uproot 5.7 that choice reaches only what is written."""

    def decompress(self, data: Any, uncompressed_bytes: int) -> Any:
        """The bytes of a zlib stream of known size; DeflateError where it is damaged."""
        return deflate.zlib_decompress(data, uncompressed_bytes)


uproot.compression._decompress_ZLIB = _Libdeflate(1)  # the level is for writing only


class PreadSource(uproot.source.chunk.Source):  # type: ignore[misc]
    """A byte source for uproot that reads with `os.pread`; any number of threads may share it."""

    def __init__(self, file_path: str, **options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self._handle = os.open(file_path, os.O_RDONLY)
        self._num_bytes = os.fstat(self._handle).st_size

    def chunk(self, start: int, stop: int) -> Any:
        """The bytes [start, stop) as an uproot chunk; shorter at the end of the file, which uproot notices."""
        pieces, position = [], start
        while position < stop:
            piece = os.pread(self._handle, stop - position, position)
            if not piece:
                break
            pieces.append(piece)
            position += len(piece)
        data = np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), dtype=np.uint8)
        return uproot.source.chunk.Chunk(self, start, stop, uproot.source.futures.TrivialFuture(data))

    def chunks(self, ranges: list[tuple[int, int]], notifications: queue.Queue[Any]) -> list[Any]:
        """Several chunks, each also put into `notifications`."""
        chunks = [self.chunk(start, stop) for start, stop in ranges]
        for chunk in chunks:
            notifications.put(chunk)
        return chunks

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._handle < 0

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> PreadSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file_path!r}>"


def open_file(path: Path) -> Any:
    """An uproot directory of the ROOT file `path`; close it.

    Raises:
        InputError: missing, unreadable, or not a ROOT file.
        CorruptError: it starts as a ROOT file, but its directory cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "a device or pipe"
            raise InputError(f"is not a ROOT file: it is {what}", file=path)
        with open(path, "rb") as handle:
            magic = handle.read(4)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    if magic != b"root":
        found = f"{magic!r} at its start" if magic else "an empty file"
        raise InputError("is not a ROOT file", file=path, found=found, expected="b'root'")
    try:
        return uproot.open(path, handler=PreadSource, object_cache=None, array_cache=None)
    except DECODE_ERRORS as error:
        raise CorruptError(
            "cannot be opened as a ROOT file", file=path, found=short(error), remedy=COPY_AGAIN
        ) from error


TOY = "toymc"
"""Name of the options that the toy Monte Carlo leaves in its files."""
COPY_AGAIN = "copy or produce the file again; --skip-bad-files makes root2shards and infer go on without it"


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """`open_file` for the length of a block."""
    directory = open_file(path)
    try:
        yield directory
    finally:
        directory.close()


def short(error: BaseException) -> str:
    """The first line of an error's message with its kind: uproot's run over many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return f"{type(error).__name__}: {text[:160]}"


def tree_paths(directory: Any) -> dict[str, list[int]]:
    """Paths inside the file of all trees and RNTuples, each with its cycles, newest first."""
    found: dict[str, list[int]] = {}
    for key, kind in directory.classnames(recursive=True, cycle=True).items():
        if kind in TREE_CLASSES:
            path, _, cycle = key.rpartition(";")
            found.setdefault(path, []).append(int(cycle))
    return {path: sorted(cycles, reverse=True) for path, cycles in found.items()}


def find_tree(directory: Any, path: Path, wanted: str) -> tuple[str, Any, list[int]]:
    """The tree `wanted` of an open file: its path inside the file, the uproot object, and its cycles, newest first.

    A name without a folder is also found in a subdirectory, if only one tree has it. `name;2` asks for a cycle.

    Raises:
        InputError: no such tree, or several; lists those there are.
    """
    name, _, cycle = wanted.partition(";")
    try:
        trees = tree_paths(directory)
    except DECODE_ERRORS as error:
        raise CorruptError("its directory cannot be read", file=path, found=short(error), remedy=COPY_AGAIN) from error
    matches = [name] if name in trees else [p for p in trees if p.rpartition("/")[2] == name]
    if len(matches) > 1:
        raise InputError(
            f"has several trees named {name!r}", file=path, found=", ".join(matches), remedy="choose one with --tree"
        )
    if not matches:
        has = ", ".join(trees) if trees else "no tree at all"
        raise InputError(
            f"has no tree {name!r}", file=path, found=has, remedy=nearest(name, trees) + " (--tree)" if trees else None
        )
    cycles = trees[matches[0]]
    if cycle and (not cycle.isdigit() or int(cycle) not in cycles):
        raise InputError(f"has no cycle {cycle} of {matches[0]!r}", file=path, found=f"cycles {cycles}")
    try:
        return matches[0], directory[f"{matches[0]};{cycle or cycles[0]}"], cycles
    except DECODE_ERRORS as error:
        raise CorruptError(
            "cannot be read", file=path, item=matches[0], found=short(error), remedy=COPY_AGAIN
        ) from error


def file_uuid(directory: Any) -> str:
    """The file's UUID as 32 hexadecimal digits; empty where it has none."""
    value = str(directory.file.uuid.hex)
    return "" if set(value) <= {"0"} else value

"""Trees out: rows streamed into real TTrees of fixed-size branches, readable by ROOT and by any other reader.

A file is written under a temporary name and renamed when it is whole. Memory does not depend on the number of rows:
they are collected into chunks of a fixed size, and each chunk is one `extend`, which is one basket per branch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from ingest.reading.rootfile import opened
from shards.base import CorruptError, InputError, OutputError, published
from shards.whole import inexact

logger = logging.getLogger(__name__)

PREDICTIONS, METADATA = "predictions", "metadata"
COMPRESSION_LEVEL = 1
CHUNK_ROWS = 8192
"""Rows per `extend`: baskets of 64 kB for a float64 branch. Every `extend` rewrites the list of baskets, so that many
small ones would take time growing with the square of their number."""
CHUNK_BYTES = 64 << 20
"""A chunk is written earlier when its rows are this large (events with 4760 values per branch)."""
TEXT = ak.types.from_datashape("string", highlevel=False)
"""The type of character branches; given its name, uproot would make a parser of such names for every branch."""
NAMED_TYPES = {
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "float32": "float32",
    "float64": "float64",
    "bool": "bool",
}


@dataclass(frozen=True)
class OutputBranch:
    """A fixed-size branch."""

    dtype: str
    """Key of `NAMED_TYPES`."""
    length: int = 1
    """Values per row; 1 is a plain number, not an array of one."""

    def declaration(self) -> Any:
        """What uproot's `mktree` wants."""
        if self.length == 1:
            return np.dtype(NAMED_TYPES[self.dtype])
        return np.dtype((NAMED_TYPES[self.dtype], (self.length,)))


class RootOutput:
    """An open output file. Made by `root_output`."""

    def __init__(self, file: Any, path: Path, branches: Mapping[str, OutputBranch]) -> None:
        self._file, self.path, self.branches = file, path, dict(branches)
        self._tree = file.mktree(PREDICTIONS, {name: branch.declaration() for name, branch in self.branches.items()})
        self.rows = 0
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._pending_rows = 0

    def extend(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Append rows.

        Args:
            columns: one array per branch, (n,) or (n, length); converted to the branch's type.

        Raises:
            OutputError: branches missing or not declared, lengths that differ, or NaN for an integer branch.
        """
        if set(columns) != set(self.branches):
            raise OutputError(
                "branches differ from those declared",
                file=self.path,
                found=sorted(set(columns) - set(self.branches)),
                expected=sorted(set(self.branches) - set(columns)),
            )
        rows = len(next(iter(columns.values())))
        if rows == 0:
            return
        self._pending.append({name: self._fitted(name, np.asarray(columns[name]), rows) for name in self.branches})
        self.rows += rows
        self._pending_rows += rows
        if self._pending_rows >= CHUNK_ROWS or self._pending_rows * self._row_bytes() >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far as one basket per branch."""
        if self._pending:
            self._tree.extend({name: np.concatenate([p[name] for p in self._pending]) for name in self.branches})
            self._pending, self._pending_rows = [], 0

    def _row_bytes(self) -> int:
        return sum(np.dtype(NAMED_TYPES[b.dtype]).itemsize * b.length for b in self.branches.values())

    def _fitted(self, name: str, values: NDArray[Any], rows: int) -> NDArray[Any]:
        branch = self.branches[name]
        shape = (rows,) if branch.length == 1 else (rows, branch.length)
        if values.shape != shape:
            raise OutputError("has the wrong shape", file=self.path, item=name, found=values.shape, expected=shape)
        dtype = np.dtype(NAMED_TYPES[branch.dtype])
        if dtype.kind == "i" and values.dtype.kind == "f" and not bool(np.all(np.isfinite(values))):
            raise OutputError(
                "is missing in some events, and an integer branch cannot hold that",
                file=self.path,
                item=name,
                found=f"row {self.rows + int(np.argmin(np.isfinite(values)))}",
            )
        if dtype == np.float64 and values.dtype.kind == "i" and (big := inexact(values)).any():
            raise OutputError(
                "is an integer beyond 2⁵³, but another input lacks it or has fractions there",
                file=self.path,
                item=name,
                found=int(values.flat[big.argmax()]),
                remedy="predict these inputs separately",
            )
        return np.ascontiguousarray(values, dtype=dtype)

    def metadata(self, values: Mapping[str, str | int | float]) -> None:
        """Write the one-row tree `metadata`; strings become character branches, integers 64-bit, floats doubles."""
        tree = self._file.mktree(
            METADATA, {name: TEXT if isinstance(v, str) else np.asarray(v).dtype for name, v in values.items()}
        )
        tree.extend({name: [v] if isinstance(v, str) else np.asarray([v]) for name, v in values.items()})


@contextmanager
def root_output(path: Path, branches: Mapping[str, OutputBranch]) -> Iterator[RootOutput]:
    """Open `path` for streaming; it appears under its name when the block succeeds, and not at all when it fails.

    Args:
        path: the final name.
        branches: of the tree `predictions`, in order.
    """
    with published(path) as part:
        # A file, not a name: uproot would take what is behind `::` in a name for the path of an object.
        with open(part, "wb+") as handle, uproot.recreate(handle, compression=uproot.LZ4(COMPRESSION_LEVEL)) as file:
            output = RootOutput(file, path, branches)
            yield output
            output.flush()
        _check(part, path, output.rows)


def _check(part: Path, path: Path, rows: int) -> None:
    """Read the finished file's structure back: two TTrees, every row there."""
    with opened(part) as file:
        classes = {name: file[name].classname for name in file.keys(cycle=False)}
        if classes != {PREDICTIONS: "TTree", METADATA: "TTree"}:
            raise OutputError("does not hold the two trees that it should", file=path, found=classes)
        if file[PREDICTIONS].num_entries != rows:
            raise OutputError("lost rows", file=path, found=file[PREDICTIONS].num_entries, expected=rows)


def read_metadata(path: Path) -> dict[str, str | int | float]:
    """The one row of a file's `metadata` tree.

    Raises:
        InputError: not a ROOT file of predictions.
        CorruptError: the file is damaged.
    """
    try:
        with opened(path) as file:
            if METADATA not in file.keys(cycle=False):
                raise InputError("has no tree `metadata`, so it was not written by `xec infer`", file=path)
            arrays = file[METADATA].arrays(library="np")
    except (OSError, ValueError, EOFError, uproot.DeserializationError) as error:
        raise CorruptError(f"cannot be read: {str(error).strip().partition(chr(10))[0]}", file=path) from error
    return {name: value[0] if isinstance(value[0], str) else value[0].item() for name, value in arrays.items()}


def read_rows(path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows of a file of predictions, in chunks of bounded size.

    Raises:
        CorruptError: the file is damaged.
    """
    try:
        with uproot.open(path) as file:
            tree = file[PREDICTIONS]
            for start in range(0, tree.num_entries, CHUNK_ROWS):
                yield tree.arrays(library="np", entry_start=start, entry_stop=start + CHUNK_ROWS)
    except (OSError, ValueError, EOFError, KeyError, uproot.DeserializationError) as error:
        raise CorruptError(f"cannot be read: {str(error).strip().partition(chr(10))[0]}", file=path) from error

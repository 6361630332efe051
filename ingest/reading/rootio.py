"""Reading events from ROOT files: chunks of arrays, in memory that does not depend on the file.

Used by conversion, by inference straight from ROOT, and by the event display:

    for source in open_sources(["run*.root"], schema="real"):
        for chunk in read_chunks(source, step=512):
            ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.reading.binding import BoundColumn
from ingest.reading.branches import InputBranch, Reader, Where, describe, open_reader
from ingest.reading.rootfile import find_tree, open_file
from ingest.reading.sources import Skipped, Source, open_source, open_sources
from shards.base import InputError
from shards.identity import IDENTITY
from shards.manifest import N_SENSORS
from shards.whole import inexact

HUGE = 9e9
"""Floating-point scalars beyond this are codes, not numbers (the input marks "missing" with 1e10)."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive events."""

    entry_start: int
    npho: npt.NDArray[np.float32]
    """(n, 4760), photons, as they are in the file."""
    time: npt.NDArray[np.float32]
    """(n, 4760), s; all NaN where the tree has no times."""
    columns: dict[str, npt.NDArray[Any]]
    """(n,) each, in the column's unit: float64, NaN where unknown; int64 where that alone is exact."""
    dead: npt.NDArray[np.bool_] | None
    """(n, 4760), from the `dead` branch; None where there is none."""
    empty: npt.NDArray[np.bool_] | None = None
    """(n,), events whose photon or time vector holds nothing; None where there are none."""
    invalid: dict[str, int] = field(default_factory=dict)
    """How many values of each column were non-finite, huge or at a code, and are NaN now; only those that had any."""

    def __len__(self) -> int:
        return len(self.npho)


class SourceReader:
    """An open source; read entry ranges in ascending order so that every basket is decoded once. A context manager."""

    def __init__(self, source: Source) -> None:
        """
        Raises:
            InputError: the file is gone or unreadable, or has changed since it was opened first.
        """
        self.source = source
        self._directory = open_file(source.path)
        try:
            _check_unchanged(source)
            _, self._tree, _ = find_tree(self._directory, source.path, source.tree)
        except InputError:
            self._directory.close()
            raise
        self._readers: dict[tuple[str, int], Reader] = {}
        self._kinds: dict[str, InputBranch] = {}
        self._empty: npt.NDArray[np.bool_] | None = None

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._directory.close()

    def boundaries(self) -> npt.NDArray[np.int64]:
        """Entry numbers where the photon branch's storage blocks begin, and the number of entries."""
        return self._reader(self.source.binding.npho.branch, N_SENSORS).boundaries()

    def read(self, start: int, stop: int) -> Chunk:
        """Entries [start, stop), everything."""
        columns, invalid = self.read_columns(start, stop)
        self._empty = None
        return Chunk(
            entry_start=start,
            npho=self.read_npho(start, stop),
            time=self.read_time(start, stop),
            columns=columns,
            dead=self.read_dead(start, stop),
            empty=self._empty,
            invalid=invalid,
        )

    def read_npho(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """(n, 4760), photons."""
        bound = self.source.binding.npho
        return self._sensors(bound.branch, bound.factor, start, stop)

    def read_time(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """(n, 4760), s."""
        bound = self.source.binding.time
        if bound is None:
            return np.full((stop - start, N_SENSORS), np.nan, dtype=np.float32)
        return self._sensors(bound.branch, bound.factor, start, stop)

    def read_dead(self, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """(n, 4760), or None without a `dead` branch; what is not a number counts as dead."""
        name = self.source.binding.dead
        if name is None:
            return None
        flags = np.empty((stop - start, N_SENSORS), dtype=np.float32)
        self._reader(name, N_SENSORS).read_into(flags, start)
        return np.asarray(flags != 0)

    def read_columns(
        self, start: int, stop: int, names: Sequence[str] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, int]]:
        """Columns (all, or those named) of entries [start, stop), and how many values of each are unknown."""
        columns: dict[str, npt.NDArray[Any]] = {}
        invalid: dict[str, int] = {}
        raw: dict[str, npt.NDArray[Any]] = {}
        for bound in self.source.binding.columns:
            if names is not None and bound.name not in names:
                continue
            if not bound.branch:
                columns[bound.name] = _filled(bound, self.source, start, stop)
                continue
            if bound.branch not in raw:
                raw[bound.branch] = self._scalars(bound, start, stop)
            values, bad = _cleaned(raw[bound.branch][:, bound.component], bound)
            if bound.name in IDENTITY:
                self._check_identity(bound, values, raw[bound.branch][:, bound.component], start)
            if bad.any():
                invalid[bound.name] = int(bad.sum())
            columns[bound.name] = values
        return columns, invalid

    def _scalars(self, bound: BoundColumn, start: int, stop: int) -> npt.NDArray[Any]:
        """The values of a column's branch as they are in the file, (n, width); integers as such, others as float64."""
        reader, kind = self._reader(bound.branch, bound.width), self._kinds[bound.branch]
        raw = np.empty((stop - start, bound.width), kind.dtype if kind.whole else np.float64)
        reader.read_into(raw, start)
        whole = kind.dtype is not None and kind.dtype.kind in "iu"
        if whole and (big := raw > 2**63 - 1 if bound.exact else inexact(raw)).any():
            entry = start + int(np.flatnonzero(big.any(axis=1))[0])
            limit = "2⁶³" if bound.exact else "2⁵³"
            raise InputError(
                f"the integer of entry {entry} is beyond {limit}, up to which integers are kept exactly",
                file=self.source.path,
                item=f"{self.source.tree}/{bound.branch}",
                found=f"{raw[entry - start].max():.0f}" if raw.dtype.kind == "f" else int(raw[entry - start].max()),
                remedy=_without(bound),
            )
        return raw

    def _check_identity(
        self, bound: BoundColumn, values: npt.NDArray[np.float64], raw: npt.NDArray[Any], start: int
    ) -> None:
        wrong = np.flatnonzero(~(values == np.rint(values)))  # NaN compares false
        if len(wrong):
            raise InputError(
                f"{bound.name} number of entry {start + int(wrong[0])} is not a whole number",
                file=self.source.path,
                item=f"{self.source.tree}/{bound.branch}",
                found=f"{raw[wrong[0]]:g}, which means missing" if abs(raw[wrong[0]]) > HUGE else f"{raw[wrong[0]]:g}",
            )

    def _sensors(self, branch: str, factor: float, start: int, stop: int) -> npt.NDArray[np.float32]:
        out = np.empty((stop - start, N_SENSORS), dtype=np.float32)
        empty = self._reader(branch, N_SENSORS).read_into(out, start)
        if empty is not None:
            self._empty = empty if self._empty is None else self._empty | empty
        if factor != 1.0:
            np.multiply(out, np.float32(factor), out=out, where=np.abs(out) <= HUGE)  # codes such as 1e10 stay codes
        return out

    def _reader(self, branch: str, length: int) -> Reader:
        if (branch, length) not in self._readers:
            where = Where(self.source.path, self.source.tree, branch)
            self._kinds[branch] = describe(self._tree, branch)
            self._readers[branch, length] = open_reader(self._tree, self._kinds[branch], length, where)
        return self._readers[branch, length]


def _check_unchanged(source: Source) -> None:
    status = source.path.stat()
    if (status.st_size, status.st_mtime_ns) != (source.size, source.mtime_ns):
        raise InputError(
            "changed while in use",
            file=source.path,
            found=f"{status.st_size} bytes",
            expected=f"{source.size} bytes and an older date",
            remedy="start again when it is complete",
        )


def _without(bound: BoundColumn) -> str:
    """What to do about a column whose integers cannot be kept."""
    if bound.name not in IDENTITY:
        return f"leave it out of the schema's {'carry' if bound.carried else 'columns'}"
    instead = "number events by entry" if bound.name == "event" else "give runs by a list file (or all are run 0)"
    return f"{instead}, with a schema: columns: [{{names: [{bound.name}], branches: [none]}}]"


def _filled(bound: BoundColumn, source: Source, start: int, stop: int) -> npt.NDArray[Any]:
    if bound.name == "event":
        return np.arange(start, stop, dtype=np.float64)
    return np.full(stop - start, source.run or 0, np.int64 if bound.exact else np.float64)


def _cleaned(raw: npt.NDArray[Any], bound: BoundColumn) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Values in the column's unit, unknown ones as NaN, and which those are."""
    if bound.exact:
        return raw.astype(np.int64), np.zeros(raw.shape, dtype=bool)
    whole = raw.dtype.kind in "iu"
    bad = np.zeros(raw.shape, dtype=bool) if whole else ~(np.abs(raw) <= HUGE)  # NaN compares false
    for code in bound.invalid:
        bad |= raw == code
    return np.where(bad, np.nan, raw * bound.factor), bad


def read_chunks(source: Source, step: int = 1024, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
    """Entries [start, stop) of `source`, `step` at a time.

    Memory: `step` events and one basket per branch, whatever the length of the file.

    Raises:
        CorruptError: a basket cannot be read; names the entries it holds.
        InputError: a jagged branch has an entry of another length.
    """
    last = source.entries if stop is None else min(stop, source.entries)
    with SourceReader(source) as reader:
        for first in range(start, last, step):
            yield reader.read(first, min(first + step, last))


def find_event(sources: Sequence[Source], run: int | None, event: int) -> Chunk:
    """The event of these numbers as a chunk of one; a `run` of None takes the first event of that number.

    Raises:
        InputError: no source has it.
    """
    for source in sources:
        with SourceReader(source) as reader:
            for first in range(0, source.entries, 65536):
                columns, _ = reader.read_columns(first, min(first + 65536, source.entries), IDENTITY)
                hits = columns["event"].astype(np.int64) == event  # a float64 would be equal to its neighbours
                if run is not None:
                    hits &= columns["run"].astype(np.int64) == run
                if hits.any():
                    entry = first + int(np.flatnonzero(hits)[0])
                    return reader.read(entry, entry + 1)
    which = f"event {event}" if run is None else f"run {run} event {event}"
    raise InputError(f"there is no {which} in the input", file=", ".join(str(s.path) for s in sources[:3]))


__all__ = ["Chunk", "Skipped", "Source", "SourceReader", "find_event", "open_source", "open_sources", "read_chunks"]

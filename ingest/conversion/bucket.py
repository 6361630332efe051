"""First pass: a unit of entries becomes rows on disk, cleaned, normalized and sorted by where they go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ingest.conversion.cleaning import Cleaner, sort_keys
from ingest.conversion.plan import INDEX, Plan, Unit
from ingest.conversion.prepare import Prepared
from ingest.conversion.work import Run, UnitResult, WorkFolder
from ingest.reading.rootio import Chunk, SourceReader
from shards.base import InputError, published
from shards.manifest import N_SENSORS
from shards.normalization import NormalizedBatch, SensorCounts
from shards.order import assign_splits
from shards.plausible import PLAUSIBLE, Outside, outside
from shards.whole import inexact, parted, whole_places
from shards.writer import sample_keys

READ = 256
"""Events read at a time: about 10 MB."""
SPILL = 2048
"""Rows sorted at a time: about 80 MB."""
JUDGED = 8
"""Events of a chunk whose sensors are looked at for plausible values."""
GATHER = 8
"""Rows written with one system call, about 300 kB. For larger writes the page cache takes pages 2 MB at a time,
which are those that a virtual machine has given back to its host and waits for; smaller ones cost more by themselves.
"""
WITHOUT_SENSORS = "empty sensor vector"
NOT_SELECTED = "selection"
OVER_MAXIMUM = "max_events"


@dataclass
class _Tally:
    """What is counted along the way."""

    splits: int
    dropped: dict[str, int] = field(default_factory=dict)
    counts: list[SensorCounts] = field(init=False)
    invalid: list[dict[str, int]] = field(init=False)
    flags: dict[int, tuple[int, npt.NDArray[np.int64]]] = field(default_factory=dict)
    """Run → events, and how often the `dead` branch flags each channel."""
    implausible: dict[str, Outside] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = [SensorCounts.zero() for _ in range(self.splits)]
        self.invalid = [{} for _ in range(self.splits)]

    def drop(self, reason: str, events: int) -> None:
        if events:
            self.dropped[reason] = self.dropped.get(reason, 0) + events

    def flag(self, runs: npt.NDArray[np.float64], dead: npt.NDArray[np.bool_]) -> None:
        for run in np.unique(runs).tolist():
            rows = dead[runs == run]
            events, sums = self.flags.get(int(run), (0, np.zeros(N_SENSORS, np.int64)))
            self.flags[int(run)] = (events + len(rows), sums + rows.sum(axis=0))

    def always_flagged(self) -> dict[str, list[int]]:
        return {str(run): np.flatnonzero(sums == n).tolist() for run, (n, sums) in sorted(self.flags.items())}

    def judge(self, chunk: Chunk, times: str) -> None:
        """Count implausible values; those of sensors in the first events of the chunk only."""
        sensors = {"npho": chunk.npho[:JUDGED], times: chunk.time[:JUDGED]}
        for name, values in (sensors | chunk.columns).items():
            if name in PLAUSIBLE:
                self.implausible[name] = self.implausible.get(name, Outside()) + outside(name, values)

    def count(self, batch: NormalizedBatch, splits: npt.NDArray[np.int8]) -> None:
        if self.splits == 1:
            self.counts[0] = self.counts[0] + batch.counts
            return
        for split in np.unique(splits).tolist():
            self.counts[split] = self.counts[split] + batch[splits == split].counts


class Bucketer:
    """Turns units into sorted rows; keeps its buffers from one unit to the next."""

    def __init__(self, plan: Plan, work: WorkFolder, prepared: Prepared) -> None:
        self._plan, self._work, self._groups = plan, work, prepared.groups
        self._cleaner = Cleaner(plan, prepared.dead)
        self._last_key = None if prepared.last_key is None else np.uint64(prepared.last_key)
        self._layout = plan.settings.layout
        self._rows = self._layout.blank(SPILL)
        self._sensors, self._truths = self._layout.views(self._rows)
        self._index = np.zeros(SPILL, dtype=INDEX)
        self._split = np.zeros(SPILL, dtype=np.int8)

    def convert(self, unit: Unit) -> UnitResult:
        """Convert one unit and publish its files, the marker last.

        Raises:
            InputError: the source cannot be read; with skip_bad_files that becomes part of the result instead.
            OutputError: the work folder cannot be written.
        """
        try:
            result = self._convert(unit)
        except InputError as error:
            if not self._plan.options.skip_bad_files:
                raise
            result = UnitResult((), {}, (), {}, failed=str(error))
        self._work.write_result(unit.number, result)
        return result

    def _convert(self, unit: Unit) -> UnitResult:
        tally = _Tally(len(self._plan.options.splits))
        runs: list[Run] = []
        indexes = [np.zeros(0, dtype=INDEX)]
        with published(self._work.rows(unit.number), durable=False) as part, open(part, "wb", buffering=0) as handle:
            for filled in self._spills(unit, tally):
                order = np.lexsort((self._index["entry"][:filled], self._index["key"][:filled], self._split[:filled]))
                runs += _runs(self._split[order], sum(len(i) for i in indexes))
                indexes.append(self._index[order])
                self._write(handle, order)
        counts = [[getattr(c, f.name) for f in fields(SensorCounts)] for c in tally.counts]
        check = self._work.write_index(unit.number, np.concatenate(indexes), np.array(counts, dtype=np.int64))
        return UnitResult(
            tuple(runs),
            tally.dropped,
            tuple(tally.invalid),
            tally.always_flagged(),
            check=check,
            implausible={name: found for name, found in tally.implausible.items() if found.outside},
        )

    def _spills(self, unit: Unit, tally: _Tally) -> Iterator[int]:
        """Fill the buffers with the unit's events; yield the number of rows whenever they are full, and at the end."""
        filled = 0
        with SourceReader(self._plan.sources[unit.source]) as reader:
            for start in range(unit.start, unit.stop, READ):
                chunk = self._cleaner.calibrated(reader.read(start, min(start + READ, unit.stop)))
                if filled + len(chunk) > SPILL:
                    yield filled
                    filled = 0
                filled += self._take(chunk, unit.source, filled, tally)
        if filled:
            yield filled

    def _take(self, chunk: Chunk, source: int, at: int, tally: _Tally) -> int:
        """Put the events of `chunk` that are kept into the buffers from row `at` on; how many those were."""
        entries = np.arange(chunk.entry_start, chunk.entry_start + len(chunk), dtype=np.int64)
        if chunk.dead is not None:
            tally.flag(chunk.columns["run"], chunk.dead)
        tally.judge(chunk, f"{self._plan.settings.time_reference} times")
        dead = self._cleaner.dead_mask(chunk)
        keys = sort_keys(self._plan, source, entries)
        keep = self._cleaner.selected(chunk, dead)
        tally.drop(NOT_SELECTED, int((~keep).sum()))
        if chunk.empty is not None:
            tally.drop(WITHOUT_SENSORS, int((keep & chunk.empty).sum()))
            keep &= ~chunk.empty
        if self._last_key is not None:
            over = keep & (keys > self._last_key)
            tally.drop(OVER_MAXIMUM, int(over.sum()))
            keep &= ~over
        kept = np.flatnonzero(keep)
        rows = slice(at, at + len(kept))
        self._index["key"][rows], self._index["entry"][rows] = keys[kept], entries[kept]
        self._split[rows] = self._splits(source, chunk, entries)[kept]
        self._truth(chunk, source, kept, rows, tally)
        names = sample_keys([self._plan.sources[source].id], np.zeros_like(kept), entries[kept])
        self._layout.name(self._rows[rows], names)
        tally.count(self._cleaner.normalized(chunk, kept, dead, self._sensors[rows]), self._split[rows])
        self._index["check"][rows] = row_checksums(self._rows[rows])
        return len(kept)

    def _splits(self, source: int, chunk: Chunk, entries: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        split = self._plan.options.splits[0]
        if split is None:
            return np.zeros(len(entries), dtype=np.int8)
        source_id = self._plan.sources[source].id
        run = chunk.columns["run"]
        return assign_splits(split.fractions, split.by, source_id, entries, run, split.seed, self._groups)

    def _truth(self, chunk: Chunk, source: int, kept: npt.NDArray[np.intp], rows: slice, tally: _Tally) -> None:
        """Fill the truth vectors; a column that this source lacks is NaN, which is not counted as a bad value."""
        truth, splits = self._truths[rows], self._split[rows]
        exact = whole_places(self._plan.settings.columns)
        for i, name in enumerate(self._plan.settings.names):
            truth[:, i] = chunk.columns[name][kept] if name in chunk.columns else np.nan
            if name in chunk.columns and chunk.columns[name].dtype.kind == "i" and name not in exact:
                self._require_exact(name, chunk, source)
            if name in chunk.invalid:
                for split, invalid in enumerate(tally.invalid):
                    count = int(np.isnan(truth[splits == split, i]).sum())
                    if count:
                        invalid[name] = invalid.get(name, 0) + count

        for name, place in exact.items():
            truth[:, place[0]], truth[:, place[1]] = parted(chunk.columns[name][kept].astype(np.int64))

    def _require_exact(self, name: str, chunk: Chunk, source: int) -> None:
        big = inexact(chunk.columns[name])
        if big.any():
            raise InputError(
                f"the integer of entry {chunk.entry_start + int(big.argmax())} is beyond 2⁵³",
                file=self._plan.sources[source].path,
                item=name,
                found=int(chunk.columns[name][big.argmax()]),
                expected="less, since another input lacks the column or has fractions there",
                remedy="leave it out of the schema's carry, or convert these inputs separately",
            )

    def _write(self, handle: Any, order: npt.NDArray[np.intp]) -> None:
        """Write rows of the buffer in that order."""
        for start in range(0, len(order), GATHER):
            views = row_views(self._rows, order[start : start + GATHER])
            written = os.writev(handle.fileno(), views)
            while written < sum(view.nbytes for view in views):  # a nearly full disk takes only a part
                while written >= views[0].nbytes:
                    written -= views.pop(0).nbytes
                views[0] = views[0][written:]
                written = os.writev(handle.fileno(), views)


def row_views(rows: npt.NDArray[np.uint8], which: npt.NDArray[np.integer]) -> list[memoryview]:
    """The bytes of some of `rows` (n, stride), for a system call."""
    data, size = rows.reshape(-1).data, rows.shape[1]  # slices of it are made in a third of the time of NumPy's
    return [data[row * size : (row + 1) * size] for row in which.tolist()]


def row_checksums(rows: npt.NDArray[np.uint8]) -> list[int]:
    """A checksum of each of `rows` (n, stride); they name the entries that they belong to."""
    return [xxhash.xxh3_64_intdigest(view) for view in row_views(rows, np.arange(len(rows)))]


def _runs(splits: npt.NDArray[np.int8], rows_before: int) -> list[Run]:
    """The runs that sorted rows make in a file that has `rows_before` rows already."""
    found, first, count = np.unique(splits, return_index=True, return_counts=True)
    return [Run(int(s), rows_before + int(f), int(c)) for s, f, c in zip(found, first, count, strict=True)]

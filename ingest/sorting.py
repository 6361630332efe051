"""Second pass, second half: gather the rows of a shard from all units, in order, and write the shard."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.boundaries import Boundaries, Keys, cut_run, find_boundaries
from ingest.bucket import row_checksum
from ingest.plan import Plan, split_folder
from ingest.work import UnitResult, WorkFolder
from shards.base import CorruptError, OutputError
from shards.manifest import Settings, ShardInfo
from shards.writer import ShardRows, write_shard

IOV = 64
"""Rows read with one system call."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a unit's file that a shard may need."""

    unit: int
    first: int
    stop: int


class Sorter:
    """Writes shards from the units of a plan."""

    def __init__(
        self, plan: Plan, work: WorkFolder, out: Path, results: Mapping[int, UnitResult], bounds: Sequence[Boundaries]
    ) -> None:
        """
        Args:
            results: of every unit that is used, by number.
            bounds: of every split (`boundaries_of`).
        """
        self._plan, self._work, self._out, self._results, self._bounds = plan, work, out, results, bounds
        used = sorted({plan.units[number].source for number in results})
        self.source_ids = [plan.sources[source].id for source in used]
        self._rank = {source: i for i, source in enumerate(used)}
        self._index = {number: work.read_index(number) for number in results}
        self._buffer = np.zeros(0, dtype=plan.record)

    def _pieces(self, split: int, shard: int) -> Iterator[Piece]:
        """The rows that a shard may need. Index files are mapped, so a shard costs a few pages of each, not memory."""
        for number, result in self._results.items():
            keys = self._index[number]["key"]
            for run in result.runs:
                if run.split == split:
                    first, stop = cut_run(keys[run.start : run.start + run.count], self._bounds[split], shard)
                    if stop > first:
                        yield Piece(number, run.start + first, run.start + stop)

    def write(self, split: int, shard: int) -> ShardInfo:
        """Write one shard, and note that it is written.

        Raises:
            CorruptError: rows in the work folder are not what was written there; they will be made again.
            OutputError: the shard cannot be written.
        """
        rows = self._gather(split, shard)
        folder = split_folder(self._out, self._plan.options.splits[split])
        settings = settings_of(self._plan, split)
        info = write_shard(folder, shard, rows, settings, self.source_ids)
        self._work.write_shard(split, shard, info)
        return info

    def _gather(self, split: int, shard: int) -> ShardRows:
        bounds = self._bounds[split]
        pieces = list(self._pieces(split, shard))
        index = np.concatenate([self._index[p.unit][p.first : p.stop] for p in pieces])
        source = np.concatenate(
            [np.full(p.stop - p.first, self._rank[self._plan.units[p.unit].source]) for p in pieces]
        )
        order = np.lexsort((index["entry"], source, index["key"]))
        skip, count = bounds.skip_of(shard), bounds.rows_of(shard)
        order = order[skip : skip + count]
        place = np.full(len(index), -1, dtype=np.int64)
        place[order] = np.arange(count)
        if len(self._buffer) < count:
            self._buffer = np.zeros(count, dtype=self._plan.record)
        rows = self._buffer[:count]
        at = 0
        for piece in pieces:
            n = piece.stop - piece.first
            self._read(piece, place[at : at + n], index["entry"][at : at + n], rows)
            at += n
        return ShardRows(rows["sensors"], rows["truth"], source[order].astype(np.int64), index["entry"][order])

    def _read(
        self, piece: Piece, place: npt.NDArray[np.int64], entries: npt.NDArray[np.int64], rows: npt.NDArray[Any]
    ) -> None:
        """Read the rows of a piece to their places in `rows`; those with place −1 belong to a neighbouring shard."""
        raw = rows.view(np.uint8).reshape(len(rows), -1)
        size = raw.shape[1]
        path = self._work.rows(piece.unit)
        mine = np.flatnonzero(place >= 0)
        if not len(mine):
            return
        first, stop = int(mine[0]), int(mine[-1]) + 1
        if stop - first != len(mine):
            raise AssertionError("rows of one shard lie together in a run")
        with _opened(path) as handle:
            for start in range(first, stop, IOV):
                group = place[start : min(start + IOV, stop)]
                got = os.preadv(handle, [raw[i].data for i in group.tolist()], (piece.first + start) * size)
                if got != size * len(group):
                    raise self._damaged(piece.unit, "rows are missing")
                checks = rows["check"][group].tolist()
                for i, entry, check in zip(group.tolist(), entries[start:].tolist(), checks, strict=False):
                    if row_checksum(raw[i], entry) != check:
                        raise self._damaged(piece.unit, f"checksum of entry {entry} is wrong")

    def _damaged(self, unit: int, problem: str) -> CorruptError:
        self._work.forget(unit)
        return CorruptError(
            f"temporary rows are damaged: {problem}",
            file=self._work.rows(unit),
            remedy="run the same command again: they will be made anew",
        )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"temporary rows cannot be read: {error.strerror}", file=path) from error
    try:
        yield handle
    finally:
        os.close(handle)


def boundaries_of(plan: Plan, work: WorkFolder, results: Mapping[int, UnitResult], split: int) -> Boundaries:
    """Where the shards of a split begin and end, from the index files of all units."""

    def keys() -> Iterator[Keys]:
        for number, result in results.items():
            index = work.read_index(number)
            for run in result.runs:
                if run.split == split:
                    yield index["key"][run.start : run.start + run.count]

    return find_boundaries(keys, plan.settings.events_per_shard)


def settings_of(plan: Plan, split: int) -> Settings:
    """The settings of one of the datasets that a plan writes."""
    return dataclasses.replace(plan.settings, split=plan.options.splits[split])

"""Second pass, second half: gather the rows of a shard from all units, in order, and write the shard."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.conversion.boundaries import Boundaries, Keys, cut_run, find_boundaries
from ingest.conversion.bucket import row_checksums, row_views
from ingest.conversion.plan import Plan, split_folder
from ingest.conversion.work import UnitResult, WorkFolder
from shards.base import CorruptError, OutputError
from shards.manifest import Settings, ShardInfo
from shards.writer import BLOCK_EVENTS, Samples, write_samples

PORTION = 128
"""Rows read at a time, from wherever they are: about 5 MB, which is also within what one system call can gather."""


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
        self._source = np.searchsorted(used, [unit.source for unit in plan.units])  # by unit, of those that are used
        self._buffer = np.zeros((PORTION, plan.settings.layout.stride), np.uint8)

    def _pieces(self, split: int, shard: int) -> Iterator[tuple[Piece, npt.NDArray[np.void]]]:
        """The rows that a shard may need, with their keys and entries.

        Index files are mapped one after another: a shard costs a few pages of each, and no file stays open, however
        many units there are.
        """
        for number, result in self._results.items():
            index = self._work.read_index(number)
            for run in result.runs:
                if run.split == split:
                    keys = index["key"][run.start : run.start + run.count]
                    first, stop = cut_run(keys, self._bounds[split], shard)
                    if stop > first:
                        piece = Piece(number, run.start + first, run.start + stop)
                        yield piece, np.array(index[piece.first : piece.stop])

    def write(self, split: int, shard: int) -> ShardInfo:
        """Write one shard, and note that it is written.

        Raises:
            CorruptError: rows in the work folder are damaged; they will be made again.
            OutputError: the shard cannot be written.
        """
        folder = split_folder(self._out, self._plan.options.splits[split])
        settings = settings_of(self._plan, split)
        info = write_samples(folder, shard, self._gather(split, shard), settings, self.source_ids)
        self._work.write_shard(split, shard, info)
        return info

    def _gather(self, split: int, shard: int) -> Iterator[Samples]:
        """The shard's events in order, read `PORTION` at a time, checked while the cache holds them."""
        bounds = self._bounds[split]
        found = list(self._pieces(split, shard))
        pieces, index = [piece for piece, _ in found], np.concatenate([part for _, part in found])
        units = np.concatenate([np.full(p.stop - p.first, p.unit) for p in pieces])
        rows = np.concatenate([np.arange(p.first, p.stop) for p in pieces])
        source = self._source[units]
        order = np.lexsort((index["entry"], source, index["key"]))
        skip, count = bounds.skip_of(shard), bounds.rows_of(shard)
        order = order[skip : skip + count]
        for start in range(0, count, PORTION):
            chosen = order[start : start + PORTION]
            read = self._read(units[chosen], rows[chosen])
            for first in range(0, len(read), BLOCK_EVENTS):
                part = slice(first, first + BLOCK_EVENTS)
                these = chosen[part]
                self._check(read[part], units[these], index[these])
                yield Samples(read[part], source[these], index["entry"][these])

    def _read(self, units: npt.NDArray[np.integer], rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """These rows of these units, uint8 (n, stride), in a buffer that the next call uses again."""
        raw = self._buffer[: len(rows)]
        size = raw.shape[1]
        for unit in np.unique(units).tolist():
            places = np.flatnonzero(units == unit)
            places = places[np.argsort(rows[places])]
            with _opened(self._work.rows(unit)) as handle:
                for together in np.split(places, np.flatnonzero(np.diff(rows[places]) != 1) + 1):
                    got = os.preadv(handle, row_views(raw, together), int(rows[together[0]]) * size)
                    if got != size * len(together):
                        raise self._damaged(unit, "rows are missing")
        return raw

    def _check(self, rows: npt.NDArray[np.uint8], units: npt.NDArray[np.integer], index: npt.NDArray[np.void]) -> None:
        """Compare rows with their checksums."""
        wrong = np.flatnonzero(np.array(row_checksums(rows), np.uint64) != index["check"])
        if len(wrong):
            raise self._damaged(int(units[wrong[0]]), f"checksum of entry {index['entry'][wrong[0]]} is wrong")

    def _damaged(self, unit: int, problem: str) -> CorruptError:
        self._work.forget(unit)
        return CorruptError(
            f"temporary rows are damaged: {problem}",
            file=self._work.rows(unit),
            remedy="run the same command again: they will be remade",
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

"""A dataset opened for reading: its table, its events by row, and the offsets that make up an index.

data = open_dataset("data/train")            # of shards.opening
rows = data.rows("fiducial and energy > 0.05")
sensors, truth = data.read(rows[:100])
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from shards.base import ConfigError, CorruptError, InputError, nearest
from shards.expressions import condition, inlined
from shards.geometry import Geometry, nominal
from shards.manifest import N_SENSORS, SHARD_FOLDER, Manifest
from shards.normalization import Normalization
from shards.selection import SavedView
from shards.sidecar import OFFSET_COLUMNS, PLACE_COLUMNS, SUMMARY_COLUMNS, read_sidecar, read_sums
from shards.sums import member_sums
from shards.writer import sample_keys

Int64 = npt.NDArray[np.int64]
CACHED_SHARDS = 64


@dataclass(frozen=True)
class MemberOffsets:
    """Where the samples of one shard are in its tar; int64 (events,) each."""

    sensors_offset: Int64
    sensors_size: Int64
    truth_offset: Int64
    truth_size: Int64
    source: Int64
    """Index into the manifest's sources."""
    entry: Int64
    source_ids: tuple[str, ...]

    @cached_property
    def keys(self) -> list[str]:
        """The WebDataset key of each sample."""
        return sample_keys(self.source_ids, self.source, self.entry)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A complete dataset on disk. A *global row* counts events over all shards, in shard and row order."""

    path: Path
    manifest: Manifest

    @classmethod
    def at(cls, path: Path | str) -> Dataset:
        """The dataset in folder `path` as its manifest describes it; `shards.opening.open_dataset` also checks it.

        Raises:
            InputError: there is no complete dataset.
            CorruptError: the manifest is damaged.
        """
        return cls(Path(path), Manifest.read(path))

    @property
    def columns(self) -> list[str]:
        """Names of the truth vector's entries, in order."""
        return list(self.manifest.settings.names)

    @property
    def n_events(self) -> int:
        """Events of all shards."""
        return self.manifest.n_events

    def __len__(self) -> int:
        return self.manifest.n_events

    @property
    def normalization(self) -> Normalization:
        """What the stored sensors are normalized with."""
        return self.manifest.settings.normalization

    @cached_property
    def geometry(self) -> Geometry:
        """Where its sensors are.

        Raises:
            InputError: they were surveyed, and an earlier version did not keep where they are.
        """
        settings = self.manifest.settings
        found = nominal() if settings.survey is None else settings.survey.geometry(settings.geometry)
        if settings.channel_map not in ("", found.digest):
            raise InputError(
                "does not hold the positions of its sensors",
                file=self.path,
                item=f"geometry {settings.geometry}",
                remedy="convert the data again, with the same --geometry: earlier versions kept only its name",
            )
        return found

    @property
    def dtype(self) -> str:
        """Storage type of the sensors, "float32" or "float16"."""
        return self.manifest.settings.dtype

    @property
    def fingerprint(self) -> str:
        """Digest of content and schema; equal for equal datasets wherever they are."""
        return self.manifest.fingerprint

    @cached_property
    def starts(self) -> Int64:
        """Global row of each shard's first event, and the number of events behind them; int64 (shards + 1,)."""
        events = [shard.events for shard in self.manifest.shards]
        return np.concatenate(([0], np.cumsum(events, dtype=np.int64))).astype(np.int64)

    def file(self, shard: int, kind: str) -> Path:
        """The path of a shard's "tar", "idx" or "parquet"."""
        return self.path / SHARD_FOLDER / f"{self.manifest.shards[shard].name}.{kind}"

    @property
    def table_columns(self) -> list[str]:
        """Names that `table` and selections know."""
        shown = [column.name for column in self.manifest.settings.columns if column.role != "rest"]
        return [*shown, *PLACE_COLUMNS, *SUMMARY_COLUMNS, *OFFSET_COLUMNS]

    def table(self, columns: Sequence[str] | None = None, rows: npt.ArrayLike | None = None) -> pl.DataFrame:
        """The sidecars as one table, page checksums verified.

        Args:
            columns: names out of `table_columns`; None for all.
            rows: global rows, in any order, repeats allowed: only their shards are read; None for all in dataset order.

        Raises:
            ConfigError: an unknown column.
            CorruptError: a damaged sidecar.
        """
        names = list(columns) if columns is not None else self.table_columns
        for name in names:
            if name not in self.table_columns:
                raise ConfigError(f"has no column {name!r}", file=self.path, remedy=nearest(name, self.table_columns))
        shard, row = self.shard_of(self.rows() if rows is None else rows)
        shards, place = np.unique(shard, return_inverse=True)
        if not shards.size:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64))
        frames = [self.shard_table(i, names) for i in shards.tolist()]
        table = pl.concat(frames, rechunk=True)
        if rows is None:
            return table
        starts = np.cumsum([0, *(len(frame) for frame in frames)])[:-1]
        return table[starts[place] + row]

    def shard_table(self, shard: int, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of one shard's events, in row order."""
        return read_sidecar(self.file(shard, "parquet"), columns).select(columns)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One column of `table` as float64 (events,), missing values as NaN."""
        series = self.table([name])[name].cast(pl.Float64).fill_null(float("nan"))
        return np.asarray(series.to_numpy(), dtype=np.float64)

    def rows(self, select: str | Sequence[str | None] | None = None) -> Int64:
        """Global rows that pass a selection, ascending.

        Args:
            select: an expression (see `shards.expressions`), or the path of a view file ending in ".json"; several of
                these, all of which must be passed; None for all events.
        """
        found = np.arange(self.n_events, dtype=np.int64)
        for part in [select] if select is None or isinstance(select, str) else select:
            if part is not None:
                found = np.intersect1d(found, self._selected(part), assume_unique=True)
        return found

    def _selected(self, select: str) -> Int64:
        if select.endswith(".json"):
            return self._viewed(SavedView.read(select))
        passing = condition(select, self.table_columns)
        columns = passing.columns or ("entry",)
        found = [np.zeros(0, np.int64)]
        for shard, start in enumerate(self.starts[:-1].tolist()):
            found.append(start + np.flatnonzero(passing(self.shard_table(shard, columns))))
        return np.concatenate(found).astype(np.int64)

    def view(self, expression: str) -> SavedView:
        """The selection by `expression`, to be kept in a view file; the numbers in list files become part of it."""
        whole = inlined(expression)
        return SavedView(whole, self.fingerprint, len(self._selected(whole)))

    def _viewed(self, view: SavedView) -> Int64:
        """Global rows of a view; InputError where it was made of another dataset."""
        if self.fingerprint != view.fingerprint:
            raise InputError(
                "the view was made of another dataset",
                file=self.path,
                found=self.fingerprint[:12],
                expected=view.fingerprint[:12],
                remedy=f"make it again: xec shards select {self.path} {view.expression[:100]!r}",
            )
        rows = self._selected(view.expression)
        if len(rows) != view.count:
            raise CorruptError(
                "the view selects another number of events than it records",
                file=self.path,
                found=len(rows),
                expected=view.count,
            )
        return rows

    def shard_of(self, rows: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shard, row within the shard) of each global row.

        Raises:
            InputError: a row that does not exist, or rows that are not whole numbers (a mask).
        """
        rows = row_numbers(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= self.n_events):
            wrong = rows[(rows < 0) | (rows >= self.n_events)][0]
            raise InputError("has no such row", file=self.path, found=int(wrong), expected=f"0 to {self.n_events - 1}")
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        return shard.astype(np.int64), rows - self.starts[shard]

    def index(self, shard: int) -> MemberOffsets:
        """Member offsets and keys of one shard; those of the last `CACHED_SHARDS` shards are remembered."""
        source_ids = tuple(source.id for source in self.manifest.sources)
        return _read_index(self.file(shard, "parquet"), self.manifest.shards[shard].parquet.sha256, source_ids)

    @cached_property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Events that this process has read and found to be as they were written, bool (events,)."""
        return np.zeros(self.n_events, dtype=bool)

    @cached_property
    def _sums(self) -> Int64:
        """Sums of the events' samples, int64 (events,), as far as `_summed` says that they have been read."""
        return np.empty(self.n_events, dtype=np.int64)

    @cached_property
    def _summed(self) -> npt.NDArray[np.bool_]:
        """Shards whose sums are in `_sums`, bool (shards,)."""
        return np.zeros(len(self.manifest.shards), dtype=bool)

    @cached_property
    def _keeps_sums(self) -> bool:
        return read_sums(self.file(0, "parquet")) is not None

    def has_unseen(self, rows: npt.ArrayLike) -> bool:
        """Whether some of the global rows have sums that have not yet been compared."""
        return self._keeps_sums and not bool(self.seen[row_numbers(rows)].all())

    def require_sums(self, rows: npt.ArrayLike, found: Int64) -> None:
        """Compare samples that are read for the first time with the sums in the sidecars, if there are any.

        Args:
            rows: global rows, (n,).
            found: sums of the bytes that were read (`shards.sums`), (n,).

        Raises:
            CorruptError: a sample has changed.
        """
        if not self._keeps_sums:
            return
        rows = row_numbers(rows)
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        missing = shard[~self._summed[shard]]
        for number in np.unique(missing).tolist():
            known = read_sums(self.file(number, "parquet"))
            if known is None:
                raise CorruptError("lacks the sums of samples", file=self.file(number, "parquet"))
            self._sums[self.starts[number] : self.starts[number + 1]] = known
            self._summed[number] = True
        wrong = self._sums[rows] != found
        if wrong.any():
            place = int(wrong.argmax())
            raise CorruptError(
                "a sample has changed since it was written",
                file=self.file(int(shard[place]), "tar"),
                item=f"row {rows[place] - self.starts[shard[place]]}",
                remedy=f"restore the file; xec shards verify --full {self.path} lists everything that is damaged",
            )
        self.seen[rows] = True

    def read(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Read events by global row, in any order, straight from the tars.

        **Returns** (sensors float32 (n, 4760, 2) as stored, truth float64 (n, columns)).
        """
        sensors, truth = self.read_stored(rows)
        return sensors.astype(np.float32, copy=False), truth

    def read_stored(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]:
        """As `read`, with the sensors in the storage dtype."""
        rows = np.atleast_1d(row_numbers(rows))
        sensors = np.empty((len(rows), N_SENSORS, 2), self.dtype)
        truth = np.empty((len(rows), len(self.columns)), np.float64)
        for places, raw_sensors, raw_truth in self.read_raw(rows):
            sensors[places], truth[places] = raw_sensors, raw_truth
        return sensors, truth

    def read_raw(
        self, rows: npt.ArrayLike, at_once: int = 512
    ) -> Iterator[tuple[Int64, npt.NDArray[np.floating], npt.NDArray[np.float64]]]:
        """Read events by global row, shard by shard: (places in `rows`, sensors in the storage dtype, truth)."""
        wanted = np.atleast_1d(row_numbers(rows))
        shard, row = self.shard_of(wanted)
        order = np.lexsort((row, shard))
        layout = self.manifest.settings.layout
        cuts = np.flatnonzero(np.diff(shard[order])) + 1
        for part in np.split(order, cuts) if order.size else []:
            number = int(shard[part[0]])
            index, path = self.index(number), self.file(number, "tar")
            require_whole(self, number)
            handle = os.open(path, os.O_RDONLY)
            try:
                for start in range(0, len(part), at_once):
                    places = part[start : start + at_once].astype(np.int64)
                    sensors = _members(handle, path, index.sensors_offset[row[places]], layout.sensors_size)
                    truth = _members(handle, path, index.truth_offset[row[places]], layout.truth_size)
                    values = (
                        _decoded(sensors, path, layout.sensors_npy, (N_SENSORS, 2), self.dtype),
                        _decoded(truth, path, layout.truth_npy, (len(self.columns),), "float64"),
                    )
                    if not self.seen[wanted[places]].all():
                        self.require_sums(wanted[places], member_sums(sensors) + member_sums(truth))
                    yield places, *values
            finally:
                os.close(handle)


def require_whole(dataset: Dataset, shard: int) -> None:
    """Check that a tar exists with its recorded size; called before reading it, and when reading fails.

    Raises:
        CorruptError: it is gone, or was cut or replaced.
    """
    path, expected = dataset.file(shard, "tar"), dataset.manifest.shards[shard].tar.bytes
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", file=path, remedy="restore it") from error
    if found != expected:
        raise CorruptError(
            "was cut or replaced", file=path, found=f"{found} bytes", expected=expected, remedy="restore it"
        )


def row_numbers(rows: npt.ArrayLike) -> Int64:
    """`rows` as int64; everything that takes row numbers comes through here.

    Raises:
        InputError: a boolean mask, or numbers that are not whole: neither says which rows are meant.
    """
    found = np.asarray(rows)
    if found.dtype.kind in "iu" and (found.dtype != np.uint64 or not found.size or found.max() < 2**63):
        return found.astype(np.int64, copy=False)
    if not found.size and found.dtype.kind == "f":  # an empty list
        return found.astype(np.int64)
    if found.dtype.kind == "b":
        raise InputError("rows are a boolean mask", expected="row numbers", remedy="numpy.flatnonzero(mask) gives them")
    raise InputError("rows are not whole numbers", found=str(found.dtype), expected="row numbers")


@lru_cache(maxsize=CACHED_SHARDS)
def _read_index(file: Path, digest: str, source_ids: tuple[str, ...]) -> MemberOffsets:
    """`digest` tells a dataset from one written later under the same name."""
    table = read_sidecar(file, (*OFFSET_COLUMNS, *PLACE_COLUMNS))
    columns = {name: np.asarray(table[name].to_numpy(), np.int64) for name in (*OFFSET_COLUMNS, *PLACE_COLUMNS)}
    return MemberOffsets(**columns, source_ids=source_ids)


def _members(handle: int, path: Path, offsets: Int64, size: int) -> npt.NDArray[np.uint8]:
    """The bytes of the members at `offsets`, (len(offsets), size)."""
    raw = np.empty((len(offsets), size), np.uint8)
    for target, offset in zip(raw, offsets.tolist(), strict=True):
        if os.preadv(handle, [target.data], offset) != size:
            raise CorruptError("ends in the middle of a member", file=path, item=f"offset {offset}")
    return raw


def _decoded(
    raw: npt.NDArray[np.uint8], path: Path, header: bytes, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    """The arrays of `.npy` members, (len(raw), *shape); each must start with exactly `header`."""
    if (raw[:, : len(header)] != np.frombuffer(header, np.uint8)).any():
        raise CorruptError(
            "a member is not the array that the manifest describes", file=path, expected=header[10:].strip()
        )
    values = np.ascontiguousarray(raw[:, len(header) :]).view(np.dtype(dtype).newbyteorder("<"))
    return values.reshape(len(raw), *shape)

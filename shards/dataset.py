"""A dataset opened for reading: its table, its events by row, and the offsets an index is made of.

data = Dataset.open("data/train")
rows = data.rows("fiducial and energy > 0.05")
sensors, truth = data.read(rows[:100])
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError, CorruptError, InputError, nearest
from shards.manifest import N_SENSORS, SHARD_FOLDER, Manifest
from shards.sidecar import OFFSET_COLUMNS, PLACE_COLUMNS, SUMMARY_COLUMNS, read_sidecar
from shards.writer import sample_keys

if TYPE_CHECKING:
    import polars as pl

    from shards.normalization import Normalization

Int64 = npt.NDArray[np.int64]
CHECKS = ("quick", "full", "none")
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
    def open(cls, path: Path | str, check: str = "quick") -> Dataset:
        """Open the dataset in folder `path`.

        Args:
            check: "quick" (sizes, counts, index digests, some tar headers), "full" (every byte), or "none".

        Raises:
            InputError: there is no complete dataset.
            CorruptError: the files are not those that were written.
        """
        if check not in CHECKS:
            raise ConfigError("unknown check", found=check, remedy=nearest(check, CHECKS))
        dataset = cls(Path(path), Manifest.read(path))
        if check != "none":
            from shards.operations.verify import verify

            verify(dataset.path, full=check == "full").require()
        return dataset

    @property
    def columns(self) -> list[str]:
        """Names of the truth vector's entries, in order."""
        return list(self.manifest.settings.names)

    @property
    def n_events(self) -> int:
        return self.manifest.n_events

    def __len__(self) -> int:
        return self.manifest.n_events

    @property
    def normalization(self) -> Normalization:
        """What the stored sensors are normalized with."""
        return self.manifest.settings.normalization

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
        return [*self.columns, *PLACE_COLUMNS, *SUMMARY_COLUMNS, *OFFSET_COLUMNS]

    def table(self, columns: Sequence[str] | None = None, rows: npt.ArrayLike | None = None) -> pl.DataFrame:
        """The sidecars as one table, page checksums verified.

        Args:
            columns: names out of `table_columns`; None for all.
            rows: global rows, in any order, repeats allowed: only their shards are read; None for all in dataset order.

        Raises:
            ConfigError: an unknown column.
            CorruptError: a damaged sidecar.
        """
        import polars as pl

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
        import polars as pl

        return pl.DataFrame(pl.from_arrow(read_sidecar(self.file(shard, "parquet"), columns))).select(columns)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One column of `table` as float64 (events,), missing values as NaN."""
        import polars as pl

        series = self.table([name])[name].cast(pl.Float64).fill_null(float("nan"))
        return np.asarray(series.to_numpy(), dtype=np.float64)

    def rows(self, select: str | Sequence[str | None] | None = None) -> Int64:
        """Global rows that pass a selection, ascending.

        Args:
            select: an expression (see `shards.selection`), or the path of a view file ending in ".json"; several of
                these, all of which must be passed; None for all events.
        """
        from shards.selection import select_rows

        rows = np.arange(self.n_events, dtype=np.int64)
        for condition in [select] if select is None or isinstance(select, str) else select:
            if condition is not None:
                rows = np.intersect1d(rows, select_rows(self, condition), assume_unique=True)
        return rows

    def shard_of(self, rows: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shard, row within the shard) of each global row.

        Raises:
            InputError: a row that does not exist.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.n_events):
            raise InputError("has no such event", file=self.path, found=int(rows.max()), expected=f"< {self.n_events}")
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        return shard.astype(np.int64), rows - self.starts[shard]

    def index(self, shard: int) -> MemberOffsets:
        """Member offsets and keys of one shard; those of the last `CACHED_SHARDS` shards are remembered."""
        source_ids = tuple(source.id for source in self.manifest.sources)
        return _read_index(self.file(shard, "parquet"), self.manifest.shards[shard].parquet.sha256, source_ids)

    def read(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Read events by global row, in any order, straight from the tars.

        **Returns** (sensors float32 (n, 4760, 2) as stored, truth float64 (n, columns)).
        """
        sensors, truth = self.read_stored(rows)
        return sensors.astype(np.float32, copy=False), truth

    def read_stored(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]:
        """As `read`, with the sensors in the storage dtype."""
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        sensors = np.empty((len(rows), N_SENSORS, 2), self.dtype)
        truth = np.empty((len(rows), len(self.columns)), np.float64)
        for places, raw_sensors, raw_truth in self.read_raw(rows):
            sensors[places], truth[places] = raw_sensors, raw_truth
        return sensors, truth

    def read_raw(
        self, rows: npt.ArrayLike, at_once: int = 512
    ) -> Iterator[tuple[Int64, npt.NDArray[np.floating], npt.NDArray[np.float64]]]:
        """Read events by global row, shard by shard: (places in `rows`, sensors in the storage dtype, truth)."""
        shard, row = self.shard_of(rows)
        order = np.lexsort((row, shard))
        layout = self.manifest.settings.layout
        cuts = np.flatnonzero(np.diff(shard[order])) + 1
        for part in np.split(order, cuts) if order.size else []:
            number = int(shard[part[0]])
            index, path = self.index(number), self.file(number, "tar")
            handle = os.open(path, os.O_RDONLY)
            try:
                for start in range(0, len(part), at_once):
                    places = part[start : start + at_once]
                    yield (
                        places.astype(np.int64),
                        _members(
                            handle,
                            path,
                            index.sensors_offset[row[places]],
                            layout.sensors_npy,
                            (N_SENSORS, 2),
                            self.dtype,
                        ),
                        _members(
                            handle,
                            path,
                            index.truth_offset[row[places]],
                            layout.truth_npy,
                            (len(self.columns),),
                            "float64",
                        ),
                    )
            finally:
                os.close(handle)


@lru_cache(maxsize=CACHED_SHARDS)
def _read_index(file: Path, digest: str, source_ids: tuple[str, ...]) -> MemberOffsets:
    """`digest` tells a dataset from one written later under the same name."""
    table = read_sidecar(file, (*OFFSET_COLUMNS, *PLACE_COLUMNS))
    columns = {name: np.asarray(table[name].to_numpy(), np.int64) for name in (*OFFSET_COLUMNS, *PLACE_COLUMNS)}
    return MemberOffsets(**columns, source_ids=source_ids)


def _members(
    handle: int, path: Path, offsets: Int64, header: bytes, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    """The arrays of the `.npy` members at `offsets`, (len(offsets), *shape); each must start with exactly `header`."""
    kind = np.dtype(dtype).newbyteorder("<")
    size = len(header) + int(np.prod(shape)) * kind.itemsize
    raw = np.empty((len(offsets), size), np.uint8)
    for target, offset in zip(raw, offsets.tolist(), strict=True):
        if os.preadv(handle, [target.data], offset) != size:
            raise CorruptError("ends in the middle of a member", file=path, item=f"offset {offset}")
    if (raw[:, : len(header)] != np.frombuffer(header, np.uint8)).any():
        raise CorruptError(
            "a member is not the array that the manifest describes", file=path, expected=header[10:].strip()
        )
    values = np.ascontiguousarray(raw[:, len(header) :]).view(kind)
    return values.reshape(len(offsets), *shape)

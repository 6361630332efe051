"""Events for prediction, from shards or straight from ROOT files, in input order and in bounded memory.

A *part* is one dataset or one tree; both give the same kind of chunks, so that inference does not care which it reads.
ROOT goes through the reader and the cleaning that conversion uses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingest.reading.rootio import Chunk, Skipped, Source, open_sources
from pipelines import open_loader
from shards.base import ConfigError, InputError
from shards.columns import COLUMNS, Column
from shards.dataset import Dataset
from shards.dead import DeadList
from shards.expressions import columns_of, evaluate
from shards.geometry import nominal, nominal_faces
from shards.normalization import Normalization, check_remap, mark_dead, normalize
from shards.opening import open_dataset
from shards.plan import View, epoch_order, rank_plan
from shards.sidecar import SUMMARY_COLUMNS, summarize
from shards.whole import joined, whole_places
from xectrain.inference.events import Events
from xectrain.inference.model import Model
from xectrain.inference.readahead import read_source

logger = logging.getLogger(__name__)

CHUNK = 512
"""Events read together: 20 MB of sensors."""
FEW = 16
"""Events that are read one by one, which takes less than starting DALI."""
SHARDS_PER_PLAN = 16
"""Shards read by one plan: a plan holds its rows in memory, a dataset may have any number."""


@dataclass(frozen=True)
class ReadOptions:
    """What is done with events before the network sees them."""

    select: str | None = None
    dead: DeadList | None = None
    """Sensors that count as dead in addition to those marked in the data."""
    backend: str = "auto"
    """Reader of shards, as of `pipelines.open_loader`."""
    threads: int = 2


@dataclass(frozen=True)
class Wanted:
    """How a model would like its events."""

    chunk: int
    """Events per chunk from shards."""
    device: str
    """Where stored sensors go."""
    normalization: Normalization
    """Of the model: decides what counts as bad in raw sensors, when a selection needs it."""

    @classmethod
    def of(cls, model: Model) -> Wanted:
        """Whole batches of the model, for a CPU as many as its workers can compute side by side."""
        batches = 1 if model.workers == 1 else -(-CHUNK // model.batch_size)
        return cls(batches * model.batch_size, model.device, model.facts.normalization)


class Part(Protocol):
    """One dataset or one tree of one file."""

    @property
    def name(self) -> str:
        """Base name, for messages and output files."""
        ...

    @property
    def columns(self) -> dict[str, Column]:
        """What its events have in addition to the sensors."""
        ...

    @property
    def exact(self) -> frozenset[str]:
        """Columns of integers that float64 would not hold exactly: int64, never missing."""
        ...

    @property
    def events(self) -> int:
        """Number of events, before those that `select` leaves out."""
        ...

    @property
    def relative_time(self) -> bool | None:
        """Whether sensor times are relative to `time_min_used`; None without times."""
        ...

    @property
    def geometry(self) -> str:
        """Digest of the geometry."""
        ...

    def counters(self) -> dict[str, int]:
        """Sensor values of each bad-value class, as far as they are known without reading the events."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines its contents, wherever it is: for recognising a finished output."""
        ...

    def check(self, norm: Normalization) -> None:
        """Refuse (ConfigError) a part that cannot be turned into what a model of this normalization wants."""
        ...

    def read(self, wanted: Wanted, settings: ReadOptions) -> Iterator[Events]:
        """Every selected event in order."""
        ...


@dataclass(frozen=True)
class ShardPart:
    """A dataset, in dataset order."""

    dataset: Dataset
    only: NDArray[np.int64] | None = None
    """Global rows to read, ascending; None: all."""
    shards: tuple[int, int] | None = None
    """Range of shards to read, the last excluded; None: all."""

    @property
    def name(self) -> str:
        return self.dataset.path.resolve().name

    @property
    def columns(self) -> dict[str, Column]:
        return {column.name: column for column in self.dataset.manifest.settings.columns if column.role != "rest"}

    @property
    def exact(self) -> frozenset[str]:
        return frozenset(whole_places(self.dataset.manifest.settings.columns))

    @property
    def events(self) -> int:
        if self.only is not None:
            return len(self.only)
        first, last = self._range
        return int(self.dataset.starts[last] - self.dataset.starts[first])

    @property
    def _range(self) -> tuple[int, int]:
        return self.shards or (0, len(self.dataset.manifest.shards))

    @property
    def relative_time(self) -> bool | None:
        return self.dataset.manifest.settings.time_reference == "relative"

    @property
    def geometry(self) -> str:
        return self.dataset.manifest.settings.channel_map

    def counters(self) -> dict[str, int]:
        return self.dataset.manifest.counts.totals()

    def identity(self) -> dict[str, Any]:
        if self.shards is not None:
            return {"dataset": self.dataset.fingerprint, "shards": list(self.shards)}
        if self.only is None:
            return {"dataset": self.dataset.fingerprint}
        rows = hashlib.sha256(np.ascontiguousarray(self.only, dtype="<i8").tobytes()).hexdigest()
        return {"dataset": self.dataset.fingerprint, "rows": rows}

    def check(self, norm: Normalization) -> None:
        check_remap(self.dataset.normalization, norm, self.dataset.dtype)

    def read(self, wanted: Wanted, settings: ReadOptions) -> Iterator[Events]:
        begin, end = self._range
        for first in range(begin, end, SHARDS_PER_PLAN):
            rows = self._rows(first, min(first + SHARDS_PER_PLAN, end), settings.select)
            if rows.size:
                yield from self._read(rows, wanted, settings)

    def _rows(self, first: int, last: int, select: str | None) -> NDArray[np.int64]:
        """Global rows of the shards [first, last) that pass the selection."""
        starts = self.dataset.starts
        rows = self._selected(first, last, select)
        if self.only is None:
            return rows
        low, high = np.searchsorted(self.only, (starts[first], starts[last]))
        return np.intersect1d(rows, self.only[low:high], assume_unique=True)

    def _selected(self, first: int, last: int, select: str | None) -> NDArray[np.int64]:
        starts = self.dataset.starts
        if select is None:
            return np.arange(starts[first], starts[last], dtype=np.int64)
        if select.endswith(".json"):
            rows: NDArray[np.int64] = self.dataset.rows(select)
            return np.asarray(rows[(rows >= starts[first]) & (rows < starts[last])])
        needed = columns_of(select, self.dataset.table_columns) or ["entry"]
        found = []
        for shard in range(first, last):
            table = self.dataset.shard_table(shard, needed)
            found.append(starts[shard] + np.flatnonzero(evaluate(select, table)))
        return np.concatenate(found).astype(np.int64)

    def _read(self, rows: NDArray[np.int64], wanted: Wanted, settings: ReadOptions) -> Iterator[Events]:
        for stored, truth in self._batches(rows, wanted, settings):
            columns: dict[str, NDArray[Any]] = {name: truth[:, i] for i, name in enumerate(self.dataset.columns)}
            whole = whole_places(self.dataset.manifest.settings.columns)
            columns |= {name: joined(truth[:, i], truth[:, j]) for name, (i, j) in whole.items()}
            sensors = self._marked(stored, columns, settings.dead)
            yield Events.stored(sensors, self.dataset.normalization, columns)

    def _batches(
        self, rows: NDArray[np.int64], wanted: Wanted, settings: ReadOptions
    ) -> Iterator[tuple[Tensor, NDArray[np.float64]]]:
        """Sensors as stored and truth of these rows, from the reader that was asked for; of a few, without one."""
        if settings.backend == "auto" and len(rows) <= FEW:
            for start in range(0, len(rows), wanted.chunk):
                values, truth = self.dataset.read(rows[start : start + wanted.chunk])
                yield torch.from_numpy(values).to(wanted.device), truth
            return
        views = [View(self.dataset, rows)]
        plan = rank_plan(epoch_order(views, 0, 0, shuffle=False), min(wanted.chunk, len(rows)))
        with open_loader(
            views, plan, device=wanted.device, backend=settings.backend, threads=settings.threads
        ) as loader:
            for batch in loader:
                real = int((batch.weight > 0).sum())
                yield batch.sensors[:real], batch.truth[:real].numpy()

    def _marked(self, sensors: Tensor, columns: dict[str, NDArray[np.float64]], dead: DeadList | None) -> Tensor:
        where = None if dead is None else dead.mask(_runs(columns, len(sensors)))
        if where is None:
            return sensors
        marked: Tensor = mark_dead(sensors, self.dataset.normalization, torch.from_numpy(where).to(sensors.device))
        return marked


@dataclass(frozen=True)
class RootPart:
    """One tree of a ROOT file, in entry order."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.path.name

    @property
    def columns(self) -> dict[str, Column]:
        return {
            bound.name: COLUMNS.get(bound.name) or Column(bound.name, bound.unit, "carried")
            for bound in self.source.binding.columns
        }

    @property
    def exact(self) -> frozenset[str]:
        return frozenset(bound.name for bound in self.source.binding.columns if bound.exact)

    @property
    def events(self) -> int:
        return self.source.entries

    @property
    def relative_time(self) -> bool | None:
        return self.source.binding.relative if self.source.binding.time is not None else None

    @property
    def geometry(self) -> str:
        """A ROOT file does not say; the nominal one is assumed."""
        return nominal().digest

    def counters(self) -> dict[str, int]:
        return {}

    def identity(self) -> dict[str, Any]:
        names = {bound.name: bound.branch for bound in self.source.binding.columns}
        return {"source": self.source.id, "entries": self.source.entries, "size": self.source.size, "columns": names}

    def check(self, norm: Normalization) -> None:
        """Raw sensors suit every model."""

    def read(self, wanted: Wanted, settings: ReadOptions) -> Iterator[Events]:
        for chunk in read_source(self.source, CHUNK, settings.threads):
            columns = {**chunk.columns, "entry": _entries(chunk)}
            npho, time, dead = chunk.npho, chunk.time, _united(chunk, columns, settings.dead)
            if settings.select is not None:
                keep = _passing(settings.select, chunk, columns, dead, wanted.normalization)
                if not keep.any():
                    continue
                columns = {name: values[keep] for name, values in columns.items()}
                npho, time, dead = npho[keep], time[keep], None if dead is None else dead[keep]
            yield Events.of_raw(npho, time, dead, columns)


def _entries(chunk: Chunk) -> NDArray[np.float64]:
    return np.arange(chunk.entry_start, chunk.entry_start + len(chunk), dtype=np.float64)


def _runs(columns: dict[str, NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    return columns.get("run", np.full(count, np.nan))


def _united(chunk: Chunk, columns: dict[str, NDArray[np.float64]], dead: DeadList | None) -> NDArray[np.bool_] | None:
    listed = None if dead is None else dead.mask(_runs(columns, len(chunk)))
    if listed is None or chunk.dead is None:
        return chunk.dead if listed is None else listed
    return np.asarray(chunk.dead | listed)


def _passing(
    select: str,
    chunk: Chunk,
    columns: dict[str, NDArray[np.float64]],
    dead: NDArray[np.bool_] | None,
    norm: Normalization,
) -> NDArray[np.bool_]:
    """Which events of a chunk pass; sensor summaries are made when the expression names one."""
    table = dict(columns)
    if set(columns_of(select, [*columns, *SUMMARY_COLUMNS])) & set(SUMMARY_COLUMNS):
        sensors = normalize(chunk.npho, chunk.time, norm, dead=dead).sensors
        table.update(summarize(sensors, norm, nominal_faces()))
    return evaluate(select, pl.DataFrame(table))


def open_parts(
    data: Sequence[Path], schema: str = "mc", tree: str | None = None, skipped: list[Skipped] | None = None
) -> list[Part]:
    """The parts that `data` names: shard datasets (folders with a manifest), or ROOT files, folders and lists of them.

    Args:
        skipped: if given, bad ROOT files are recorded here and left out instead of raising.

    Raises:
        InputError: something is missing or damaged, or datasets and ROOT files are mixed.
    """
    are_datasets = [(path / "manifest.json").exists() for path in data]
    if any(are_datasets) and not all(are_datasets):
        raise InputError(
            "the inputs must be shard datasets or ROOT files, not both", found=", ".join(str(p) for p in data)
        )
    if data and all(are_datasets):
        return [ShardPart(open_dataset(path, check="quick")) for path in data]
    return [RootPart(source) for source in open_sources(list(data), tree, schema, skipped)]


def check_selection(parts: Sequence[Part], expression: str) -> None:
    """Refuse an expression that cannot be evaluated on every part.

    Raises:
        ConfigError: it is not an expression, or names a column that a part does not have.
    """
    for part in parts:
        if not isinstance(part, ShardPart):
            columns_of(expression, [*part.columns, "entry", *SUMMARY_COLUMNS])
        elif expression.endswith(".json"):
            part.dataset.rows(expression)
        else:
            columns_of(expression, part.dataset.table_columns)


def count_pieces(parts: Sequence[Part]) -> int:
    """The largest number of shares that parts can be divided into: that of their shards and ROOT files."""
    return sum(len(part.dataset.manifest.shards) if isinstance(part, ShardPart) else 1 for part in parts)


def share(parts: Sequence[Part], index: int, count: int) -> list[tuple[int, Part]]:
    """The `index`-th of `count` consecutive shares of parts, by shards and ROOT files: (number of the part, part).

    The shares are disjoint, and in succession they are all parts in order.

    Raises:
        ConfigError: no such share, or more shares than there are shards and files.
    """
    pieces = count_pieces(parts)
    if not 0 <= index < count:
        raise ConfigError("there is no such share", item="--task-index", found=index, expected=f"0 to {count - 1}")
    if count > pieces:
        raise ConfigError("exceeds the number of shards and files", item="--task-count", found=count, expected=pieces)
    low, high = pieces * index // count, pieces * (index + 1) // count
    found: list[tuple[int, Part]] = []
    start = 0
    for number, part in enumerate(parts):
        size = count_pieces([part])
        first, last = max(low - start, 0), min(high - start, size)
        if first < last:
            if isinstance(part, ShardPart):
                found.append((number, ShardPart(part.dataset, part.only, (first, last))))
            else:
                found.append((number, part))
        start += size
    return found

"""One event from ROOT files or a shard dataset, for the event display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ingest.reading.rootfile import find_tree, opened
from ingest.reading.rootio import Chunk, Source, SourceReader, find_event, open_sources
from shards import geometry as geo
from shards.base import ConfigError, InputError, counted, printable
from shards.identity import IDENTITY
from shards.normalization import HUGE, denormalize
from shards.opening import open_dataset

MANIFEST = "manifest.json"
POINT = ("u", "v", "w")


@dataclass(frozen=True, eq=False)
class Event:
    """What the display needs to know of an event."""

    npho: npt.NDArray[np.float64]
    """float64 (4760,), photons; NaN where dead."""
    time: npt.NDArray[np.float64]
    """float64 (4760,), s; NaN where invalid."""
    dead: npt.NDArray[np.bool_]
    """bool (4760,)."""
    columns: Mapping[str, float]
    """Everything else that is known of the event, in canonical units; NaN where unknown."""
    place: str
    """Where it was found: file or dataset, and entry or row."""

    @property
    def run(self) -> int | None:
        """Run number, None where unknown."""
        return _integer(self.columns.get("run"))

    @property
    def event(self) -> int | None:
        """Event number, None where unknown."""
        return _integer(self.columns.get("event"))

    def point(self, names: Sequence[str] = POINT) -> npt.NDArray[np.float64] | None:
        """Three columns as a point (u, v, w), cm; None unless all are known."""
        values = np.array([self.columns.get(name, math.nan) for name in names])
        return values if np.isfinite(values).all() else None


def read_event(
    paths: Sequence[Path],
    *,
    run: int | None = None,
    event: int | None = None,
    entry: int | None = None,
    schema: str = "mc",
    tree: str | None = None,
) -> Event:
    """Find an event by its numbers, or by its place.

    Args:
        paths: ROOT files (or folders, globs, lists of them), or one folder with a shard dataset.
        run, event: its numbers; without a run the first event of that number.
        entry: its place instead: entry counted over the files, or global row of the dataset.
        schema, tree: how the ROOT files are read; see `ingest.reading.schema`.

    Raises:
        ConfigError: not exactly one of event and entry.
        InputError: no such event, or unreadable input.
    """
    if (event is None) == (entry is None):
        raise ConfigError("exactly one event must be chosen", remedy="give either --event (with --run) or --entry")
    if entry is not None and run is not None:
        raise ConfigError("--run and --entry exclude each other", remedy="give --run with --event, or --entry alone")
    if len(paths) == 1 and (paths[0] / MANIFEST).is_file():
        return _from_dataset(paths[0], run, event, entry)
    return _from_root(paths, run, event, entry, schema, tree)


def _from_root(
    paths: Sequence[Path], run: int | None, event: int | None, entry: int | None, schema: str, tree: str | None
) -> Event:

    sources = open_sources(list(paths), tree=tree, schema=schema)
    if entry is not None:
        chunk, place = _entry_of(sources, entry)
    else:
        assert event is not None
        chunk = find_event(sources, run, event)
        place = f"{printable(sources[0].path.name)}" if len(sources) == 1 else counted(len(sources), "file")
        place += f", entry {chunk.entry_start}"
    npho = _cleaned(chunk.npho[0])
    dead = np.isnan(npho)
    if chunk.dead is not None:
        dead |= chunk.dead[0]
    columns = {name: values[0].item() for name, values in chunk.columns.items()}
    return Event(npho, _cleaned(chunk.time[0]), dead, columns, place)


def _entry_of(sources: Sequence[Source], entry: int) -> tuple[Chunk, str]:

    total = sum(source.entries for source in sources)
    if not 0 <= entry < total:
        raise InputError(
            f"there is no entry {entry} in the input",
            file=sources[0].path,
            found=f"{total} entries",
            expected=f"0…{total - 1}",
        )
    for source in sources:
        if entry < source.entries:
            break
        entry -= source.entries
    with SourceReader(source) as reader:
        return reader.read(entry, entry + 1), f"{printable(source.path.name)}, entry {entry}"


def _from_dataset(path: Path, run: int | None, event: int | None, entry: int | None) -> Event:

    dataset = open_dataset(path)
    row = entry if entry is not None else _row_of(dataset.table(list(IDENTITY)), path, run, event)
    sensors, truth = dataset.read([row])
    npho, time = denormalize(sensors[0], dataset.normalization)
    columns = dict(zip(dataset.columns, truth[0].tolist(), strict=True))
    numbers = dataset.table([name for name in IDENTITY if name in columns], [row]).row(0, named=True)
    columns |= {name: number for name, number in numbers.items() if number is not None}  # exact beyond 2⁵³, too
    return Event(npho, time, np.isnan(npho), columns, f"{printable(path.name)}, row {row}")


def _row_of(table: pl.DataFrame, path: Path, run: int | None, event: int | None) -> int:
    """Row of a table with columns run and event; `_none_here` if there is none."""
    hit = (table["event"] == event).fill_null(False).to_numpy()
    if run is not None:
        hit &= (table["run"] == run).fill_null(False).to_numpy()
    rows = np.flatnonzero(hit)
    if not len(rows):
        which = f"event {event}" if run is None else f"run {run} event {event}"
        raise InputError(f"there is no {which} in the input", file=path)
    return int(rows[0])


def read_prediction(path: Path, run: int | None, event: int | None) -> dict[str, float]:
    """What a file of predictions says about an event.

    Args:
        path: `predictions.root` of `xec infer`, or a `predictions_*` table (.parquet, .csv) of `xec evaluate`.
        run, event: numbers of the event.

    Returns:
        The numeric columns `pred_*` and `sigma_*` of its row, in canonical units.

    Raises:
        InputError: it holds no predictions, or none for this event.
    """
    table = _prediction_table(path)
    for name in IDENTITY:
        if name not in table.columns:
            raise InputError(
                f"has no column {name!r}", file=path, remedy="only tables with run and event can be matched"
            )
    row = _row_of(table.select(IDENTITY), path, run, event)
    values = table.row(row, named=True)
    return {name: float(v) for name, v in values.items() if name.startswith(("pred_", "sigma_")) and v is not None}


@dataclass(frozen=True, eq=False)
class SensorPrediction:
    """What a model predicted for some sensors of an event; (4760,) each."""

    hidden: npt.NDArray[np.bool_]
    """Where."""
    npho: npt.NDArray[np.float64]
    """Photons; NaN elsewhere or where not predicted."""
    time: npt.NDArray[np.float64] | None
    """s; None when the model predicts no times."""


def read_sensor_prediction(path: Path, run: int | None, event: int | None) -> SensorPrediction | None:
    """What a `predictions.root` of an autoencoder or inpainter says about an event; None for a regressor's file.

    Raises:
        InputError: there is no such event.
    """
    if path.suffix != ".root":
        return None
    with opened(path) as directory:
        _, tree, _ = find_tree(directory, path, "predictions")
        names = set(tree.keys())
        flag = next((name for name in ("mask", "filled", "sensor_id") if name in names), None)
        if flag is None:
            return None
        table = pl.DataFrame(tree.arrays(list(IDENTITY), library="np"))
        first = _row_of(table, path, run, event)
        rows = slice(first, first + 1)
        if flag == "sensor_id":  # one row per hidden sensor: those of an event are consecutive
            same = (table["run"] == table["run"][first]) & (table["event"] == table["event"][first])
            rows = slice(first, first + int(same.sum()))
        prefix = "" if flag == "filled" else "pred_"
        wanted = [flag, *(f"{prefix}{c}" for c in ("npho", "time") if f"{prefix}{c}" in names)]
        found = tree.arrays(wanted, entry_start=rows.start, entry_stop=rows.stop, library="np")
    values: dict[str, npt.NDArray[np.float64]] = {}
    if flag == "sensor_id":
        hidden = np.zeros(geo.N_SENSORS, dtype=bool)
        hidden[found[flag]] = True
        for name in wanted[1:]:
            values[name] = np.full(geo.N_SENSORS, np.nan)
            values[name][found[flag]] = found[name]
    else:
        hidden = found[flag][0].astype(bool)
        values = {name: found[name][0].astype(np.float64) for name in wanted[1:]}
    unknown = np.full(geo.N_SENSORS, np.nan)
    return SensorPrediction(hidden, values.get(f"{prefix}npho", unknown), values.get(f"{prefix}time"))


def _prediction_table(path: Path) -> pl.DataFrame:

    if not path.is_file():
        raise InputError("there is no such file", file=path)
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        if path.suffix == ".csv":
            return pl.read_csv(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"cannot be read: {error}", file=path) from error

    with opened(path) as directory:
        _, tree, _ = find_tree(directory, path, "predictions")
        scalars = [n for n in tree.keys() if n in IDENTITY or n.startswith(("pred_", "sigma_"))]  # noqa: SIM118
        return pl.DataFrame(tree.arrays(scalars, library="np"))


def _cleaned(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.where(np.abs(wide) <= HUGE, wide, np.nan)


def _integer(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)

"""The Parquet sidecar of a shard: one row per event with everything a selection may ask for, and the member offsets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shards.base import CorruptError, InputError
from shards.columns import Column
from shards.normalization import Normalization, valid
from shards.sums import SUM_COLUMN
from shards.whole import joined, parted, whole_places

SUMMARY_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("npho_sum", "photons", "summary", "sum of npho over sensors that are not dead"),
        Column("npho_max", "photons", "summary", "npho of the brightest sensor; NaN when all are dead"),
        Column("brightest", "", "summary", "channel of the brightest sensor; missing when all are dead"),
        Column("brightest_face", "", "summary", "face code of the brightest sensor; missing when all are dead"),
        Column("n_good", "", "summary", "sensors with a photon number and a time"),
        Column("n_dead", "", "summary", "sensors without a photon number"),
        Column("n_time_invalid", "", "summary", "sensors with a photon number but no time"),
    )
}
"""Per-event summaries of the sensors as they are stored."""

PLACE_COLUMNS = ("source", "entry")
OFFSET_COLUMNS = ("sensors_offset", "sensors_size", "truth_offset", "truth_size")
RESERVED = frozenset((*SUMMARY_COLUMNS, *PLACE_COLUMNS, *OFFSET_COLUMNS, SUM_COLUMN))
"""Names that a truth or carried column cannot have."""


PORTION = 16
"""Events summarized at a time: what fits in the processor's cache is done several times as fast."""


def summarize(
    sensors: npt.NDArray[np.floating], norm: Normalization, face: npt.NDArray[np.int8]
) -> dict[str, npt.NDArray[np.float64]]:
    """Per-event summaries of stored sensors.

    Args:
        sensors: (n, S, 2), normalized, as stored.
        face: int8 (S,), face code of each sensor.

    **Returns** float64 (n,) by name (`SUMMARY_COLUMNS`), NaN for missing.
    """
    if len(sensors) > PORTION:
        parts = [summarize(sensors[i : i + PORTION], norm, face) for i in range(0, len(sensors), PORTION)]
        return {name: np.concatenate([part[name] for part in parts]) for name in SUMMARY_COLUMNS}
    planes = np.empty((2, *sensors.shape[:2]), sensors.dtype)  # each channel contiguous: faster
    planes[0], planes[1] = sensors[..., 0], sensors[..., 1]
    lit, timed = valid(np.moveaxis(planes, 0, -1), norm)
    n_lit, n_timed = (np.array([np.count_nonzero(row) for row in mask]) for mask in (lit, timed))
    npho = norm.inverse_npho(planes[0].astype(np.float32, copy=False))  # as exact as what is stored
    where = np.flatnonzero(~lit)  # dead sensors are few
    npho.flat[where] = -np.inf
    brightest = npho.argmax(axis=1)
    largest = npho[np.arange(len(npho)), brightest].astype(np.float64)
    npho.flat[where] = 0.0
    return {
        "npho_sum": npho.sum(axis=1, dtype=np.float64),
        "npho_max": np.where(n_lit, largest, np.nan),
        "brightest": np.where(n_lit, brightest, np.nan),
        "brightest_face": np.where(n_lit, face[brightest], np.nan),
        "n_good": n_timed.astype(np.float64),
        "n_dead": (sensors.shape[1] - n_lit).astype(np.float64),
        "n_time_invalid": (n_lit - n_timed).astype(np.float64),
    }


def whole_numbers(values: npt.NDArray[np.float64], name: str) -> pa.Array:
    """float64 `values` as nullable int64, NaN as missing; refuses fractions (`InputError`)."""
    missing = np.isnan(values)
    numbers = np.where(missing, 0, values)
    if (numbers != np.rint(numbers)).any() or (np.abs(numbers) > 2**53).any():
        worst = numbers[(numbers != np.rint(numbers)) | (np.abs(numbers) > 2**53)][0]
        raise InputError("is not a whole number", item=name, found=worst)
    return _arrow(numbers.astype(np.int64), missing)


def write_sidecar(
    path: Path,
    columns: Sequence[Column],
    truth: npt.NDArray[np.float64],
    place: dict[str, npt.NDArray[np.int64]],
    summaries: dict[str, npt.NDArray[np.float64]],
    offsets: dict[str, npt.NDArray[np.int64]],
    sums: npt.NDArray[np.int64],
) -> None:
    """Write the Parquet file of one shard at `path` (a temporary name): equal arguments give equal bytes.

    Args:
        columns: of the truth vector; `identity` ones and those with a `rest` become integers.
        truth: float64 (n, len(columns)).
        place: "source" (index into the manifest's sources) and "entry", (n,).
        summaries: of `summarize`.
        offsets: payload offsets and sizes by `OFFSET_COLUMNS`, (n,).
        sums: of the samples in the tar, (n,).
    """
    whole = {"brightest", "brightest_face", "n_good", "n_dead", "n_time_invalid"}
    table: dict[str, pa.Array] = {}
    exact = whole_places(columns)
    for i, column in enumerate(columns):
        values = np.ascontiguousarray(truth[:, i])
        if column.name in exact:
            table[column.name] = _arrow(joined(values, truth[:, exact[column.name][1]]))
        elif column.role != "rest":
            table[column.name] = whole_numbers(values, column.name) if column.role == "identity" else _arrow(values)
    table |= {name: _arrow(place[name]) for name in PLACE_COLUMNS}
    table |= {
        name: whole_numbers(values, name) if name in whole else _arrow(values) for name, values in summaries.items()
    }
    table |= {name: _arrow(offsets[name]) for name in OFFSET_COLUMNS}
    table[SUM_COLUMN] = _arrow(sums)
    pq.write_table(
        pa.table(table),
        path,
        row_group_size=max(len(truth), 1),
        compression="zstd",
        store_schema=False,
        write_page_checksum=True,
    )


def _arrow(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """A column of int64 or float64 `values` (n,); `pa.array` would import pandas, which takes longer than a shard."""
    kind, valid = pa.from_numpy_dtype(values.dtype), None
    if missing is not None and missing.any():
        valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def read_sidecar(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read (some columns of) a sidecar, page checksums verified; a column that is not there is left out.

    Raises:
        CorruptError: it is missing or damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(f"cannot be read: {error}", file=path) from error
    return pl.DataFrame(pl.from_arrow(table))  # whose `to_numpy` does not import pandas, as pyarrow's does


def read_sums(path: Path) -> npt.NDArray[np.int64] | None:
    """The sums of a shard's samples, int64 (n,); None in datasets of earlier versions.

    Raises:
        CorruptError: the sidecar is missing or damaged.
    """
    table = read_sidecar(path, [SUM_COLUMN])
    return table[SUM_COLUMN].to_numpy() if SUM_COLUMN in table.columns else None


def truth_vectors(table: pl.DataFrame, columns: Sequence[Column]) -> npt.NDArray[np.float64]:
    """The truth vectors that a sidecar was written from, float64 (n, len(columns)), missing values as NaN."""
    places = whole_places(columns)
    truth = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        if column.role != "rest":
            truth[:, i] = table[column.name].cast(pl.Float64).to_numpy()
    for name, place in places.items():
        truth[:, place[0]], truth[:, place[1]] = parted(table[name].to_numpy())
    return truth

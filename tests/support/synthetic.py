"""Tiny datasets written by the real writer, in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shards.columns import COLUMNS, Column, canonical_order
from shards.dataset import Dataset
from shards.geometry import nominal
from shards.manifest import Settings, SourceInfo
from shards.normalization import Normalization, normalize, preset
from shards.opening import open_dataset
from shards.order import event_keys, sort_events
from shards.writer import DatasetWriter, ShardRows

DEFAULT_COLUMNS = ("run", "event", "theta", "phi", "energy", "timing", "time_min_used", "u", "v", "w")
N_SENSORS = 4760


def make_events(
    n: int, seed: int = 0, columns: Sequence[str] = DEFAULT_COLUMNS, first_event: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw events with no physics but with the right ranges, some dead, negative and untimed sensors.

    **Returns** (npho float32 (n, 4760) photons, time float32 (n, 4760) s, truth float64 (n, len(columns))).
    """
    rng = np.random.default_rng((seed, n, first_event))
    npho = rng.exponential(300.0, (n, N_SENSORS)).astype(np.float32) - 2
    time = rng.uniform(0, 1e-7, (n, N_SENSORS)).astype(np.float32)
    npho[:, ::97] = np.nan
    npho[rng.random(npho.shape) < 0.001] = 1e10
    time[npho < 10] = 1e10
    ranges = {
        "run": (430000, 430004),
        "theta": (60, 120),
        "phi": (-60, 60),
        "energy": (0.045, 0.056),
        "timing": (-5, 5),
        "time_min_used": (-7e-7, -6e-7),
        "u": (-33, 33),
        "v": (-71, 71),
        "w": (0, 41),
    }
    truth = {name: rng.uniform(*ranges.get(name, (-1, 1)), n) for name in columns}
    truth |= {name: np.floor(truth[name]) for name in ("run",) if name in truth}
    if "event" in truth:
        truth["event"] = np.arange(first_event, first_event + n, dtype=np.float64)
    if "n_gamma" in truth:
        truth["n_gamma"] = rng.integers(1, 3, n).astype(np.float64)
    if "u" in truth:
        truth["u"][rng.random(n) < 0.02] = np.nan
    return npho, time, np.stack([truth[name] for name in columns], axis=1)


def make_dataset(
    path: Path | str,
    events: int = 100,
    events_per_shard: int = 32,
    seed: int = 0,
    dtype: str = "float32",
    columns: Sequence[str] = DEFAULT_COLUMNS,
    *,
    normalization: Normalization | None = None,
    sources: int = 2,
    shuffle: bool = True,
    first_source: int = 0,
    change: Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], object] | None = None,
) -> Dataset:
    """Write a dataset of random events in folder `path` and open it.

    Args:
        seed: of the shuffle; the events depend on their source alone.
        columns: of the truth vector; names that are not canonical are carried columns.
        sources: number of pretended input files, sharing the events evenly.
        first_source: number of the first of them; datasets with disjoint numbers have disjoint events.
        change: gets npho, time and the truth columns by name of each source, and may change them in place.
    """
    norm = normalization or preset("standard")
    table = canonical_order(COLUMNS.get(name, Column(name, "", "carried")) for name in columns)
    settings = Settings(
        columns=table,
        normalization=norm,
        dtype=dtype,
        channel_map=nominal().digest,
        shuffle=shuffle,
        seed=seed,
        events_per_shard=events_per_shard,
    )
    ids = [f"synthetic-{first_source + i:04d}:tree" for i in range(sources)]
    sizes = [len(part) for part in np.array_split(np.arange(events), sources)]
    parts, infos, counts = [], [], None
    for i, (source_id, n) in enumerate(zip(ids, sizes, strict=True)):
        npho, time, truth = make_events(n, first_source + i, settings.names, first_event=1000 * (first_source + i))
        if change is not None:
            change(npho, time, dict(zip(settings.names, truth.T, strict=True)))
        batch = normalize(npho, time, norm, dtype=dtype)
        counts = batch.counts if counts is None else counts + batch.counts
        parts.append(ShardRows(batch.sensors, truth, np.full(n, i), np.arange(n)))
        infos.append(SourceInfo(source_id, f"{source_id[:14]}.root", "tree", "", 0, n, n, batch.counts.totals()))
    rows = ShardRows(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("sensors", "truth", "source", "entry"))
    )
    if shuffle:
        keys = np.concatenate([event_keys(seed, ids[i], parts[i].entry) for i in range(sources)])
        rows = rows[sort_events(keys, rows.source, rows.entry)]
    writer = DatasetWriter(path, settings, ids)
    writer.append(rows)
    assert counts is not None
    writer.close(infos, counts)
    return open_dataset(path, check="none")

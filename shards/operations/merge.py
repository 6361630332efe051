"""Join datasets into the bytes that one conversion of all their sources would have given.

Each dataset is sorted by the same hash of (seed, source, entry), so the joint order follows from the sidecars alone,
and writing is one pass through all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.base import InputError, OutputError, locked, output_folder, progress
from shards.dataset import Dataset
from shards.identity import known_hashes, repeated
from shards.manifest import MANIFEST, Manifest, Settings, SourceInfo, takes_dataset
from shards.opening import open_dataset
from shards.operations.agreement import merged_counts, merged_settings, merged_sources
from shards.order import event_keys, sort_events
from shards.sidecar import PLACE_COLUMNS
from shards.writer import ShardRows, finalize, write_shard

logger = logging.getLogger(__name__)

LOCK = ".xec.lock"

Int64 = npt.NDArray[np.int64]


def merge(parts: Sequence[Path | str], out: Path | str, allow_duplicates: bool = False) -> Manifest:
    """Join datasets of equal settings into a new one in folder `out`.

    The parts may be conversions of different sources, or all parts of one split. Without shuffling their sources follow
    one another in the order given.

    Args:
        allow_duplicates: accept events that share run and event number.

    Raises:
        InputError: settings differ, an event is in two parts, or the parts are not what one conversion would have made.
        OutputError: `out` holds another dataset.
    """
    if len(parts) < 2:
        raise InputError("merging needs at least two datasets", found=len(parts))
    target = output_folder(out, "dataset", takes_dataset, parts)
    datasets = [open_dataset(part, check="full") for part in parts]  # never copy damage under a new digest
    settings = merged_settings(datasets)
    sources = merged_sources(datasets)
    counts, uncounted = merged_counts(datasets)
    done = existing(target, settings, sources)
    if done is not None:
        return done
    _check_duplicates(datasets, allow_duplicates)
    with locked(target / LOCK, f"merging into {target}"):
        rows = _joint_order(datasets, settings, sources)
        infos = []
        with progress("merging", len(rows)) as shown:
            for number, part in enumerate(_cut(rows, settings.events_per_shard)):
                infos.append(write_shard(target, number, [_gather(datasets, part)], settings, _ids(sources)))
                shown.advance(len(part))
        return finalize(target, settings, infos, sources, counts, uncounted)


def _check_duplicates(datasets: Sequence[Dataset], allowed: bool) -> None:
    hashes = [known_hashes(dataset) for dataset in datasets]
    count = len(repeated([h for h in hashes if h is not None]))
    if count and not allowed:
        raise InputError(
            f"{count} events occur more than once (same run and event number)",
            file=", ".join(str(dataset.path) for dataset in datasets[:3]),
            remedy="remove the copies, or use --allow-duplicates",
        )
    if count:
        logger.warning("%d events occur more than once (same run and event number)", count)


def _ids(sources: Sequence[SourceInfo]) -> list[str]:
    return [source.id for source in sources]


def _joint_order(datasets: Sequence[Dataset], settings: Settings, sources: Sequence[SourceInfo]) -> Int64:
    """(dataset, global row, source, entry) of every event in the merged order, int64 (n, 4)."""
    place = {source.id: i for i, source in enumerate(sources)}
    parts, keys = [], []
    for number, dataset in enumerate(datasets):
        table = dataset.table(list(PLACE_COLUMNS))
        theirs = np.array([place[source.id] for source in dataset.manifest.sources], np.int64)
        local, entry = (table[name].to_numpy() for name in PLACE_COLUMNS)
        source = theirs[local]
        parts.append(np.stack([np.full(len(entry), number), np.arange(len(entry)), source, entry], axis=1))
        key = np.zeros(len(entry), np.uint64)
        for i in np.unique(source).tolist():
            mine = source == i
            key[mine] = event_keys(settings.seed, sources[i].id, entry[mine])
        keys.append(key)
    rows = np.concatenate(parts)
    twice = _first_repeat(rows[:, 2], rows[:, 3])
    if twice is not None:
        source_name, entry_number = sources[int(rows[twice, 2])].name, int(rows[twice, 3])
        raise InputError(
            "an event is in two of the datasets",
            file=datasets[int(rows[twice, 0])].path,
            item=f"{source_name} entry {entry_number}",
        )
    if not settings.shuffle:
        order = settings.conversion.get("source_order") or []
        position = np.array([order.index(source.id) if source.id in order else 0 for source in sources])
        return rows[np.lexsort((rows[:, 3], position[rows[:, 2]]))] if order else rows
    return rows[sort_events(np.concatenate(keys), rows[:, 2], rows[:, 3])]


def _first_repeat(source: Int64, entry: Int64) -> int | None:
    order = np.lexsort((entry, source))
    same = (np.diff(source[order]) == 0) & (np.diff(entry[order]) == 0)
    return int(order[1:][same][0]) if same.any() else None


def _cut(rows: Int64, size: int) -> Iterator[Int64]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _gather(datasets: Sequence[Dataset], rows: Int64) -> ShardRows:
    """Read the events of one shard from the datasets they are in, values untouched."""
    layout = datasets[0].manifest.settings.layout
    sensors = np.empty((len(rows), layout.sensors, 2), layout.dtype)
    truth = np.empty((len(rows), layout.columns), np.float64)
    for number in np.unique(rows[:, 0]).tolist():
        mine = np.flatnonzero(rows[:, 0] == number)
        sensors[mine], truth[mine] = datasets[number].read_stored(rows[mine, 1])
    return ShardRows(sensors, truth, rows[:, 2], rows[:, 3])


def existing(out: Path, settings: Settings, sources: Sequence[SourceInfo]) -> Manifest | None:
    """The manifest that is in `out` already, if it is that of the same events under the same settings."""
    if not (out / MANIFEST).exists():
        return None
    found = open_dataset(out).manifest
    if found.settings == settings and list(found.sources) == list(sources):
        logger.info("%s is already complete", out)
        return found
    raise OutputError("holds another dataset", file=out, remedy="choose another --out, or remove it")

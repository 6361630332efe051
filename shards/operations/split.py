"""Cut a dataset into the parts of a split: the parts that a conversion with that split would have written."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.base import InputError, locked, output_folder, progress
from shards.dataset import Dataset
from shards.manifest import Manifest, SourceInfo, Split, takes_dataset, takes_folders
from shards.normalization import SensorCounts, valid
from shards.opening import open_dataset
from shards.operations.agreement import OTHER_SPLITS
from shards.operations.merge import LOCK, existing
from shards.order import assign_splits, balanced_split, far_from_asked
from shards.sidecar import PLACE_COLUMNS
from shards.writer import DatasetWriter, ShardRows

logger = logging.getLogger(__name__)

AT_ONCE = 512
"""Events read at a time: about 20 MB."""


def split_rows(
    dataset: Dataset, fractions: Mapping[str, float], by: str = "event", seed: int = 0
) -> dict[str, npt.NDArray[np.int64]]:
    """Global rows of each part, ascending: a split without copying anything.

    Args:
        fractions: name → fraction, adding up to one.
        by: "event", "run" or "source": what stays together.
        seed: another seed gives another division.

    Raises:
        InputError: no run numbers to split by, or fewer runs or sources than parts.
    """
    return _divided(dataset, Split("", by, dict(fractions), seed, _groups(dataset, fractions, by, seed)))


def _groups(
    dataset: Dataset, fractions: Mapping[str, float], by: str, seed: int
) -> dict[str, tuple[int | str, ...]] | None:
    """Which runs or sources go to which part; None where events are told apart one by one."""
    if by == "run":
        if "run" not in dataset.columns:
            raise InputError("has no run numbers to split by", file=dataset.path, remedy="split by source")
        known = dataset.table(["run"])["run"]
        if known.null_count():
            raise InputError("has events without a run number", file=dataset.path, remedy="split by source")
        runs, counts = np.unique(known.to_numpy(), return_counts=True)
        sizes = dict(zip(runs.tolist(), counts.tolist(), strict=True))
        return {part: tuple(inside) for part, inside in balanced_split(sizes, fractions, by, seed).items()}
    if by == "source":
        used = {source.id: source.used for source in dataset.manifest.sources}
        return {part: tuple(inside) for part, inside in balanced_split(used, fractions, by, seed).items()}
    return None


def _divided(dataset: Dataset, division: Split) -> dict[str, npt.NDArray[np.int64]]:
    by_run = division.by == "run"
    table = dataset.table([*PLACE_COLUMNS, *(["run"] if by_run else [])])
    columns = {name: table[name].to_numpy() for name in table.columns}
    part = np.empty(dataset.n_events, np.int8)
    for number, source in enumerate(dataset.manifest.sources):
        mine = columns["source"] == number
        entries, run = columns["entry"][mine], columns["run"][mine] if by_run else None
        part[mine] = assign_splits(
            division.fractions, division.by, source.id, entries, run, division.seed, division.groups
        )
    return {name: np.flatnonzero(part == i).astype(np.int64) for i, name in enumerate(division.fractions)}


def split(
    path: Path | str, out: Path | str, fractions: Mapping[str, float], by: str = "event", seed: int = 0
) -> dict[str, Manifest]:
    """Copy a dataset into one dataset per part, in folders of these names in `out`.

    Counts of bad values are made again from the stored sensors; classes that leave no trace there (out of domain,
    nudged, saturated) are listed as `uncounted`, unless the whole dataset has none.

    Raises:
        InputError: the dataset is part of a split itself, or a part would be empty.
        OutputError: something else is in the way.
    """
    target = output_folder(out, "folder of datasets", takes_folders, [path])
    for name in fractions:
        output_folder(target / name, "dataset", takes_dataset, [path])
    dataset = open_dataset(path, check="full")  # never copy damage under a new digest
    settings = dataset.manifest.settings
    if settings.split is not None:
        raise InputError(
            f"is already part {settings.split.name!r} of a split", file=path, remedy="merge the parts first"
        )
    division = Split("", by, dict(fractions), seed, _groups(dataset, fractions, by, seed))
    rows = _divided(dataset, division)
    empty = [name for name, mine in rows.items() if not mine.size]
    if empty:
        raise InputError(f"no event falls into part {empty[0]!r}", file=path, remedy="split by something finer")
    if far := far_from_asked({name: len(mine) for name, mine in rows.items()}, fractions):
        logger.warning("the split by %s is far from what was asked for: %s", by, far)
    with locked(target / LOCK, f"splitting into {target}"):
        tallies = _tallies(dataset, rows)
        return {
            name: _write(dataset, target / name, rows[name], dataclasses.replace(division, name=name), tallies, i)
            for i, name in enumerate(rows)
        }


@dataclasses.dataclass
class _Tally:
    """Counts of the stored sensors of one part, per source."""

    counts: list[SensorCounts]
    missing: list[npt.NDArray[np.int64]]
    """Per source, NaN values of each column."""


def _tallies(dataset: Dataset, rows: Mapping[str, npt.NDArray[np.int64]]) -> list[_Tally]:
    """Count what can be counted from the stored values, in one pass over each part."""
    sources, columns = len(dataset.manifest.sources), len(dataset.columns)
    source_of = dataset.column("source").astype(np.int64)
    tallies = []
    with progress("counting", dataset.n_events) as shown:
        for mine in rows.values():
            tally = _Tally(
                [SensorCounts.zero() for _ in range(sources)], [np.zeros(columns, np.int64) for _ in range(sources)]
            )
            for places, sensors, truth in dataset.read_raw(mine):
                source = source_of[mine[places]]
                for i in np.unique(source).tolist():
                    tally.counts[i] = tally.counts[i] + _count(dataset, sensors[source == i])
                    tally.missing[i] += np.isnan(truth[source == i]).sum(axis=0)
                shown.advance(len(places))
            tallies.append(tally)
    return tallies


def _count(dataset: Dataset, sensors: npt.NDArray[np.floating]) -> SensorCounts:
    npho_valid, time_valid = valid(sensors, dataset.normalization)
    none = np.zeros(sensors.shape[1], np.int64)
    return SensorCounts(
        good=time_valid.sum(axis=0),
        dead=(~npho_valid).sum(axis=0),
        out_of_domain=none,
        time_invalid=(npho_valid & ~time_valid).sum(axis=0),
        nudged=none,
        saturated=none,
    )


def _write(
    dataset: Dataset, folder: Path, rows: npt.NDArray[np.int64], part: Split, tallies: Sequence[_Tally], number: int
) -> Manifest:
    """Write one part, unless it is there already."""
    settings = dataclasses.replace(dataset.manifest.settings, split=part)
    uncounted = _uncounted(dataset.manifest, tallies)
    sources = _sources(dataset, rows, tallies, number, uncounted)
    done = existing(folder, settings, sources)
    if done is not None:
        return done
    writer = DatasetWriter(folder, settings, [source.id for source in sources])
    place = {name: dataset.column(name).astype(np.int64)[rows] for name in PLACE_COLUMNS}
    with progress(f"writing {folder}", len(rows)) as shown:
        for start in range(0, len(rows), AT_ONCE):
            block = slice(start, start + AT_ONCE)
            writer.append(ShardRows(*dataset.read_stored(rows[block]), place["source"][block], place["entry"][block]))
            shown.advance(len(rows[block]))
    total = SensorCounts.zero()
    for counts in tallies[number].counts:
        total = total + counts
    known = {name: np.zeros_like(total.dead) for name in uncounted if name in total.totals()}
    return writer.close(sources, dataclasses.replace(total, **known), uncounted)


def _uncounted(manifest: Manifest, tallies: Sequence[_Tally]) -> tuple[str, ...]:
    """Classes whose counts over all parts are not those of the whole: they cannot be told from stored values."""
    found = SensorCounts.zero()
    for tally in tallies:
        for counts in tally.counts:
            found = found + counts
    names = [
        name for name in found.totals() if not np.array_equal(getattr(found, name), getattr(manifest.counts, name))
    ]
    return tuple(sorted({*names, *manifest.uncounted}))


def _sources(
    dataset: Dataset, rows: npt.NDArray[np.int64], tallies: Sequence[_Tally], number: int, uncounted: Sequence[str]
) -> list[SourceInfo]:
    used = np.bincount(dataset.column("source").astype(np.int64)[rows], minlength=len(dataset.manifest.sources))
    infos = []
    for i, source in enumerate(dataset.manifest.sources):
        dropped = dict(source.dropped)
        elsewhere = source.entries - int(used[i]) - sum(dropped.values())
        if elsewhere:
            dropped[OTHER_SPLITS] = elsewhere
        totals = tallies[number].counts[i].totals()
        infos.append(
            dataclasses.replace(
                source,
                used=int(used[i]),
                counts={name: 0 if name in uncounted else totals[name] for name in source.counts},
                dropped=dict(sorted(dropped.items())),
                invalid_scalars=_invalid(dataset.columns, source, tallies, number, i),
            )
        )
    return infos


def _invalid(
    columns: Sequence[str], source: SourceInfo, tallies: Sequence[_Tally], number: int, i: int
) -> dict[str, int]:
    """Values of each column that became NaN, for columns in which nothing else is NaN."""
    found = {}
    for column, count in source.invalid_scalars.items():
        missing = [int(tally.missing[i][columns.index(column)]) for tally in tallies]
        if sum(missing) == count and missing[number]:
            found[column] = missing[number]
    return found

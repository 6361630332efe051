"""Passes that some conversions need before the first: dead channels found in the data, and which events are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.conversion.cleaning import Cleaner, needs_sensors, sort_keys
from ingest.conversion.plan import Plan, Unit
from ingest.conversion.work import WorkFolder, plain
from ingest.reading.rootio import Chunk, Source, SourceReader
from shards.base import publish_json
from shards.base.documents import read_document
from shards.dead import DeadList, from_fractions
from shards.identity import IDENTITY, event_hashes
from shards.manifest import N_SENSORS
from shards.normalization import HUGE

READ = 512
"""Events read at a time."""
SCALARS = 1 << 18
"""Events read at a time where only numbers of the event are read."""


@dataclass(frozen=True)
class Prepared:
    """What was found in the data before the conversion proper."""

    dead: DeadList
    """The lists that were given, and what was found."""
    last_key: int | None
    """The largest key that is kept; None: all."""
    groups: dict[str, tuple[int | str, ...]] | None = None
    """Runs or sources of each part of a split by these."""


@dataclass(frozen=True)
class RunCounts:
    """Per run: events, and how often each channel gave no usable photon number."""

    events: dict[int, int]
    invalid: dict[int, npt.NDArray[np.int64]]

    def __add__(self, other: RunCounts) -> RunCounts:
        events, invalid = dict(self.events), dict(self.invalid)
        for run, count in other.events.items():
            events[run] = events.get(run, 0) + count
            invalid[run] = invalid.get(run, np.zeros(N_SENSORS, np.int64)) + other.invalid[run]
        return RunCounts(events, invalid)


@dataclass(frozen=True)
class Identities:
    """Which events a source holds."""

    runs: dict[int, int]
    """Run → events."""
    hashes: npt.NDArray[np.uint64]
    """Of each entry's run and event number."""


def needs_preparing(plan: Plan) -> bool:
    """Whether anything must be known from the data before the first pass."""
    options = plan.options
    by_data = options.dead_if_invalid_fraction is not None
    return by_data or (
        options.max_events is not None and options.max_events < plan.entries and options.select is not None
    )


def count_invalid(source: Source, start: int, stop: int) -> RunCounts:
    """Count unusable photon numbers (NaN, infinite, huge) of entries [start, stop) by run; times are not read."""
    total = RunCounts({}, {})
    with SourceReader(source) as reader:
        for first in range(start, stop, READ):
            last = min(first + READ, stop)
            runs = reader.read_columns(first, last, ("run",))[0]["run"].astype(np.int64)
            npho = reader.read_npho(first, last)
            bad = ~((npho <= HUGE) & (npho > -np.inf))  # NaN compares false
            for run in np.unique(runs).tolist():
                rows = runs == run
                total += RunCounts({run: int(rows.sum())}, {run: bad[rows].sum(axis=0, dtype=np.int64)})
    return total


def selected_keys(plan: Plan, unit: Unit, dead: DeadList) -> npt.NDArray[np.uint64]:
    """Keys of a unit's events that pass the selection, sorted; the first `max_events` of them and, if any, one more."""
    cleaner, with_sensors = Cleaner(plan, dead), needs_sensors(plan)
    found = [np.zeros(0, dtype=np.uint64)]
    with SourceReader(plan.sources[unit.source]) as reader:
        for first in range(unit.start, unit.stop, READ):
            last = min(first + READ, unit.stop)
            chunk = reader.read(first, last) if with_sensors else _without_sensors(reader, first, last)
            chunk = cleaner.calibrated(chunk) if with_sensors else chunk
            keep = cleaner.selected(chunk, cleaner.dead_mask(chunk) if with_sensors else None)
            found.append(sort_keys(plan, unit.source, np.arange(first, last))[keep])
    limit = plan.options.max_events
    return np.sort(np.concatenate(found))[: None if limit is None else limit + 1]


def _without_sensors(reader: SourceReader, first: int, last: int) -> Chunk:
    columns, invalid = reader.read_columns(first, last)
    nothing = np.zeros((last - first, 0), dtype=np.float32)
    return Chunk(first, nothing, nothing, columns, None, invalid=invalid)


def last_key(keys: Iterable[npt.NDArray[np.uint64]], max_events: int) -> int | None:
    """The `max_events`-th smallest of all keys; None when there are no more than that."""
    smallest = np.zeros(0, dtype=np.uint64)
    more = False
    for piece in keys:
        both = np.concatenate([smallest, piece])
        more |= len(both) > max_events
        smallest = np.partition(both, max_events - 1)[:max_events] if len(both) > max_events else both
    return int(smallest.max()) if more else None


def keys_without_selection(plan: Plan, step: int = 1 << 20) -> Iterable[npt.NDArray[np.uint64]]:
    """Keys of all entries of all sources, in pieces."""
    for number, source in enumerate(plan.sources):
        for first in range(0, source.entries, step):
            yield sort_keys(plan, number, np.arange(first, min(first + step, source.entries)))


def dead_of(plan: Plan, counts: RunCounts) -> DeadList:
    """The given list, united with what the counts say."""
    fraction = plan.options.dead_if_invalid_fraction
    if fraction is None:
        return plan.options.dead
    return plan.options.dead | from_fractions(counts.events, counts.invalid, fraction)


def read_identities(source: Source) -> Identities:
    """Run and event numbers of all entries of a source."""
    runs: dict[int, int] = {}
    hashes = []
    with SourceReader(source) as reader:
        for first in range(0, source.entries, SCALARS):
            columns, _ = reader.read_columns(first, min(first + SCALARS, source.entries), IDENTITY)
            for run, count in zip(*np.unique(columns["run"], return_counts=True), strict=True):
                runs[int(run)] = runs.get(int(run), 0) + int(count)
            hashes.append(event_hashes(columns["run"], columns["event"]))
    return Identities(runs, np.concatenate(hashes))


def is_identified(source: Source) -> bool:
    """Whether its events have run and event numbers of their own; made-up ones distinguish nothing."""
    real = {column.name for column in source.binding.columns if column.branch}
    return "event" in real and ("run" in real or source.run is not None)


def find_repeated(sources: Sequence[Source], twice: npt.NDArray[np.uint64]) -> str:
    """A description of the first event whose hash is in `twice`: its numbers, and the files that it is in."""
    found: dict[tuple[int, int], list[str]] = {}
    for source in sources:
        with SourceReader(source) as reader:
            for first in range(0, source.entries, SCALARS):
                columns, _ = reader.read_columns(first, min(first + SCALARS, source.entries), IDENTITY)
                hits = np.flatnonzero(event_hashes(columns["run"], columns["event"]) == twice[0])
                for row in hits.tolist():
                    numbers = int(columns["run"][row]), int(columns["event"][row])
                    found.setdefault(numbers, []).append(source.path.name)
    (run, event), names = max(found.items(), key=lambda item: len(item[1]))
    return f"run {run} event {event} in {' and '.join(dict.fromkeys(names))}"


def write_prepared(work: WorkFolder, prepared: Prepared) -> None:
    """Save the result for restarts and for other tasks."""
    publish_json(work.path / "prepared.json", plain(prepared))


def read_prepared(work: WorkFolder) -> Prepared | None:
    """The result of an earlier preparation, if there is one."""
    path = work.path / "prepared.json"
    return read_document(path, Prepared, "preparation") if path.exists() else None

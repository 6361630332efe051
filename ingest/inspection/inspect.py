"""Looking before converting: what is in a file, what the schema makes of it, and the state of the values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.reading.branches import InputBranch, list_branches
from ingest.reading.implausible import implausible_lines
from ingest.reading.rootfile import find_tree, opened, tree_paths
from ingest.reading.rootio import Source, SourceReader
from shards.dead import DeadList
from shards.geometry import FACE_NAMES, nominal_faces
from shards.identity import IDENTITY
from shards.manifest import N_SENSORS
from shards.normalization import HUGE, Normalization, SensorCounts, normalize
from shards.plausible import PLAUSIBLE, Outside, outside
from shards.tarfmt import SampleLayout

BLOCK = 16
BLOCKS_A_SOURCE = 8
"""The sample of a source is spread over this many places."""
DEAD_FRACTION = 0.9
"""Channels unusable in at least this fraction of the sampled events are dead-channel candidates."""


@dataclass(frozen=True)
class TreeInfo:
    """A tree in a file, whatever the schema."""

    path: str
    cycles: tuple[int, ...]
    """Newest first."""
    kind: str
    entries: int
    branches: tuple[InputBranch, ...]


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest of the usable values, and how many were not."""

    low: float
    high: float
    unknown: int


@dataclass(frozen=True)
class Sample:
    """What was found in some events."""

    events: int
    counts: SensorCounts
    ranges: dict[str, ValueRange]
    """`npho`, `time` and every column."""
    constant: npt.NDArray[np.bool_]
    """Channels whose photon number is the same in every event (and not a dead code)."""
    seconds: float
    """For reading and normalizing them, on one core."""
    implausible: tuple[str, ...] = ()
    """Remarks on implausible values, one line per branch."""

    def per_face(self) -> dict[str, dict[str, float]]:
        """Fraction of the sensor values of each class, by face."""
        face = np.asarray(nominal_faces())
        classes = ("good", "dead", "out_of_domain", "time_invalid")
        return {
            name: {c: float(getattr(self.counts, c)[face == code].mean() / self.events) for c in classes}
            for code, name in enumerate(FACE_NAMES)
        }

    def dead_candidates(self) -> npt.NDArray[np.int64]:
        """Channels that were unusable in nearly all events."""
        return np.flatnonzero(self.counts.dead >= DEAD_FRACTION * self.events)


@dataclass(frozen=True)
class Duplicates:
    """Events that share run and event number."""

    groups: int
    """Different (run, event) that occur more than once."""
    events: int
    """Events beyond the first of each."""
    examples: tuple[tuple[int, int], ...] = field(default=())


def list_trees(path: Path) -> list[TreeInfo]:
    """All trees of a file with their branches.

    Raises:
        InputError: it cannot be opened.
    """
    with opened(path) as directory:
        found = []
        for name in tree_paths(directory):
            _, tree, cycles = find_tree(directory, path, name)
            unique = {branch.name: branch for branch in list_branches(tree).values()}
            kind = "RNTuple" if "RNTuple" in tree.classname else "TTree"
            found.append(TreeInfo(name, tuple(cycles), kind, int(tree.num_entries), tuple(unique.values())))
        return found


def sample(sources: Sequence[Source], events: int, norm: Normalization, dead: DeadList) -> Sample:
    """Read about `events` events, spread over all sources, and count what they hold."""
    began = time.perf_counter()
    counts = SensorCounts.zero()
    ranges: dict[str, ValueRange] = {}
    low, high = np.full(N_SENSORS, np.inf), np.full(N_SENSORS, -np.inf)
    total = 0
    remarks: dict[str, str] = {}
    for source in sources:
        judged: dict[str, Outside] = {}
        times = f"{'relative' if source.binding.relative else 'absolute'} times"
        with SourceReader(source) as reader:
            for start, stop in _places(source.entries, -(-events // len(sources))):
                for first in range(start, stop, BLOCK):
                    chunk = reader.read(first, min(first + BLOCK, stop))
                    mask = dead.masked(chunk.columns["run"], chunk.dead)
                    counts += normalize(chunk.npho, chunk.time, norm, mask).counts
                    low, high = np.fmin(low, chunk.npho.min(axis=0)), np.fmax(high, chunk.npho.max(axis=0))
                    values: dict[str, npt.NDArray[np.floating]] = {"npho": chunk.npho, "time": chunk.time}
                    for name, found in (values | chunk.columns).items():
                        ranges[name] = _widened(ranges.get(name), found)
                        kind = times if name == "time" else name
                        if kind in PLAUSIBLE:
                            judged[kind] = judged.get(kind, Outside()) + outside(kind, found)
                    total += len(chunk)
        for name, line in implausible_lines(source, judged).items():
            remarks.setdefault(name, f"{source.path.name}: {line}")
    constant = (low == high) & (np.abs(low) <= HUGE)
    return Sample(total, counts, ranges, constant, time.perf_counter() - began, tuple(remarks.values()))


def _places(entries: int, wanted: int) -> list[tuple[int, int]]:
    """Ranges of entries, evenly spread, that hold about `wanted` entries together."""
    if wanted >= entries:
        return [(0, entries)]
    length = -(-wanted // BLOCKS_A_SOURCE)
    starts = np.linspace(0, entries - length, BLOCKS_A_SOURCE).astype(int).tolist()
    return [(start, start + length) for start in starts]


def _widened(before: ValueRange | None, values: npt.NDArray[Any]) -> ValueRange:
    usable = values if values.dtype.kind == "i" else values[np.abs(values) <= HUGE]
    low, high = (float(usable.min()), float(usable.max())) if usable.size else (np.nan, np.nan)
    unknown = values.size - usable.size
    if before is None:
        return ValueRange(low, high, unknown)
    return ValueRange(float(np.fmin(before.low, low)), float(np.fmax(before.high, high)), before.unknown + unknown)


def find_duplicates(sources: Sequence[Source], step: int = 1 << 18) -> Duplicates:
    """Events of all sources that share run and event number; reads only these two columns, of every entry."""
    pairs = []
    for source in sources:
        with SourceReader(source) as reader:
            for first in range(0, source.entries, step):
                columns, _ = reader.read_columns(first, min(first + step, source.entries), IDENTITY)
                pairs.append(np.stack([columns[name].astype(np.int64) for name in IDENTITY], axis=1))
    values, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    repeated = values[counts > 1]
    examples = tuple((int(run), int(event)) for run, event in repeated[:5])
    return Duplicates(len(repeated), int((counts[counts > 1] - 1).sum()), examples)


def expected_bytes(sources: Sequence[Source], dtype: str) -> int:
    """Size of the shards' tars that converting all events gives."""
    columns = {name for source in sources for name in source.columns}
    return sum(source.entries for source in sources) * SampleLayout(N_SENSORS, len(columns), dtype).stride

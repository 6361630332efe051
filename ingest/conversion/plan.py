"""The plan of a conversion: sources, settings and units of work; the same for every process and restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import Skipped, Source
from shards import geometry
from shards.base import InputError
from shards.columns import COLUMNS, Column, canonical_order
from shards.identity import IDENTITY
from shards.manifest import Settings, Split
from shards.whole import rest_of

UNITS = 2048
"""Aim at no more units than this for large inputs: the sort step opens one file per unit."""
MIN_UNIT = 4096
"""Entries in a unit, at least: a second or so of work."""


@dataclass(frozen=True)
class Unit:
    """A range of entries of one source: what one worker turns into sorted rows on disk at a time."""

    number: int
    source: int
    """Index into `Plan.sources`."""
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first event is read."""

    sources: tuple[Source, ...]
    """Sorted by id; without shuffling the order given is in `position`."""
    skipped: tuple[Skipped, ...]
    """Files that could not even be opened."""
    options: ConversionOptions
    settings: Settings
    """Of every dataset that is written, apart from its split."""
    position: tuple[int, ...]
    """Place of each source in the inputs as given (used without shuffling)."""
    units: tuple[Unit, ...]

    @property
    def entries(self) -> int:
        """Entries of all sources."""
        return sum(source.entries for source in self.sources)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Running number of each source's first entry, in the order the inputs were given."""
        given = np.argsort(self.position)
        counts = np.array([self.sources[i].entries for i in given], dtype=np.int64)
        starts = np.empty(len(given), dtype=np.int64)
        starts[given] = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return starts

    @property
    def document(self) -> PlanDocument:
        """The inputs from which the plan follows."""
        return PlanDocument(tuple(self.sources[i] for i in np.argsort(self.position)), self.skipped, self.options)


@dataclass(frozen=True)
class PlanDocument:
    """What a work folder records of a plan: `make_plan` makes it again."""

    sources: tuple[Source, ...]
    """In the order given."""
    skipped: tuple[Skipped, ...]
    options: ConversionOptions


INDEX = np.dtype([("key", np.uint64), ("entry", np.int64), ("check", np.uint64)])
"""What the sort step needs to know of a row before it reads it, and the row's checksum."""


def make_plan(sources: Sequence[Source], skipped: Sequence[Skipped], options: ConversionOptions) -> Plan:
    """Plan the conversion of `sources` (in the order given).

    Raises:
        InputError: the sources disagree on whether times are relative.
    """
    ordered = tuple(sorted(sources, key=lambda source: source.id))
    place = {source.id: i for i, source in enumerate(sources)}
    return Plan(
        sources=ordered,
        skipped=tuple(sorted(skipped, key=lambda s: s.path.name)),
        options=options,
        settings=_settings(ordered, sources, options),
        position=tuple(place[source.id] for source in ordered),
        units=_units(ordered),
    )


def _units(sources: Sequence[Source]) -> tuple[Unit, ...]:
    """Cut the sources at the boundaries of their baskets, so that no basket is decoded twice."""
    aim = max(MIN_UNIT, -(-sum(source.entries for source in sources) // UNITS))
    units: list[Unit] = []
    for number, source in enumerate(sources):
        start = 0
        for cut in (*source.cuts, source.entries):
            if cut - start >= aim or (cut == source.entries and cut > start):
                units.append(Unit(len(units), number, start, cut))
                start = cut
    return tuple(units)


def _settings(sources: Sequence[Source], given: Sequence[Source], options: ConversionOptions) -> Settings:
    where = geometry.nominal() if options.geometry is None else geometry.load(options.geometry)
    return Settings(
        columns=_columns(sources),
        normalization=options.normalization,
        dtype=options.dtype,
        time_reference=_time_reference(sources),
        geometry=where.name,
        channel_map=where.digest,
        survey=geometry.Survey.of(where),
        shuffle=options.shuffle,
        seed=options.seed if options.shuffle else 0,
        events_per_shard=options.events_per_shard,
        selection=options.select,
        conversion={
            **options.recorded(),
            "source_order": None if options.shuffle else [source.id for source in given],
            **({"toy": True} if any(source.toy for source in sources) else {}),
        },
    )


def _time_reference(sources: Sequence[Source]) -> str:
    timed = [source for source in sources if source.binding.time is not None]
    relative = [source for source in timed if source.binding.relative]
    absolute = [source for source in timed if not source.binding.relative]
    if relative and absolute:
        raise InputError(
            "has absolute times, but another input has relative ones",
            file=absolute[0].path,
            found=absolute[0].binding.time.branch if absolute[0].binding.time else None,
            expected=f"like {relative[0].path}",
            remedy="convert them into two datasets, or name one branch in a schema",
        )
    return "absolute" if absolute else "relative"


def _columns(sources: Sequence[Source]) -> tuple[Column, ...]:
    """The union of the sources' columns; a column whose branch differs between sources names all of them."""
    found: dict[str, Column] = {}
    branches: dict[str, set[str]] = {}
    for source in sources:
        for bound in source.binding.columns:
            known = COLUMNS.get(bound.name)
            role = "carried" if bound.carried or known is None else known.role
            text = known.description if known else ""
            if bound.meaning:
                text = f"{text.partition(';')[0]} ({bound.meaning})" if text else bound.meaning
            found[bound.name] = Column(bound.name, bound.unit, role, text)
            branches.setdefault(bound.name, set()).add(bound.origin)
    named = [dataclasses.replace(column, branch=" or ".join(sorted(branches[name]))) for name, column in found.items()]
    return canonical_order([*named, *(rest_of(column) for column in named if _is_whole(column.name, sources))])


def _is_whole(name: str, sources: Sequence[Source]) -> bool:
    """Whether a column holds 64-bit integers: every source must have it, as integers (run and event always are)."""
    bits = [max((bound.bits for bound in s.binding.columns if bound.name == name), default=0) for s in sources]
    return (min(bits) > 0 or name in IDENTITY) and max(bits) == 64


def split_folder(out: Path, split: Split | None) -> Path:
    """Where the dataset of a split is written."""
    return out if split is None else out / split.name

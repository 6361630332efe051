"""Do datasets belong together, and what would the manifest of their union say?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from shards.base import InputError
from shards.columns import Column
from shards.dataset import Dataset
from shards.dead import DeadEntry, DeadList
from shards.manifest import Settings, SourceInfo, Split
from shards.normalization import SensorCounts

OTHER_SPLITS = "other splits"
"""Reason for which a source's events are in another part of a split; written by conversions too."""
DERIVED = ("dead", "skipped", "source_order", "toy")
"""Keys of `Settings.conversion` that depend on which sources were converted."""


def merged_settings(datasets: Sequence[Dataset]) -> Settings:
    """The settings of the merged dataset; refuses (`InputError`) datasets that do not belong together."""
    first, every = datasets[0].manifest.settings, [dataset.manifest.settings for dataset in datasets]
    for dataset, other in zip(datasets[1:], every[1:], strict=True):
        for name, mine, theirs in _compared(first, other):
            if mine != theirs:
                raise InputError(
                    f"cannot be merged with {datasets[0].path}: {name} differs",
                    file=dataset.path,
                    found=theirs,
                    expected=mine,
                )
    if first.conversion.get("max_events") is not None:
        raise InputError(
            "has only the first events of its sources; one conversion of all would have kept others",
            file=datasets[0].path,
            item="max_events",
            found=first.conversion["max_events"],
        )
    return dataclasses.replace(
        first,
        columns=_merged_columns([s.columns for s in every]),
        split=_merged_split(datasets),
        conversion={**first.conversion, **_merged_derived(datasets)},
    )


def _compared(a: Settings, b: Settings) -> Iterator[tuple[str, Any, Any]]:
    """Everything that must be equal, by name."""
    for field in dataclasses.fields(Settings):
        if field.name not in ("columns", "conversion", "split"):
            yield field.name, getattr(a, field.name), getattr(b, field.name)
    mine, theirs = ([(c.name, c.unit, c.role, c.description) for c in s.columns] for s in (a, b))
    yield "columns", mine, theirs
    for key in {**a.conversion, **b.conversion}:
        if key not in DERIVED:
            yield f"conversion.{key}", a.conversion.get(key), b.conversion.get(key)


def _merged_columns(columns: Sequence[tuple[Column, ...]]) -> tuple[Column, ...]:
    """The columns, each naming the branches it had in any of the datasets."""
    merged = []
    for same in zip(*columns, strict=True):
        branches = sorted({branch for column in same for branch in column.branch.split(" or ")})
        merged.append(dataclasses.replace(same[0], branch=" or ".join(branches)))
    return tuple(merged)


def _merged_split(datasets: Sequence[Dataset]) -> Split | None:
    """The parts' common split; None where they are all the parts of one."""
    splits = [dataset.manifest.settings.split for dataset in datasets]
    rules = [split and split.rule for split in splits]
    if all(rule == rules[0] for rule in rules):
        return _with_groups(datasets)
    known = [split for split in splits if split is not None]
    divisions = {(split.by, tuple(split.fractions.items()), split.seed) for split in known}
    names = sorted(split.name for split in known)
    if len(known) == len(splits) and len(divisions) == 1 and names == sorted(known[0].fractions):
        return None
    raise InputError(
        "only equal parts of splits, or all parts of one split, can be merged",
        found=[
            (str(d.path), s and f"{s.name} of {dict(s.fractions)} by {s.by}")
            for d, s in zip(datasets, splits, strict=True)
        ],
    )


def _with_groups(datasets: Sequence[Dataset]) -> Split | None:
    """The common split, with the runs or sources of all; none of them may be in different parts of different splits."""
    first = datasets[0].manifest.settings.split
    if first is None or first.by == "event":
        return first
    place: dict[int | str, str] = {}
    for dataset in datasets:
        split = dataset.manifest.settings.split
        if split is None or (split.groups is None) != (first.groups is None):
            raise InputError("was split by the rule of another version", file=dataset.path)
        for part, inside in (split.groups or {}).items():
            for name in inside:
                if place.setdefault(name, part) != part:
                    raise InputError(
                        f"has {first.by} {name} in its part {part!r}, but another dataset has it in {place[name]!r}",
                        file=dataset.path,
                        remedy="convert the sources together",
                    )
    if first.groups is None:
        return first
    groups = {part: tuple(sorted((n for n in place if place[n] == part), key=str)) for part in first.fractions}
    if first.by == "run":
        groups = {part: tuple(sorted(inside, key=lambda run: int(run))) for part, inside in groups.items()}
    return dataclasses.replace(first, groups=groups)


def _merged_derived(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """What the conversion found out on its way, joined as one conversion would have."""
    conversions = [dataset.manifest.settings.conversion for dataset in datasets]
    given: dict[str, Any] = {}
    if any("dead" in c for c in conversions):
        lists = [DeadList.from_list(c.get("dead", [])) for c in conversions]
        _check_shared_runs(datasets, lists)
        given["dead"] = reduce(lambda a, b: a | b, lists).to_list()
    if any("skipped" in c for c in conversions):
        skipped = [entry for c in conversions for entry in c.get("skipped", [])]
        unique = {(entry["name"], entry["reason"]): entry for entry in skipped}
        given["skipped"] = [unique[key] for key in sorted(unique)]
    if any(c.get("source_order") for c in conversions):
        order = [source for c in conversions for source in c.get("source_order") or []]
        given["source_order"] = list(dict.fromkeys(order))
    if any(c.get("toy") for c in conversions):
        given["toy"] = True
    return given


def _check_shared_runs(datasets: Sequence[Dataset], lists: Sequence[DeadList]) -> None:
    """Channels found dead in a run follow from all its events: parts that share a run must have found the same."""
    if all(entries == lists[0] for entries in lists):
        return
    runs = [_runs(dataset) for dataset in datasets]
    for i, dataset in enumerate(datasets):
        for j in range(i):
            for run in sorted(runs[i] & runs[j]):
                mine, theirs = (_listed(lists[k], run) for k in (i, j))
                if mine != theirs:
                    raise InputError(
                        f"has other dead channels in run {run} than {datasets[j].path}, which shares that run",
                        file=dataset.path,
                        found=[e.sensor for e in sorted(mine ^ theirs)][:8],
                        remedy="convert the sources together",
                    )


def _runs(dataset: Dataset) -> set[int]:
    if "run" not in dataset.columns:
        return {0}
    return set(dataset.table(["run"])["run"].drop_nulls().unique().to_list())


def _listed(entries: DeadList, run: int) -> set[DeadEntry]:
    return {entry for entry in entries.entries if entry.run_first <= run <= entry.run_last}


def merged_sources(datasets: Sequence[Dataset]) -> list[SourceInfo]:
    """Every source once, by id; the counts of one that is in several datasets added up."""
    merged: dict[str, SourceInfo] = {}
    for dataset in datasets:
        for source in dataset.manifest.sources:
            before = merged.get(source.id)
            merged[source.id] = source if before is None else _joined(before, source, dataset.path)
    return [merged[key] for key in sorted(merged)]


def _joined(a: SourceInfo, b: SourceInfo, path: Path) -> SourceInfo:
    for name in ("name", "tree", "uuid", "size", "entries"):
        if getattr(a, name) != getattr(b, name):
            raise InputError(
                f"has a different source with the same id: {name} differs", file=path, item=a.name, found=b, expected=a
            )
    reasons = [{k: v for k, v in s.dropped.items() if k != OTHER_SPLITS} for s in (a, b)]
    if reasons[0] != reasons[1]:
        raise InputError(
            "different events of a source were dropped", file=path, item=a.name, found=reasons[1], expected=reasons[0]
        )
    used = a.used + b.used
    elsewhere = a.entries - used - sum(reasons[0].values())
    dropped = reasons[0] | ({OTHER_SPLITS: elsewhere} if elsewhere else {})
    return dataclasses.replace(
        a,
        used=used,
        counts=_added(a.counts, b.counts),
        dropped=dict(sorted(dropped.items())),
        invalid_scalars=_added(a.invalid_scalars, b.invalid_scalars),
    )


def _added(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    keys = list(a) if list(a) == list(b) else sorted({*a, *b})
    return {key: a.get(key, 0) + b.get(key, 0) for key in keys}


def merged_counts(datasets: Sequence[Dataset]) -> tuple[SensorCounts, tuple[str, ...]]:
    """The sensors' counts of all, and what is not counted in all of them."""
    total = reduce(lambda a, b: a + b, (dataset.manifest.counts for dataset in datasets))
    unknown = sorted({name for dataset in datasets for name in dataset.manifest.uncounted})
    zero = {name: np.zeros_like(total.dead) for name in unknown if name in total.totals()}
    return dataclasses.replace(total, **zero), tuple(unknown)

"""The steps of a conversion: prepare, bucket, sort, finalize; each does what is not done yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.conversion.bucket import WITHOUT_SENSORS
from ingest.conversion.engine import Crew, Engine, all_results
from ingest.conversion.finish import write_manifests
from ingest.conversion.plan import Plan, split_folder
from ingest.conversion.prepare import (
    Prepared,
    RunCounts,
    dead_of,
    find_repeated,
    is_identified,
    keys_without_selection,
    last_key,
    read_prepared,
    write_prepared,
)
from ingest.conversion.work import WorkFolder
from ingest.reading.implausible import warn_of_implausible
from ingest.reading.rootio import Source
from shards.base import (
    InputError,
    OutputError,
    counted,
    progress,
)
from shards.identity import repeated
from shards.manifest import Manifest, ShardInfo
from shards.order import balanced_split, far_from_asked

logger = logging.getLogger(__name__)


def prepare(plan: Plan, work: WorkFolder, crew: Crew) -> Prepared:
    """What must be known before the first pass; kept in the work folder for restarts and other processes."""
    known = read_prepared(work)
    if known is not None:
        return known
    options, units = plan.options, [(unit.number,) for unit in plan.units]
    dead, last = options.dead, None
    bad: set[int] = set()
    groups = _identify(plan, crew, bad)
    if options.dead_if_invalid_fraction is not None:
        counts = RunCounts({}, {})
        for part in _per_source(plan, crew, "count", units, "looking for dead channels", bad):
            for result in part:
                counts += result
        dead = dead_of(plan, counts)
        logger.info("%d dead channels listed or found in the data", int(dead.sensors().sum()))
    if options.max_events is not None and options.max_events < plan.entries:
        if options.select is None:
            last = last_key(keys_without_selection(plan), options.max_events)
        else:
            pieces = [(unit.number, Prepared(dead, None)) for unit in plan.units]
            parts = _per_source(plan, crew, "keys", pieces, "selecting", bad)
            last = last_key((keys for part in parts for keys in part), options.max_events)
    prepared = Prepared(dead, last, groups)
    write_prepared(work, prepared)
    return prepared


def _identify(plan: Plan, crew: Crew, bad: set[int]) -> dict[str, tuple[int | str, ...]] | None:
    """Read run and event numbers before anything else: find duplicates, and decide which run goes where.

    Sources that are to be skipped are added to `bad`.
    """
    split, sources = plan.options.splits[0], plan.sources
    by_run = split is not None and split.by == "run"
    wanted = [i for i, source in enumerate(sources) if by_run or is_identified(source)]
    runs: dict[int, int] = {}
    hashes = []
    with progress("reading event numbers", sum(sources[i].entries for i in wanted)) as shown:
        for place, result in crew.run("identities", [(i,) for i in wanted]):
            source = sources[wanted[place]]
            shown.advance(source.entries)
            if isinstance(result, str):
                bad.add(wanted[place])
                continue
            for run, count in result.runs.items():
                runs[run] = runs.get(run, 0) + count
            if is_identified(source):
                hashes.append(result.hashes)
    _check_duplicates(plan, [sources[i] for i in wanted if i not in bad], repeated(hashes))
    if split is None or split.by == "event":
        return None
    sizes: Mapping[Any, int] = (
        runs if by_run else {source.id: source.entries for i, source in enumerate(sources) if i not in bad}
    )
    groups = balanced_split(sizes, split.fractions, split.by, split.seed)
    events = {part: sum(sizes[name] for name in inside) for part, inside in groups.items()}
    if far := far_from_asked(events, split.fractions):
        logger.warning(
            "the split by %s is far from what was asked for: %s; --split-by event divides more finely", split.by, far
        )
    return {part: tuple(inside) for part, inside in groups.items()}


def _check_duplicates(plan: Plan, sources: Sequence[Source], twice: npt.NDArray[np.uint64]) -> None:
    if not len(twice):
        return
    what = f"{len(twice)} events occur more than once, such as {find_repeated(sources, twice)}"
    if not plan.options.allow_duplicates:
        raise InputError(what, remedy="remove the copies, or use --allow-duplicates")
    logger.warning("%s", what)


def _per_source(
    plan: Plan, crew: Crew, method: str, pieces: Sequence[tuple[object, ...]], what: str, bad: set[int]
) -> list[list[Any]]:
    """Results of all units by source, without those of sources that are to be skipped, which are added to `bad`."""
    found: dict[int, list[Any]] = {}
    with progress(what, plan.entries) as shown:
        for i, result in crew.run(method, pieces):
            unit = plan.units[i]
            shown.advance(unit.stop - unit.start)
            if isinstance(result, str):
                bad.add(unit.source)
            else:
                found.setdefault(unit.source, []).append(result)
    return [results for source, results in sorted(found.items()) if source not in bad]


def bucket(plan: Plan, work: WorkFolder, crew: Crew, numbers: range) -> None:
    """First pass over the units of those numbers that are not done yet."""
    todo = [number for number in numbers if work.read_result(number, plan.settings.layout.stride) is None]
    events = sum(plan.units[i].stop - plan.units[i].start for i in todo)
    warned: set[str] = set()
    with progress("reading", events) as shown:
        for i, result in crew.run("bucket", [(number,) for number in todo]):
            unit = plan.units[todo[i]]
            shown.advance(unit.stop - unit.start)
            if result.failed:
                logger.warning("skipped: %s", result.failed)
            warned |= warn_of_implausible(plan.sources[unit.source], result.implausible, warned)


def sort(plan: Plan, work: WorkFolder, crew: Crew, out: Path, task: int, tasks: int) -> None:
    """Second pass: write every `tasks`-th shard that is not written yet."""
    bounds = crew.engine.boundaries
    for split, bound in enumerate(bounds):
        if bound.events == 0:
            raise _empty(plan, split)
    pairs = [(split, shard) for split, bound in enumerate(bounds) for shard in range(bound.shards)]
    todo = [pair for pair in pairs[task::tasks] if _written(plan, work, out, *pair) is None]
    with progress("writing", sum(bounds[split].rows_of(shard) for split, shard in todo)) as shown:
        for _, info in crew.run("sort", todo):
            shown.advance(info.events, note=info.name)


def _empty(plan: Plan, split: int) -> InputError:
    name = plan.options.splits[split]
    if name is None:
        return InputError("no events are left", found=f"{plan.entries} read", remedy="check --select")
    return InputError(
        f"no event falls into part {name.name!r} of the split",
        found=f"{plan.entries} events divided by {name.by}",
        remedy="give more inputs, or divide more finely: --split-by event",
    )


def _written(plan: Plan, work: WorkFolder, out: Path, split: int, shard: int) -> ShardInfo | None:
    """A shard that was recorded as written, if its files still have the recorded sizes."""
    info = work.read_shard(split, shard)
    if info is None:
        return None
    folder = split_folder(out, plan.options.splits[split]) / "shards"
    for suffix, expected in (("tar", info.tar), ("idx", info.idx), ("parquet", info.parquet)):
        path = folder / f"{info.name}.{suffix}"
        if not path.exists() or path.stat().st_size != expected.bytes:
            return None
    return info


def finalize(plan: Plan, work: WorkFolder, out: Path, prepared: Prepared) -> list[Manifest]:
    """Publish the manifests when everything is there, then remove the work folder."""
    engine = Engine(plan, out)
    shards: dict[int, list[ShardInfo]] = {}
    for split, bound in enumerate(engine.boundaries):
        if bound.events == 0:
            raise _empty(plan, split)
        found = [_written(plan, work, out, split, shard) for shard in range(bound.shards)]
        missing = [i for i, info in enumerate(found) if info is None]
        if missing:
            raise OutputError(
                f"{len(missing)} of {bound.shards} shards are not written",
                file=out,
                found=f"shard {missing[0]} is missing",
                remedy="run the sort step for them again",
            )
        shards[split] = [info for info in found if info is not None]
    manifests = write_manifests(plan, work, out, all_results(plan, work), prepared, shards)
    for manifest in manifests:
        _say_what_was_lost(manifest)
    work.remove()
    return manifests


def _say_what_was_lost(manifest: Manifest) -> None:
    """Warn of columns without any value, and of values that the storage type cannot hold."""
    part = f" of {manifest.settings.split.name}" if manifest.settings.split else ""
    for name, count in manifest.summed("invalid_scalars").items():
        if count == manifest.n_events:
            logger.warning("column %r has no value in any event%s", name, part)
    saturated = manifest.counts.totals()["saturated"]
    if saturated:
        dtype = manifest.settings.dtype
        logger.warning(
            "%d sensor values%s are beyond the range of %s and were stored as its largest number",
            saturated,
            part,
            dtype,
        )
    empty = manifest.summed("dropped").get(WITHOUT_SENSORS)
    if empty:
        logger.warning("left out %s without sensor values", counted(empty, "event"))

"""Conversion: ROOT files in, complete datasets out; bounded memory, any number of workers, resumable, always the same
bytes.

    sources = open_sources(["run*.root"], schema="real")
    result = convert(sources, Path("data"), ConversionOptions(schema=load_schema("real")), workers=4)

Steps: *prepare* (only where something must be found in the data first), *bucket* (every unit of entries becomes sorted
rows on disk), *sort* (every shard gathers its rows), *finalize* (the manifests, and away with the temporary rows). On a
cluster the two in the middle run as arrays, one task doing every n-th piece.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.conversion.bucket import WITHOUT_SENSORS
from ingest.conversion.cleaning import selection_columns
from ingest.conversion.engine import Crew, Engine, all_results
from ingest.conversion.finish import finished, write_manifests
from ingest.conversion.options import ConversionOptions
from ingest.conversion.plan import Plan, make_plan, split_folder
from ingest.conversion.prepare import (
    Prepared,
    RunCounts,
    dead_of,
    find_repeated,
    is_identified,
    keys_without_selection,
    last_key,
    needs_preparing,
    read_prepared,
    write_prepared,
)
from ingest.conversion.work import FOLDER, WorkFolder
from ingest.reading.implausible import warn_of_implausible
from ingest.reading.rootio import Skipped, Source
from shards.base import (
    ConfigError,
    InputError,
    LockedError,
    OutputError,
    counted,
    local_path,
    locked,
    output_folder,
    progress,
    size_text,
)
from shards.identity import repeated
from shards.manifest import MANIFEST, Manifest, ShardInfo
from shards.order import balanced_split, far_from_asked

logger = logging.getLogger(__name__)

STEPS = ("all", "plan", "prepare", "bucket", "sort", "finalize")
LOCK = ".ingest.lock"


@dataclass(frozen=True)
class Conversion:
    """What `convert` gives."""

    manifests: tuple[Manifest, ...]
    """One per split; one without splitting."""
    folders: tuple[Path, ...]
    """Where each of them is."""
    was_complete: bool
    """Nothing was done, because it had been done before."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of an unsplit conversion (else of the first split)."""
        return self.manifests[0]


def convert(
    sources: Sequence[Source],
    out: Path | str,
    options: ConversionOptions,
    *,
    workers: int | None = None,
    skipped: Sequence[Skipped] = (),
) -> Conversion:
    """Convert `sources` into the dataset folder `out` (with splits: into folders in it), or continue doing so.

    Args:
        sources: of `open_sources`.
        workers: processes, on which the result does not depend; None: one per free core, few for few events.
        skipped: files that `open_sources` left out.

    Raises:
        InputError: something is wrong with the inputs; nothing is published.
        ConfigError: the selection is not understood.
        OutputError: `out` holds something else, or cannot be written.
        LockedError: another process is converting into `out`.
    """
    plan = make_plan(sources, skipped, options)
    selection_columns(plan)
    folder = output_place(plan, out)
    done = _result_if_finished(plan, folder)
    if done is not None:
        return done
    work = WorkFolder(folder)
    with _storage_errors(folder), locked(folder / LOCK, f"converting into {folder}"):
        _begin(plan, work, folder)
        with Crew(plan, folder, workers) as crew:
            prepared = _prepare(plan, work, crew)
            _bucket(plan, work, crew, range(len(plan.units)))
            _sort(plan, work, crew, folder, 0, 1)
        manifests = _finalize(plan, work, folder, prepared)
    return Conversion(tuple(manifests), _folders(plan, folder), was_complete=False)


def run_step(
    step: str, plan: Plan, out: Path, *, task: int = 0, tasks: int = 1, workers: int | None = None
) -> Conversion | None:
    """Do one step of a conversion, or one task's share of it.

    Args:
        step: "prepare", "bucket", "sort" or "finalize".
        task: which of `tasks` shares, counting from 0.

    **Returns** the conversion after "finalize" (and when it had been complete before), else None.
    """
    if step not in STEPS[2:] or not 0 <= task < tasks:
        raise ConfigError("no such step or task", found=f"{step}, task {task} of {tasks}")
    output_place(plan, out)
    done = _result_if_finished(plan, out)
    if done is not None:
        return done
    work = WorkFolder(out)
    lock = out / (LOCK if step == "finalize" else f"{LOCK}-{step}-{task}-of-{tasks}")
    with _storage_errors(out), locked(lock, f"{step} step, task {task} of {tasks}, into {out}"):
        _begin(plan, work, out)
        if step == "finalize":
            prepared = Engine(plan, out).prepared
            return Conversion(tuple(_finalize(plan, work, out, prepared)), _folders(plan, out), was_complete=False)
        with Crew(plan, out, workers) as crew:
            if step == "prepare" or not needs_preparing(plan):
                _prepare(plan, work, crew)
            if step == "bucket":
                _bucket(plan, work, crew, range(task, len(plan.units), tasks))
            elif step == "sort":
                _sort(plan, work, crew, out, task, tasks)
    return None


@dataclass(frozen=True)
class Extent:
    """How large a planned conversion is."""

    files: int
    events: int
    units: int
    """Pieces of work of the bucket step."""
    shards: int
    """Pieces of work of the sort step, at most: a selection leaves fewer."""


def note_plan(plan: Plan, out: Path) -> Conversion | Extent:
    """Note what is to be converted into `out`, for `run_folder_step` to do; the conversion if it is done already.

    Another plan that nothing has been done of is replaced.

    Raises:
        OutputError: `out` holds something else, or has too little space.
    """
    output_place(plan, out)
    selection_columns(plan)
    done = _result_if_finished(plan, out)
    if done is not None:
        return done
    with _storage_errors(out), locked(out / LOCK, f"planning a conversion into {out}"):
        work = WorkFolder(out)
        if work.is_untouched():
            work.remove()
        _begin(plan, work, out)
    options = plan.options
    events = min(plan.entries, options.max_events or plan.entries)
    shards = -(-events // options.events_per_shard) + len(options.splits) - 1
    return Extent(len(plan.sources), plan.entries, len(plan.units), shards)


def run_folder_step(
    step: str, out: Path, *, task: int = 0, tasks: int = 1, workers: int | None = None
) -> Conversion | None:
    """`run_step` of the conversion that was begun in `out`, without looking into every input file again.

    Raises:
        InputError: no conversion was begun there.
    """
    if not (out / FOLDER / "plan.json").exists() and (done := _finished_folder(out)) is not None:
        return done
    return run_step(step, WorkFolder(out).read_plan(), out, task=task, tasks=tasks, workers=workers)


def _finished_folder(out: Path) -> Conversion | None:
    """The dataset in a folder whose work folder is gone, if there is one; of splits, those that are there."""
    if (out / MANIFEST).exists():
        return Conversion((Manifest.read(out),), (out,), was_complete=True)
    found = {path.parent: Manifest.read(path.parent) for path in sorted(out.glob(f"*/{MANIFEST}"))}
    splits = {folder: m for folder, m in found.items() if m.settings.split and m.settings.split.name == folder.name}
    return Conversion(tuple(splits.values()), tuple(splits), was_complete=True) if splits else None


def finalize_folder(out: Path) -> Conversion:
    """The "finalize" step for a folder whose other steps are done; needs nothing but the folder.

    Raises:
        InputError: no conversion was begun there.
        OutputError: a unit or a shard is missing.
    """
    conversion = run_folder_step("finalize", out)
    assert conversion is not None
    return conversion


def output_place(plan: Plan, out: Path | str) -> Path:
    """`out` as a folder, after making sure that datasets can be written there, and not among their own inputs."""
    folder, inputs = local_path(out), [source.path for source in plan.sources]
    for split in plan.options.splits:
        output_folder(split_folder(folder, split), "dataset", lambda path: True, inputs)
    return folder


@contextmanager
def _storage_errors(out: Path) -> Iterator[None]:
    """What the system refuses (space, permission, a folder) is about the output: inputs have errors of their own."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", file=error.filename or out, remedy="then run it again"
        ) from error


def _result_if_finished(plan: Plan, out: Path) -> Conversion | None:
    if plan.options.split is not None and (out / MANIFEST).exists():
        raise OutputError("is a dataset itself, splits cannot go into it", file=out, remedy="choose another --out")
    manifests = finished(plan, out)
    if manifests is None:
        return None
    work = WorkFolder(out)
    if work.path.exists() or (out / LOCK).exists():
        try:
            with locked(out / LOCK, f"tidying up {out}"):  # it was killed between the manifest and this
                work.remove()
        except LockedError:
            logger.info("%s is complete; another process is tidying it up", out)
    return Conversion(tuple(manifests), _folders(plan, out), was_complete=True)


def _folders(plan: Plan, out: Path) -> tuple[Path, ...]:
    return tuple(split_folder(out, split) for split in plan.options.splits)


def _begin(plan: Plan, work: WorkFolder, out: Path) -> None:
    """Note the plan in the work folder, or check that it is the one noted there; say what disk space it takes."""
    if work.begin(plan):
        logger.info("continuing the conversion begun in %s", work.path)
        return
    options = plan.options
    events = min(plan.entries, options.max_events or plan.entries)
    temporary = events * plan.record.itemsize
    shards = events * plan.settings.layout.stride
    free = shutil.disk_usage(out).free
    logger.info(
        "%s, %s: needs up to %s for the shards and %s temporarily in %s; %s are free",
        counted(len(plan.sources), "file"), counted(plan.entries, "event"),
        size_text(shards), size_text(temporary), work.path, size_text(free),
    )  # fmt: skip
    if temporary + shards > free and options.select is None:
        work.remove()
        raise OutputError(
            "has too little free space",
            file=out,
            found=size_text(free),
            expected=size_text(temporary + shards),
            remedy="free some, choose another --out, or --dtype float16",
        )


def _prepare(plan: Plan, work: WorkFolder, crew: Crew) -> Prepared:
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
    """Look at run and event numbers before anything else is read: nothing may come twice; and which run goes where.

    Sources that are to be skipped are added to `bad`.
    """
    split, sources = plan.options.splits[0], plan.sources
    by_run = split is not None and split.by == "run"
    wanted = [i for i, source in enumerate(sources) if by_run or is_identified(source)]
    runs: dict[int, int] = {}
    hashes = []
    with progress("looking at event numbers", sum(sources[i].entries for i in wanted)) as shown:
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
            "the split by %s is far from what was asked for: %s; --split-by event has no such steps", split.by, far
        )
    return {part: tuple(inside) for part, inside in groups.items()}


def _check_duplicates(plan: Plan, sources: Sequence[Source], twice: npt.NDArray[np.uint64]) -> None:
    if not len(twice):
        return
    what = f"{len(twice)} events occur more than once, such as {find_repeated(sources, twice)}"
    if not plan.options.allow_duplicates:
        raise InputError(what, remedy="give each event once, or --allow-duplicates")
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


def _bucket(plan: Plan, work: WorkFolder, crew: Crew, numbers: range) -> None:
    """First pass over the units of those numbers that are not done yet."""
    todo = [number for number in numbers if work.read_result(number, plan.record.itemsize) is None]
    events = sum(plan.units[i].stop - plan.units[i].start for i in todo)
    warned: set[str] = set()
    with progress("reading", events) as shown:
        for i, result in crew.run("bucket", [(number,) for number in todo]):
            unit = plan.units[todo[i]]
            shown.advance(unit.stop - unit.start)
            if result.failed:
                logger.warning("skipped: %s", result.failed)
            warned |= warn_of_implausible(plan.sources[unit.source], result.implausible, warned)


def _sort(plan: Plan, work: WorkFolder, crew: Crew, out: Path, task: int, tasks: int) -> None:
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
        return InputError("no event is left", found=f"{plan.entries} read", remedy="look at --select")
    return InputError(
        f"no event falls into the split {name.name!r}",
        found=f"{plan.entries} events divided by {name.by}",
        remedy="give more inputs, or divide by something finer: --split-by event",
    )


def _written(plan: Plan, work: WorkFolder, out: Path, split: int, shard: int) -> ShardInfo | None:
    """A shard that was noted as written, if its files still have the sizes noted."""
    info = work.read_shard(split, shard)
    if info is None:
        return None
    folder = split_folder(out, plan.options.splits[split]) / "shards"
    for suffix, expected in (("tar", info.tar), ("idx", info.idx), ("parquet", info.parquet)):
        path = folder / f"{info.name}.{suffix}"
        if not path.exists() or path.stat().st_size != expected.bytes:
            return None
    return info


def _finalize(plan: Plan, work: WorkFolder, out: Path, prepared: Prepared) -> list[Manifest]:
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
                remedy="run the sort step for them (again)",
            )
        shards[split] = [info for info in found if info is not None]
    manifests = write_manifests(plan, work, out, all_results(plan, work), prepared, shards)
    for manifest in manifests:
        _say_what_was_lost(manifest)
    work.remove()
    return manifests


def _say_what_was_lost(manifest: Manifest) -> None:
    """Warn where nothing is left of a column, or of values that the storage type cannot hold."""
    part = f" of {manifest.settings.split.name}" if manifest.settings.split else ""
    for name, count in manifest.summed("invalid_scalars").items():
        if count == manifest.n_events:
            logger.warning("column %r is unknown in all events%s", name, part)
    saturated = manifest.counts.totals()["saturated"]
    if saturated:
        dtype = manifest.settings.dtype
        logger.warning("%d sensor values%s are beyond %s and stored as its largest number", saturated, part, dtype)
    empty = manifest.summed("dropped").get(WITHOUT_SENSORS)
    if empty:
        logger.warning("left out %s without any sensor value", counted(empty, "event"))


__all__ = ["Conversion", "convert", "run_step"]

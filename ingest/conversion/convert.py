"""Conversion: ROOT files in, complete datasets out; bounded memory, any number of workers, resumable, always the same
bytes.

    sources = open_sources(["run*.root"], schema="real")
    result = convert(sources, Path("data"), ConversionOptions(schema=load_schema("real")), workers=4)

Steps: *prepare* (only where something must be found in the data first), *bucket* (every unit of entries becomes sorted
rows on disk), *sort* (every shard gathers its rows), *finalize* (write the manifests, remove the temporary rows). On a
cluster the two in the middle run as arrays, one task doing every n-th piece.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest.conversion import steps
from ingest.conversion.cleaning import selection_columns
from ingest.conversion.engine import Crew, Engine
from ingest.conversion.finish import finished
from ingest.conversion.options import ConversionOptions
from ingest.conversion.plan import Plan, make_plan, split_folder
from ingest.conversion.prepare import (
    needs_preparing,
)
from ingest.conversion.work import FOLDER, WorkFolder
from ingest.reading.rootio import Skipped, Source
from shards.base import (
    ConfigError,
    LockedError,
    OutputError,
    counted,
    local_path,
    locked,
    output_folder,
    size_text,
)
from shards.manifest import MANIFEST, Manifest, takes_dataset, takes_folders

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
    """Nothing was done: the result existed already."""

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
        workers: processes, this one included, on which the result does not depend; None: one per free core, few for
            few events.
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
            prepared = steps.prepare(plan, work, crew)
            steps.bucket(plan, work, crew, range(len(plan.units)))
            steps.sort(plan, work, crew, folder, 0, 1)
        manifests = steps.finalize(plan, work, folder, prepared)
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
        raise ConfigError("there is no such step or task", found=f"{step}, task {task} of {tasks}")
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
            return Conversion(tuple(steps.finalize(plan, work, out, prepared)), _folders(plan, out), was_complete=False)
        with Crew(plan, out, workers) as crew:
            if step == "prepare" or not needs_preparing(plan):
                steps.prepare(plan, work, crew)
            if step == "bucket":
                steps.bucket(plan, work, crew, range(task, len(plan.units), tasks))
            elif step == "sort":
                steps.sort(plan, work, crew, out, task, tasks)
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
    """Record what is to be converted into `out` by `run_folder_step`; the conversion if it is already done.

    A different plan is replaced as long as no work on it was done.

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
    """`run_step` of the conversion that was begun in `out`, without opening every input file again.

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
    if plan.options.split is not None:
        output_folder(folder, "folder of datasets", takes_folders)
    for split in plan.options.splits:
        output_folder(split_folder(folder, split), "dataset", takes_dataset, inputs)
    return folder


@contextmanager
def _storage_errors(out: Path) -> Iterator[None]:
    """System errors (space, permission, a folder) concern the output here: inputs have errors of their own."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            file=error.filename or out,
            remedy="fix this, then run the same command again",
        ) from error


def _result_if_finished(plan: Plan, out: Path) -> Conversion | None:
    manifests = finished(plan, out)
    if manifests is None:
        return None
    work = WorkFolder(out)
    if work.path.exists() or (out / LOCK).exists():
        try:
            with locked(out / LOCK, f"cleaning up {out}"):  # it was killed between the manifest and this
                work.remove()
        except LockedError:
            logger.info("%s is complete; another process is cleaning up", out)
    return Conversion(tuple(manifests), _folders(plan, out), was_complete=True)


def _folders(plan: Plan, out: Path) -> tuple[Path, ...]:
    return tuple(split_folder(out, split) for split in plan.options.splits)


def _begin(plan: Plan, work: WorkFolder, out: Path) -> None:
    """Record the plan in the work folder, or check it against the one recorded there; log the disk space it needs."""
    if work.begin(plan):
        logger.info("continuing the conversion begun in %s", work.path)
        return
    options = plan.options
    events = min(plan.entries, options.max_events or plan.entries)
    temporary = shards = events * plan.settings.layout.stride
    free = shutil.disk_usage(out).free
    logger.info(
        "%s, %s: up to %s for the shards and %s of temporary files in %s; %s free",
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
            remedy="free some, choose another --out, or use --dtype float16",
        )


__all__ = ["Conversion", "convert", "run_step"]

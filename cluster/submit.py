"""Submitting campaigns: checked, recorded, and only then released, so that no campaign is ever submitted in part."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import slurm
from cluster.campaign import Campaign, Folder, Sent, StepRecord, format_ranges, parse_ranges
from cluster.kinds import Work
from cluster.script import render
from cluster.status import Status, examine
from shards.base import ConfigError, OutputError, XecError, locked, publish_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What was done."""

    folder: Folder
    campaign: Campaign
    elements: int
    """Number of jobs and array elements submitted."""
    existed: bool = False
    """The campaign was already done; nothing was submitted."""


def scripts(work: Work, directory: Path | None = None) -> dict[str, str]:
    """The script of every step, by name.

    Args:
        directory: where it is submitted; default: the working directory.

    Raises:
        ConfigError: a path that SLURM would misread.
    """
    here = directory or Path.cwd()
    folder = Folder.of_output(here / work.out)
    for path in (folder.path, here):
        if re.search(r"[\s%\\\"'$]", str(path)):
            raise ConfigError(
                "SLURM would misread this path", file=path, remedy="use one without spaces, quotes, $ and %"
            )
    return {step.name: render(step, folder.path, here) for step in work.steps}


def submit(work: Work, *, again: bool = False, look: bool = True) -> Submission:
    """Check a campaign, write its scripts, and submit its jobs.

    Args:
        again: replace the record of an earlier campaign with this output, if nothing of it is active.
        look: whether to check its inputs, too, which may not exist yet.

    Raises:
        ConfigError: no SLURM here, or a command that would fail at once.
        OutputError: the output belongs to another campaign, or to this one already.
        SlurmError: SLURM refused a job; those already accepted are cancelled.
    """
    slurm.require()
    folder = Folder.of_output(work.out)
    texts = scripts(work)
    with _no_empty_folder(folder.path), locked(folder.lock, f"submitting {folder.path.name}"):
        done = _known(folder, work, again)
        if done is not None:
            return Submission(folder, done, 0, existed=True)
        _check((*work.checks, *(work.input_checks if look else ())), work.judge)
        for name in ("state", "logs"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder.path / "state")
        (folder.path / "state").mkdir()
        for name, text in texts.items():
            publish_text(folder.script(name), text)
        steps = tuple(
            StepRecord(name=s.name, elements=s.elements, throttle=s.throttle, after=s.after, after_any=s.after_any)
            for s in work.steps
        )
        limit = min(work.steps[0].place.profile.max_array_size, slurm.max_array_size() or 1_000_000)
        record = Campaign(
            kind=work.kind, request=work.request, directory=str(Path.cwd()), array_limit=limit, steps=steps
        )
        todo: dict[str, Sequence[int]] = {step.name: range(step.elements or 1) for step in record.steps}
        record = _send(folder, record, todo, {})
    return Submission(folder, record, sum(len(numbers) for numbers in todo.values()))


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """A block that may make a folder; if the block fails while the folder is empty, it is removed."""
    try:
        yield
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def resubmit(folder: Folder) -> Submission:
    """Submit again what failed, was cancelled or lost, and what was waiting for it.

    Raises:
        OutputError: nothing needs it.
        SlurmError: SLURM does not answer, or refused a job.
    """
    slurm.require()
    with locked(folder.lock, f"resubmitting {folder.path.name}"):
        record = folder.read()
        status = examine(folder, record)
        if status.silent:
            raise slurm.SlurmError(
                "it is not known what is still running", found=status.silent, remedy="try again later"
            )
        todo, going = _unfinished(record, status)
        count = sum(len(numbers) for numbers in todo.values())
        for name, numbers in todo.items():
            for number in numbers:
                folder.state(name, number).unlink(missing_ok=True)
        if count:
            record = _send(folder, record, todo, going)
    return Submission(folder, record, count, existed=not count)


def cancel(folder: Folder) -> int:
    """Cancel what is waiting or running; returns the number of elements.

    Raises:
        SlurmError: SLURM does not answer.
    """
    slurm.require()
    with locked(folder.lock, f"cancelling {folder.path.name}"):
        record = folder.read()
        status = examine(folder, record)
        if status.silent:
            raise slurm.SlurmError("nothing was cancelled", found=status.silent)
        count = 0
        for step in status.steps:
            count += _cancel(record.step(step.name), [e.element for e in step.of("running", "waiting")])
    return count


def _known(folder: Folder, work: Work, again: bool) -> Campaign | None:
    """The campaign that has this output already: returned when it is this one and done, refused otherwise."""
    if not folder.record.exists():
        return None
    record = folder.read()
    status = examine(folder, record)
    if status.active or status.silent:
        raise OutputError(
            "is a campaign that may still be running", file=folder.path,
            remedy=f"check with `xec cluster status {folder.path.name}`, stop it with `xec cluster cancel`",
        )  # fmt: skip
    if again:
        return None
    if (record.kind, record.request) == (work.kind, work.request):
        if status.done:
            return record
        raise OutputError(
            "was submitted already and is not finished",
            file=folder.path,
            remedy="`xec cluster resubmit` submits the rest",
        )
    before = {"kind": record.kind, **record.request}
    now = {"kind": work.kind, **work.request}
    key = next(key for key in [*now, *before] if before.get(key) != now.get(key))
    raise OutputError(
        f"is another campaign with this output: {key} differs", file=folder.path,
        found=_short(before.get(key)), expected=_short(now.get(key)),
        remedy="choose another --out, or replace its record with --again",
    )  # fmt: skip


def _short(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:197] + "…"


def _check(checks: Sequence[Sequence[str]], judge: Callable[[str], None]) -> None:
    """Run the commands that check; the first failure is the error. `judge` sees what the last one printed."""
    printed = ""
    for words in checks:
        done = subprocess.run([sys.executable, "-m", "xec", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ConfigError(f"`xec {words[0]}` would refuse this: {_complaint(done.stderr)}")
        printed = done.stdout
    judge(printed)


def _complaint(text: str) -> str:
    """The error in what a command printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.removeprefix("xec: error: ") for line in lines if line.startswith("xec: error: ")]
    return (own or lines or ["it failed without a message"])[-1]


def _send(folder: Folder, record: Campaign, todo: dict[str, Sequence[int]], going: dict[str, list[str]]) -> Campaign:
    """Submit everything on hold, record it, release it.

    Args:
        todo: elements to submit, by step.
        going: earlier jobs and elements of a step, for which later steps must wait, too.
    """
    fresh: list[Sent] = []
    waits = {name: list(jobs) for name, jobs in going.items()}
    try:
        for step in record.steps:
            ended = _former(step, set(todo.get(step.name, ())))
            for first, indices in _pieces(step, todo.get(step.name, ()), record.array_limit):
                options = _options(step, waits, first, indices, ended)
                job, cluster = slurm.sbatch(str(folder.script(step.name)), options)
                sent = Sent(job=job, cluster=cluster, first=first, indices=indices)
                fresh.append(sent)
                waits.setdefault(step.name, []).append(str(job))
                record = record.with_sent(step.name, sent)
                folder.write(record)
        for sent in fresh:
            slurm.release(sent.job, sent.cluster)
    except BaseException as error:
        _take_back(folder, record, fresh)
        if isinstance(error, XecError):
            logger.info("nothing was submitted")
        raise
    return record


def _take_back(folder: Folder, record: Campaign, fresh: list[Sent]) -> None:
    """Cancel what was accepted before something was refused, and forget it."""
    for sent in fresh:
        slurm.cancel(sent.job, sent.cluster)
    jobs = {sent.job for sent in fresh}
    steps = [s.model_copy(update={"sent": tuple(x for x in s.sent if x.job not in jobs)}) for s in record.steps]
    before = record.model_copy(update={"steps": tuple(steps)})
    if before.jobs():
        folder.write(before)
    else:
        folder.record.unlink(missing_ok=True)


def _options(
    step: StepRecord, waits: dict[str, list[str]], first: int, indices: str | None, ended: list[str]
) -> list[str]:
    """Options for `sbatch` in addition to those in the script."""
    options = ["--hold"]
    if indices is not None:
        options.append(f"--array={indices}" + (f"%{step.throttle}" if step.throttle else ""))
    jobs = waits.get(step.after or "", [])
    if jobs:
        kind = "afterany" if step.after_any else "afterok"
        options += [f"--dependency={kind}:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"]
    variables = [f"XEC_FIRST={first}"] if first else []
    variables += [f"XEC_ENDED_JOBS={':'.join(ended)}"] if ended else []
    return [*options, f"--export={','.join(['ALL', *variables])}"]


def _former(step: StepRecord, elements: set[int]) -> list[str]:
    """Jobs that have ended and may have left locks, which may be taken over."""
    return [
        f"{sent.job}" if index is None else f"{sent.job}_{index}"
        for sent in step.sent
        for element, index in sent.elements()
        if element in elements
    ]


def _pieces(step: StepRecord, elements: Iterable[int], size: int) -> list[tuple[int, str | None]]:
    """Elements as arrays of at most `size`, the site's limit: (offset of the indices, indices)."""
    numbers = sorted(elements)
    if step.elements is None:
        return [(0, None)] if numbers else []
    pieces: dict[int, list[int]] = {}
    for number in numbers:
        pieces.setdefault(number // size, []).append(number % size)
    return [(piece * size, format_ranges(indices)) for piece, indices in pieces.items()]


def _unfinished(record: Campaign, status: Status) -> tuple[dict[str, Sequence[int]], dict[str, list[str]]]:
    """What has to be submitted again, by step; and the jobs of each step that still run and need not be.

    What waits for something that is submitted again would wait for the wrong job: it is cancelled, and submitted
    again, too.
    """
    todo: dict[str, Sequence[int]] = {}
    going: dict[str, list[str]] = {}
    for step in status.steps:
        own = record.step(step.name)
        left = {e.element for e in step.of("failed", "cancelled", "lost", "unknown", "not sent")}
        active = step.of("running", "waiting")
        if own.after in todo:
            waiting = [e.element for e in active]
            _cancel(own, waiting)
            left |= set(waiting) | (
                set(range(own.elements or 1)) if own.after_any else set()
            )  # it looks at all of them
        else:
            going[step.name] = [e.job for e in active]
        if left:
            todo[step.name] = sorted(left)
    return todo, going


def _cancel(step: StepRecord, elements: Sequence[int]) -> int:
    newest = step.newest()
    by_job: dict[Sent, list[int | None]] = {}
    for element in elements:
        sent, index = newest[element]
        by_job.setdefault(sent, []).append(index)
    for sent, indices in by_job.items():
        numbers = [index for index in indices if index is not None]
        whole = sent.indices is None or len(numbers) == len(list(parse_ranges(sent.indices)))
        slurm.cancel(sent.job, sent.cluster, None if whole else format_ranges(numbers))
    return len(elements)

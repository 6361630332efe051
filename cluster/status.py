"""How a campaign stands, by what each element recorded itself, and then by what SLURM says.

Only an element that recorded its own success is done: a job that SLURM no longer knows is not a success, nor is one
that SLURM calls COMPLETED but whose script did not get to its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import slurm
from cluster.campaign import Campaign, Folder, StepRecord
from cluster.slurm import Key, Seen, SlurmError

Standing = Literal["done", "running", "waiting", "failed", "cancelled", "lost", "unknown", "not sent"]
BAD: tuple[Standing, ...] = ("failed", "cancelled", "lost", "unknown", "not sent")
TAIL_LINES = 8


@dataclass(frozen=True)
class ElementStatus:
    """How one element stands."""

    element: int
    standing: Standing
    why: str
    """In words, where it needs explaining."""
    job: str
    """Its newest job."""
    log: Path | None


@dataclass(frozen=True)
class StepStatus:
    """How the elements of a step stand."""

    name: str
    elements: tuple[ElementStatus, ...]

    def counts(self) -> Counter[str]:
        """Number of elements by standing."""
        return Counter(element.standing for element in self.elements)

    def of(self, *standings: Standing) -> list[ElementStatus]:
        """The elements with one of these standings."""
        return [element for element in self.elements if element.standing in standings]


@dataclass(frozen=True)
class Status:
    """How a campaign stands."""

    steps: tuple[StepStatus, ...]
    silent: str
    """Why SLURM could not be queried; empty when it was."""

    @property
    def active(self) -> bool:
        """Whether anything is waiting or running."""
        return any(step.of("running", "waiting") for step in self.steps)

    @property
    def done(self) -> bool:
        """Whether everything is done."""
        return all(element.standing == "done" for step in self.steps for element in step.elements)

    @property
    def bad(self) -> list[tuple[str, ElementStatus]]:
        """(step, element) of everything that needs attention."""
        return [(step.name, element) for step in self.steps for element in step.of(*BAD)]


def examine(folder: Folder, campaign: Campaign) -> Status:
    """How every element of a campaign stands now."""
    jobs = campaign.jobs()
    seen: dict[Key, Seen] | None
    try:
        seen, silent = slurm.look({sent.cluster for sent in jobs}, {sent.job for sent in jobs}), ""
    except SlurmError as error:
        seen, silent = None, str(error)
    return Status(tuple(_step(folder, step, seen) for step in campaign.steps), silent)


def _step(folder: Folder, step: StepRecord, seen: dict[Key, Seen] | None) -> StepStatus:
    newest = step.newest()
    found = []
    for element in range(step.elements or 1):
        if element not in newest:
            found.append(ElementStatus(element, "not sent", "it was never submitted", "", None))
            continue
        sent, index = newest[element]
        job = f"{sent.job}" if index is None else f"{sent.job}_{index}"
        noted = read_note(folder.state(step.name, element))
        now = None if seen is None else seen.get((sent.job, index))
        standing, why = judge(noted, job, now, seen is not None)
        if standing == "lost" and noted is None and any(number == sent.job for number, _ in seen or ()):
            standing, why = "cancelled", "SLURM removed it from its array before it began"
        log = folder.log(step.name, sent, index)
        found.append(ElementStatus(element, standing, why, job, log if log.exists() else None))
    return StepStatus(step.name, tuple(found))


@dataclass(frozen=True)
class Note:
    """What an element recorded about itself."""

    word: str
    """began, done, failed:CODE or requeued."""
    job: str
    host: str


def read_note(path: Path) -> Note | None:
    """What an element recorded; None before it began, or when the line is incomplete."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return Note(words[0], words[1], words[2]) if len(words) == 4 else None


def judge(note: Note | None, job: str, seen: Seen | None, answered: bool) -> tuple[Standing, str]:
    """How an element stands.

    Args:
        note: its own record.
        job: its newest job, to tell this record from an earlier job's.
        seen: what SLURM says about that job.
        answered: whether SLURM could be queried at all.
    """
    if note is not None and note.word == "done":
        return "done", ""
    mine = note if note is not None and note.job == job else None
    if seen is not None and seen.active:
        if seen.reason == "DependencyNeverSatisfied":
            return "cancelled", "the step it waits for has failed"
        waiting = seen.state in slurm.WAITING
        return ("waiting", seen.reason) if waiting else ("running", f"on {mine.host}" if mine else "")
    code = mine.word.removeprefix("failed:") if mine is not None and mine.word.startswith("failed") else None
    if seen is not None:
        if seen.state == "COMPLETED":
            if code:
                return "failed", f"exit status {code}"
            return "failed", "SLURM says COMPLETED, but the script did not reach its end"
        told = seen.state + (f", exit status {code}" if code else "") + (f" ({seen.reason})" if seen.reason else "")
        return ("cancelled" if seen.state == "CANCELLED" else "failed"), told
    if code:
        return "failed", f"exit status {code}"
    if not answered:
        return "unknown", "SLURM does not answer"
    return "lost", f"SLURM does not know job {job}, which did not record its end"


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, without reading all of it."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        text = file.read().decode("utf-8", errors="replace")
    return text.splitlines()[-lines:]

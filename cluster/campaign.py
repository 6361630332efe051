"""The record of a campaign: what was asked for, which scripts were submitted, as which jobs. It is beside the output.

OUT.jobs/campaign.json   this record              OUT.jobs/STEP.sbatch      the scripts
         logs/           named by job and element      state/STEP-ELEMENT   how an element stands, by itself
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from cluster.profile import Document, Kind
from shards.base import InputError, publish_text
from shards.base.documents import read_document

SUFFIX = ".jobs"


class Sent(Document):
    """One call of `sbatch`."""

    job: int
    """Id of the job or array."""
    cluster: str | None = None
    """The cluster it was submitted to, where there are several."""
    first: int = 0
    """Added to an array index, it gives the element."""
    indices: str | None = None
    """Array indices, as for `--array`; null: a single job."""

    def elements(self) -> Iterator[tuple[int, int | None]]:
        """(element, array index) of everything in it."""
        if self.indices is None:
            yield 0, None
        else:
            for index in parse_ranges(self.indices):
                yield self.first + index, index


class StepRecord(Document):
    """One step: its script, and its submissions, the newest last."""

    name: str
    elements: int | None
    """Length of the array; null: a single job."""
    throttle: int | None = None
    """Largest number of elements that run at a time."""
    after: str | None = None
    """The step it waits for."""
    after_any: bool = False
    """Whether that step need only have ended."""
    sent: tuple[Sent, ...] = ()
    """Every submission of it."""

    def newest(self) -> dict[int, tuple[Sent, int | None]]:
        """For each element the last submission that holds it, and its array index there."""
        return {element: (sent, index) for sent in self.sent for element, index in sent.elements()}


class Campaign(Document):
    """A campaign."""

    format: Literal["xec-campaign/1"] = "xec-campaign/1"
    kind: Kind
    """What it does."""
    request: dict[str, Any]
    """What was asked for, as far as the work depends on it."""
    directory: str
    """Where it was submitted and runs: relative paths are relative to it."""
    array_limit: int
    """SLURM's MaxArraySize: elements of an array."""
    steps: tuple[StepRecord, ...]
    """In the order they run."""

    def step(self, name: str) -> StepRecord:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    def with_sent(self, name: str, sent: Sent) -> Campaign:
        """The record after another submission of a step."""
        steps = [
            step.model_copy(update={"sent": (*step.sent, sent)}) if step.name == name else step for step in self.steps
        ]
        return self.model_copy(update={"steps": tuple(steps)})

    def jobs(self) -> list[Sent]:
        """Every submission, oldest first."""
        return sorted((sent for step in self.steps for sent in step.sent), key=lambda sent: sent.job)


class Folder:
    """A campaign's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def of_output(cls, out: Path) -> Folder:
        """The folder of the campaign that makes `out`: another campaign with the same output is the same folder."""
        whole = out.absolute()
        return cls(whole.parent / (whole.name + SUFFIX))

    @classmethod
    def find(cls, given: Path) -> Folder:
        """The folder of a campaign, named by itself or by its output.

        Raises:
            InputError: there is none.
        """
        for folder in (cls(given), cls.of_output(given)):
            if folder.record.exists():
                return folder
        raise InputError(
            "is not a campaign", file=given, expected=f"a folder NAME{SUFFIX} of `xec cluster submit`, or its NAME"
        )

    @property
    def record(self) -> Path:
        """The document."""
        return self.path / "campaign.json"

    @property
    def lock(self) -> Path:
        """Held by whoever submits, resubmits or cancels."""
        return self.path / ".lock"

    def script(self, step: str) -> Path:
        """The script of a step."""
        return self.path / f"{step}.sbatch"

    def state(self, step: str, element: int) -> Path:
        """Where an element records how it stands."""
        return self.path / "state" / f"{step}-{element}"

    def log(self, step: str, sent: Sent, index: int | None) -> Path:
        """The log of an element."""
        name = f"{sent.job}" if index is None else f"{sent.job}_{index}"
        return self.path / "logs" / f"{step}-{name}.log"

    def write(self, campaign: Campaign) -> None:
        """Publish the record."""
        publish_text(self.record, campaign.model_dump_json(indent=1) + "\n")

    def read(self) -> Campaign:
        """The record.

        Raises:
            CorruptError: it is damaged or from another version.
        """
        return read_document(self.record, Campaign, "campaign record")


def parse_ranges(text: str) -> Iterator[int]:
    """`0-2,7` as 0, 1, 2, 7."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def format_ranges(numbers: Iterable[int]) -> str:
    """The inverse of `parse_ranges`, ascending and as short as can be."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)

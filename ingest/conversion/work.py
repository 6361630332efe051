"""The work folder of a conversion: what is done already, so that an interrupted one continues.

    <out>/.ingest/plan.json            what is being converted, to tell whether a restart is the same conversion
                  prepared.json        what was found in the data first: dead channels, which runs go where
                  units/000000.*       sorted rows of a range of entries; `.json` comes last and means done
                  sorted/NAME.json     a written shard

A row is an event as it stands in its shard's tar, so that the sort step has only to put rows together.

Nothing of a unit is fsynced: writing rows to the disk only to remove them a minute later would halve the speed. The
index has a checksum of every row instead, and index and counts have one, too: what a crash of the machine has damaged
is made again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import TypeAdapter

from ingest.conversion.options import ConversionOptions
from ingest.conversion.plan import INDEX, Plan, PlanDocument, make_plan
from ingest.reading.rootio import Source
from shards.base import InputError, OutputError, publish_text, published
from shards.base.documents import checked, read_document, read_json
from shards.manifest import ShardInfo
from shards.normalization import SensorCounts
from shards.plausible import Outside

T = TypeVar("T")

FOLDER = ".ingest"
FORMAT = "xec-ingest-work/3"


@dataclass(frozen=True)
class Run:
    """Rows of one unit and split that lie together in its file, in ascending order of key and entry."""

    split: int
    start: int
    """Row number in the file."""
    count: int


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit."""

    runs: tuple[Run, ...]
    dropped: dict[str, int]
    """Events left out, by reason."""
    invalid: tuple[dict[str, int], ...]
    """Per split: events whose value of a column became NaN, by column."""
    flagged: dict[str, list[int]]
    """Per run number: channels that the `dead` branch flags in every event of the run here."""
    failed: str | None = None
    """Why the source was given up (with --skip-bad-files)."""
    check: str = ""
    """Checksum of the index and the counts."""
    implausible: dict[str, Outside] = field(default_factory=dict)
    """Implausible values, by column; those of sensors under `npho` and the kind of times."""

    def events(self, split: int) -> int:
        """How many events went to a split."""
        return sum(run.count for run in self.runs if run.split == split)


class WorkFolder:
    """Paths of the work folder, and reading and writing what is in it."""

    def __init__(self, out: Path) -> None:
        self.path = out / FOLDER

    def rows(self, unit: int) -> Path:
        """The rows of a unit: samples of the tar, one after another."""
        return self.path / "units" / f"{unit:06d}.rows"

    def index(self, unit: int) -> Path:
        """Keys, entry numbers and checksums of a unit's rows (`INDEX`), in file order."""
        return self.path / "units" / f"{unit:06d}.index"

    def counts_path(self, unit: int) -> Path:
        """Bad-value counts of a unit: int64 (splits, classes, sensors)."""
        return self.path / "units" / f"{unit:06d}.counts.npy"

    def done(self, unit: int) -> Path:
        """The marker that is written last."""
        return self.path / "units" / f"{unit:06d}.json"

    def sorted(self, split: int, shard: int) -> Path:
        """The marker of a written shard."""
        return self.path / "sorted" / f"{split}-{shard:06d}.json"

    # -- the plan ---------------------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> bool:
        """Record what is being converted; True when an interrupted conversion is continued.

        Raises:
            OutputError: the folder belongs to a conversion of different sources or options, or a source changed.
        """
        file = self.path / "plan.json"
        if not file.exists():
            publish_text(file, json.dumps({"format": FORMAT, **plain(plan.document)}))
            return False
        check_same(self.read_plan(), plan, self.path)
        return True

    def is_untouched(self) -> bool:
        """Whether there is at most a plan, on which no work was done."""
        done = ("prepared.json", "units/*", "sorted/*")
        return not any(True for pattern in done for _ in self.path.glob(pattern))

    def read_plan(self) -> Plan:
        """The plan of the conversion that was begun here.

        Raises:
            InputError: none was begun.
            CorruptError: it cannot be read.
        """
        file = self.path / "plan.json"
        if not file.exists():
            raise InputError(
                "no conversion was begun here", file=self.path.parent, remedy="begin with `xec ingest root2shards`"
            )
        value = read_json(file, "plan of a conversion")
        found = value.get("format") if isinstance(value, dict) else None
        if found != FORMAT:
            raise OutputError("was begun by another version", file=self.path, found=found, remedy=f"remove {self.path}")
        document = checked(PlanDocument, value, file=file)
        return make_plan(document.sources, document.skipped, document.options)

    def remove(self) -> None:
        """Remove everything; the plan last, so that a half-removed folder is still recognised."""
        for name in ("units", "sorted"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    # -- units ------------------------------------------------------------------------------------------------------

    def write_index(self, unit: int, index: npt.NDArray[np.void], counts: npt.NDArray[np.int64]) -> str:
        """Write the index and the counts of a unit; their checksum."""
        with published(self.index(unit), durable=False) as part:
            part.write_bytes(index.tobytes())
        with published(self.counts_path(unit), durable=False) as part, open(part, "wb") as handle:
            np.save(handle, counts, allow_pickle=False)
        return self._check(unit)

    def _check(self, unit: int) -> str:
        return xxhash.xxh3_128_hexdigest(self.index(unit).read_bytes() + self.counts_path(unit).read_bytes())

    def write_result(self, unit: int, result: UnitResult) -> None:
        """Write a unit's marker."""
        self._write_marker(self.done(unit), result)

    def read_result(self, unit: int, row_size: int) -> UnitResult | None:
        """What became of a unit; None when it is not done, or not all of its files are there.

        Args:
            row_size: bytes of a row.
        """
        result = self._read_marker(self.done(unit), UnitResult)
        if result is None:
            return None
        try:
            size = self.rows(unit).stat().st_size if result.failed is None else 0
            intact = result.failed is not None or self._check(unit) == result.check
        except FileNotFoundError:
            return None
        return result if intact and size == row_size * sum(run.count for run in result.runs) else None

    def read_index(self, unit: int) -> npt.NDArray[np.void]:
        """What `INDEX` says of a unit's rows, mapped from the file, which stays open as long as the array lives."""
        path = self.index(unit)
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=INDEX)
        return np.memmap(path, dtype=INDEX, mode="r")

    def read_counts(self, unit: int) -> list[SensorCounts]:
        """Bad-value counts of a unit, per split."""
        return [SensorCounts(*classes) for classes in np.load(self.counts_path(unit), allow_pickle=False)]

    def forget(self, unit: int) -> None:
        """Declare a unit not done, so that it is made again."""
        self.done(unit).unlink(missing_ok=True)

    # -- shards -----------------------------------------------------------------------------------------------------

    def write_shard(self, split: int, shard: int, info: ShardInfo) -> None:
        """Record that a shard is written."""
        self._write_marker(self.sorted(split, shard), info)

    def read_shard(self, split: int, shard: int) -> ShardInfo | None:
        """A shard that was written before; None when it was not."""
        return self._read_marker(self.sorted(split, shard), ShardInfo)

    @staticmethod
    def _write_marker(path: Path, value: UnitResult | ShardInfo) -> None:
        with published(path, durable=False) as part:
            part.write_text(json.dumps(plain(value)), encoding="utf-8")

    @staticmethod
    def _read_marker(path: Path, kind: type[T]) -> T | None:
        """What a marker says; None when it is missing, or damaged by a crash of the machine."""
        try:
            return read_document(path, kind, "marker")
        except InputError:
            return None


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON values, from which `checked` makes it again."""
    return dict(TypeAdapter(type(value)).dump_python(value, mode="json"))


def check_same(theirs: Plan, mine: Plan, folder: Path) -> None:
    """Refuse to continue a conversion of different or changed sources, or with different options; say which."""
    out, anew = folder.parent, f"use another --out, or remove {folder} to start again"
    for item in dataclasses.fields(ConversionOptions):
        before, now = getattr(theirs.options, item.name), getattr(mine.options, item.name)
        if item.name == "schema":
            before, now = before.digest, now.digest
        if before != now:
            raise OutputError(
                f"holds an unfinished conversion with a different {item.name!r}",
                file=out,
                found="none" if before is None else before,
                expected="none" if now is None else now,
                remedy=anew,
            )
    by_path = {source.path: source for source in theirs.sources}
    for source in mine.sources:
        before = by_path.get(source.path)
        if before is not None and _identity(before) != _identity(source):
            raise OutputError(
                "changed since the conversion began", file=source.path, remedy=f"remove {folder} to start again"
            )
    extra = {s.id: s for s in mine.sources}
    missing = {s.id: s for s in theirs.sources}
    for problem, odd in (("without", extra.keys() - missing.keys()), ("also of", missing.keys() - extra.keys())):
        if odd:
            path = (extra | missing)[min(odd)].path
            raise OutputError(
                "holds an unfinished conversion of different inputs", file=out, found=f"{problem} {path}", remedy=anew
            )
    if theirs.skipped != mine.skipped or theirs.settings != mine.settings:
        raise OutputError("holds an unfinished conversion of different inputs", file=out, remedy=anew)


def _identity(source: Source) -> tuple[object, ...]:
    return source.id, source.size, source.mtime_ns, source.entries, source.run

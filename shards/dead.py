"""Dead lists: which channels cannot be trusted in which runs, of which kind, and why.

Two kinds: `bad` channels do not work; baselines must not use them as neighbours either. `invalid` ones merely gave no
usable value in most events (found in the data), so where they do give one it may be used.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from shards.base import ConfigError, InputError, nearest, published
from shards.base.documents import checked, read_text
from shards.manifest import N_SENSORS

KINDS = ("bad", "invalid")
TABLE = ("run_first", "run_last", "sensor", "kind", "reason")
LAST_RUN = 2**63 - 1
"""Run numbers up to here are kept exactly; stands for "no last run"."""


@dataclass(frozen=True, order=True)
class DeadEntry:
    """One channel in one range of runs."""

    sensor: int
    run_first: int = 0
    run_last: int = LAST_RUN
    """Inclusive."""
    kind: str = "bad"
    reason: str = ""


@dataclass(frozen=True)
class _Entries:
    dead: tuple[DeadEntry, ...]


@dataclass(frozen=True)
class DeadList:
    """Entries from any number of sources, sorted, each once; channels may occur several times, for several reasons."""

    entries: tuple[DeadEntry, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[DeadEntry]) -> DeadList:
        """The sorted list of these entries."""
        return cls(tuple(sorted(set(entries))))

    def __or__(self, other: DeadList) -> DeadList:
        return DeadList.of((*self.entries, *other.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def sensors(self, run: int | None = None, kind: str | None = None) -> npt.NDArray[np.bool_]:
        """Which channels are listed for `run` (None: for any run), of `kind` (None: of either); bool (4760,)."""
        mask = np.zeros(N_SENSORS, dtype=bool)
        for entry in self.entries:
            if (run is None or entry.run_first <= run <= entry.run_last) and kind in (None, entry.kind):
                mask[entry.sensor] = True
        return mask

    def mask(self, runs: npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_] | None:
        """Which channels of each event are listed.

        Args:
            runs: (n,) run number of each event; NaN matches only entries for all runs.

        **Returns** bool (n, 4760), or None when none is.
        """
        if not self.entries:
            return None
        values, inverse = np.unique(runs, return_inverse=True)
        return np.stack([self.sensors(LAST_RUN if run != run else int(run)) for run in values.tolist()])[inverse]

    def masked(self, runs: npt.NDArray[Any], flagged: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        """`mask`, united with the channels `flagged` event by event, bool (n, 4760); None where there are neither."""
        listed = self.mask(runs)
        if listed is None or flagged is None:
            return flagged if listed is None else listed
        return listed | flagged

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, for manifests: `run_last` is left out where it is open."""
        plain = [dataclasses.asdict(entry) for entry in self.entries]
        return [{k: v for k, v in entry.items() if (k, v) != ("run_last", LAST_RUN)} for entry in plain]

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> DeadList:
        """The inverse of `to_list`."""
        return cls.of(checked(_Entries, {"dead": list(values)}).dead)

    def write(self, path: Path) -> None:
        """Publish as CSV: `run_first,run_last,sensor,kind,reason`."""
        with published(path) as part, open(part, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(TABLE)
            for e in self.entries:
                last = "" if e.run_last == LAST_RUN else e.run_last
                writer.writerow((e.run_first, last, e.sensor, e.kind, e.reason))


def read_dead(path: Path | str) -> DeadList:
    """Read a dead list: text (one channel a line, `#` comments), or CSV or Parquet of run ranges.

    Tables have columns `run_first,run_last,sensor` and optionally `reason` and `kind`; an empty run is an open end. The
    reason of a text line is its comment, else the file's name. The kind is `bad` unless the table says otherwise.

    Raises:
        InputError: unreadable, or a channel, run or kind that does not exist; names the line.
    """
    file = Path(path)
    if file.suffix.lower() == ".parquet":
        return _from_rows(file, _parquet_rows(file))
    lines = read_text(file, "dead list", InputError).splitlines()
    if file.suffix.lower() == ".csv" or any("sensor" in line and "," in line for line in lines[:1]):
        return _from_rows(file, csv.DictReader(lines, restkey="more values than columns"))
    return DeadList.of(_text_entries(file, lines))


def _text_entries(file: Path, lines: Sequence[str]) -> Iterable[DeadEntry]:
    for number, line in enumerate(lines, 1):
        word, _, comment = (part.strip() for part in line.partition("#"))
        if word:
            yield DeadEntry(_channel(word, file, f"line {number}"), reason=comment or file.name)


def _parquet_rows(file: Path) -> list[dict[str, Any]]:
    try:
        return pl.read_parquet(file, glob=False).to_dicts()
    except FileNotFoundError:
        raise InputError("there is no such dead list", file=file) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"is not a Parquet file: {str(error).splitlines()[0]}", file=file) from None


def _from_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> DeadList:
    entries = []
    for number, raw in enumerate(rows, 1):
        row = {str(k).strip(): "" if v is None or v != v else str(v).strip() for k, v in raw.items()}
        item = f"row {number}"
        if "sensor" not in row:
            raise InputError(
                "is not a dead list",
                file=file,
                found=", ".join(row),
                expected=f"columns {','.join(TABLE)}",
            )
        for name in row:
            if name not in TABLE:
                raise InputError(f"unknown column {name!r} of a dead list", file=file, remedy=nearest(name, TABLE))
        kind = row.get("kind") or "bad"
        if kind not in KINDS:
            raise InputError(
                "unknown kind of dead channel", file=file, item=item, found=kind, expected=" or ".join(KINDS)
            )
        first, last = _run(row.get("run_first"), 0, file, item), _run(row.get("run_last"), LAST_RUN, file, item)
        if first > last:
            raise InputError("run range ends before it starts", file=file, item=item, found=f"{first} to {last}")
        entries.append(
            DeadEntry(_channel(row["sensor"], file, item), first, last, kind, row.get("reason") or file.name)
        )
    return DeadList.of(entries)


def _whole(text: str) -> int | None:
    """A whole number, also as a table that has empty places writes it ("430001.0"); None for anything else."""
    match = re.fullmatch(r"(\d{1,19})(?:\.0*)?", text, re.ASCII)
    return int(match[1]) if match else None


def _channel(text: str, file: Path, item: str) -> int:
    channel = _whole(text)
    if channel is None or channel >= N_SENSORS:
        raise InputError(
            "does not name a channel", file=file, item=item, found=repr(text[:40]), expected=f"0 to {N_SENSORS - 1}"
        )
    return channel


def _run(text: str | None, default: int, file: Path, item: str) -> int:
    if not text:
        return default
    run = _whole(text)
    if run is None or run > LAST_RUN:
        raise InputError("does not name a run", file=file, item=item, found=repr(text[:40]), expected="a whole number")
    return run


def from_fractions(
    events: Mapping[int, int], invalid: Mapping[int, npt.NDArray[np.integer[Any]]], fraction: float
) -> DeadList:
    """Channels that gave no usable photon number in at least `fraction` of a run's events, as `invalid` entries.

    Args:
        events: run → number of events.
        invalid: run → (4760,) number of events in which each channel was NaN, infinite or huge.

    Raises:
        ConfigError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError("must be above 0 and at most 1", item="dead_if_invalid_fraction", found=fraction)
    reason = f"invalid in at least {fraction:g} of the run's events"
    return DeadList.of(
        DeadEntry(int(sensor), run, run, "invalid", reason)
        for run, count in events.items()
        for sensor in np.flatnonzero(invalid[run] >= fraction * count)
    )


@dataclass(frozen=True)
class DeadDifference:
    """What one dead list has and another lacks, as (run_first, run_last, sensor, kind) without the reasons."""

    only_first: DeadList
    only_second: DeadList
    common: int


def difference(first: DeadList, second: DeadList) -> DeadDifference:
    """Compare two dead lists channel by channel and range by range; reasons do not count."""

    def bare(entry: DeadEntry) -> DeadEntry:
        return dataclasses.replace(entry, reason="")

    a, b = {bare(e) for e in first.entries}, {bare(e) for e in second.entries}
    return DeadDifference(
        DeadList.of(e for e in first.entries if bare(e) not in b),
        DeadList.of(e for e in second.entries if bare(e) not in a),
        len(a & b),
    )

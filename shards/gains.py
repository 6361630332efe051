"""Channel gains, by which photons are divided on the way from a ROOT file into a dataset.

The table is what `xec channels` writes: a row per channel and range of runs, with the channel's response, which is 1
where the channel is calibrated. Dead and unknown channels are left as they are; dead lists are for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from shards.base import InputError
from shards.base.documents import file_digest, read_text
from shards.manifest import N_SENSORS
from shards.normalization import HUGE
from shards.whole import inexact

NEEDED = ("run_first", "run_last", "sensor", "response")
LEFT = ("dead", "unknown")
"""States of channels whose response is not a gain."""
LIMITS = (0.05, 20.0)
"""Credible responses: a channel beyond them is broken, and belongs in a dead list."""


@dataclass(frozen=True)
class GainFile:
    """A table of gains, with the digest it had when it was named, so that a conversion notices a change."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> GainFile:
        """The file as it is now.

        Raises:
            InputError: it cannot be read, or is no such table.
        """
        found = cls(str(path.resolve()), file_digest(path))
        read_gains(found)
        return found


@dataclass(frozen=True, eq=False)
class ChannelGains:
    """Responses by range of runs."""

    ranges: tuple[tuple[int, int], ...]
    """First and last run of each, the last included; they do not overlap."""
    response: npt.NDArray[np.float32]
    """(ranges, 4760)."""
    name: str
    """Of the file, for messages."""

    def applied(self, npho: npt.NDArray[Any], runs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Photons after division by the responses; NaN, infinite and huge values as they are.

        Args:
            npho: (n, 4760).
            runs: (n,) run numbers.

        Raises:
            InputError: a run has no gains.
        """
        rows = np.full(len(runs), -1)
        for k, (first, last) in enumerate(self.ranges):
            rows[(runs >= first) & (runs <= last)] = k
        if np.any(rows < 0):
            run = runs[rows < 0][0]
            raise InputError(
                "has no gains for a run in the data",
                file=self.name,
                found=f"run {int(run)}",
                expected=", ".join(f"{a} to {b}" if a != b else f"{a}" for a, b in self.ranges[:8]),
            )
        found = np.array(npho, dtype=np.float32)
        with np.errstate(invalid="ignore"):
            np.divide(found, self.response[rows], out=found, where=np.abs(found) <= HUGE)
        return found


@lru_cache(maxsize=4)
def read_gains(file: GainFile) -> ChannelGains:
    """The gains of a file.

    Raises:
        InputError: it is unreadable, not such a table, or has changed.
    """
    path = Path(file.path)
    if file_digest(path) != file.sha256:
        raise InputError("has changed since the conversion began", file=path, remedy="start again in another folder")
    text = read_text(path, "table of gains", InputError)
    try:
        table = pl.read_csv(StringIO(text))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"is not a valid table of gains: {str(error).partition(chr(10))[0]}", file=path) from None
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise InputError(
            "is not a valid table of gains",
            file=path,
            found=", ".join(table.columns[:8]),
            expected=f"columns {', '.join(NEEDED)}",
        )
    table = table.with_columns(pl.col(NEEDED).cast(pl.Float64, strict=False))
    return _by_range(table, path)


def _by_range(table: pl.DataFrame, path: Path) -> ChannelGains:
    """The table as one row of responses per range of runs."""
    sensor, response = table["sensor"].to_numpy(), table["response"].to_numpy().copy()
    bad = np.flatnonzero(~((sensor >= 0) & (sensor < N_SENSORS) & (sensor == np.floor(sensor))))
    if len(bad):
        found = f"{sensor[bad[0]]:g}"
        raise InputError(
            "does not name a channel", file=path, item=f"row {bad[0] + 1}", found=found, expected="0 to 4759"
        )
    if "state" in table.columns:
        response[table["state"].is_in(list(LEFT)).fill_null(False).to_numpy()] = np.nan
    bad = np.flatnonzero((response < LIMITS[0]) | (response > LIMITS[1]))
    if len(bad):
        raise InputError(
            "has a response that cannot be a gain",
            file=path,
            item=f"row {bad[0] + 1}, channel {sensor[bad[0]]:g}",
            found=f"{response[bad[0]]:g}",
            expected=f"{LIMITS[0]:g} to {LIMITS[1]:g}, or state dead",
        )
    first, last = table["run_first"].to_numpy(), table["run_last"].to_numpy()
    bad = np.flatnonzero(~(np.isfinite(first) & np.isfinite(last) & (first <= last) & ~inexact(last)))
    if len(bad):
        wanted = "run_first and run_last, at most 2⁵³"
        raise InputError("has no run range", file=path, item=f"row {bad[0] + 1}", expected=wanted)
    ranges = sorted({(int(a), int(b)) for a, b in zip(first, last, strict=True)})
    for (a, b), (c, d) in pairwise(ranges):
        if c <= b:
            raise InputError("has overlapping run ranges", file=path, found=f"{a} to {b} and {c} to {d}")
    gains = np.ones((len(ranges), N_SENSORS), dtype=np.float32)
    place = {both: k for k, both in enumerate(ranges)}
    rows = np.array([place[int(a), int(b)] for a, b in zip(first, last, strict=True)], dtype=np.int64)
    known = np.isfinite(response)
    gains[rows[known], sensor[known].astype(np.int64)] = response[known]
    return ChannelGains(tuple(ranges), gains, path.name)

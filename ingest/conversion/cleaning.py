"""What happens to an event between the ROOT file and the shard: selection, dead channels, bad values, normalization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ingest.conversion.plan import Plan
from ingest.reading.rootio import Chunk
from shards.dead import DeadList
from shards.expressions import columns_of, evaluate
from shards.gains import read_gains
from shards.geometry import nominal_faces
from shards.normalization import NormalizedBatch, normalize
from shards.order import event_keys
from shards.sidecar import SUMMARY_COLUMNS, summarize

Indices = npt.NDArray[np.intp]


class Cleaner:
    """Cleans chunks as a plan says."""

    def __init__(self, plan: Plan, dead: DeadList) -> None:
        """
        Args:
            dead: all listed channels, including those found in the data.
        """
        self._plan, self._dead = plan, dead
        gain, select = plan.options.channel_gain, plan.options.select
        self._gains = None if gain is None else read_gains(gain)
        self._selection_columns = selection_columns(plan) if select is not None else []

    def calibrated(self, chunk: Chunk) -> Chunk:
        """The chunk with its photons divided by the channels' responses, if there is a table of them.

        Raises:
            InputError: it lacks a run.
        """
        if self._gains is None:
            return chunk
        return replace(chunk, npho=self._gains.applied(chunk.npho, chunk.columns["run"]))

    def dead_mask(self, chunk: Chunk) -> npt.NDArray[np.bool_] | None:
        """Dead channels, bool (n, 4760), from lists and the `dead` branch; None where there are none."""
        return self._dead.masked(chunk.columns["run"], chunk.dead)

    def normalized(
        self,
        chunk: Chunk,
        which: Indices,
        dead: npt.NDArray[np.bool_] | None,
        out: npt.NDArray[np.floating] | None = None,
    ) -> NormalizedBatch:
        """The events `which` (ascending) of a chunk, normalized.

        Args:
            dead: of the whole chunk, from `dead_mask`.
            out: (len(which), 4760, 2), where the sensors are to be written.
        """
        settings, floor = self._plan.settings, self._plan.options.time_floor
        these = slice(None) if len(which) == len(chunk) else which  # a slice is no copy
        npho, time = chunk.npho[these], chunk.time[these]
        if floor is not None:
            time = np.where(npho < floor, np.float32(np.nan), time)
        bad = None if dead is None else dead[these]
        return normalize(npho, time, settings.normalization, bad, settings.dtype, out)

    def selected(self, chunk: Chunk, dead: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Which events pass the selection, bool (n,).

        A column that this source lacks (while another has it) is missing in all its events.
        """
        select = self._plan.options.select
        if select is None:
            return np.ones(len(chunk), dtype=bool)
        values: dict[str, npt.NDArray[Any]] = dict(chunk.columns)
        values["entry"] = np.arange(chunk.entry_start, chunk.entry_start + len(chunk))
        if any(name not in self._plan.settings.names and name != "entry" for name in self._selection_columns):
            values |= self._summaries(chunk, dead)
        missing = np.full(len(chunk), np.nan)
        return evaluate(select, pl.DataFrame({name: values.get(name, missing) for name in self._selection_columns}))

    def _summaries(self, chunk: Chunk, dead: npt.NDArray[np.bool_] | None) -> dict[str, npt.NDArray[np.float64]]:
        """The per-event summaries that the shards will hold (`shards.sidecar.SUMMARY_COLUMNS`)."""
        face = np.asarray(nominal_faces(), dtype=np.int8)
        batch = self.normalized(chunk, np.arange(len(chunk)), dead)
        return summarize(np.asarray(batch.sensors), self._plan.settings.normalization, face)


def selection_columns(plan: Plan) -> list[str]:
    """The columns that the selection needs.

    Raises:
        ConfigError: it is not understood, or names a column that no source has.
    """
    known = (*plan.settings.names, *SUMMARY_COLUMNS, "entry")
    return columns_of(plan.options.select, known) if plan.options.select is not None else []


def needs_sensors(plan: Plan) -> bool:
    """Whether the selection needs something that only the sensors tell."""
    return any(name not in plan.settings.names and name != "entry" for name in selection_columns(plan))


def sort_keys(plan: Plan, source: int, entries: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """What rows are sorted by, before source and entry: a hash, or without shuffling the running number of the event.

    Args:
        source: index into `plan.sources`.
    """
    if plan.options.shuffle:
        return event_keys(plan.options.seed, plan.sources[source].id, entries)
    return np.asarray(entries + plan.offsets[source], dtype=np.uint64)

"""Which events are the same: those with the same run and event number, whatever file they are in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shards.dataset import Dataset, row_numbers
from shards.order import UInt64, mix64

IDENTITY = ("run", "event")


def event_hashes(run: npt.NDArray[np.floating], event: npt.NDArray[np.floating]) -> UInt64:
    """A 64-bit hash of each (run, event), uint64 (n,): eight bytes an event, for a whole campaign in memory."""
    numbers = [np.asarray(values).astype(np.int64).view(np.uint64) for values in (run, event)]
    return mix64(mix64(numbers[0] + np.uint64(1)) ^ numbers[1])


def repeated(hashes: Sequence[UInt64]) -> UInt64:
    """The hashes that occur more than once, each as many times as there are copies beyond the first."""
    together = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    return np.asarray(together[1:][together[1:] == together[:-1]])


def known_hashes(dataset: Dataset, rows: npt.ArrayLike | None = None) -> UInt64 | None:
    """`event_hashes` of (some rows of) a dataset; None where its numbers were made up for lack of branches."""
    branches = {column.name: column.branch for column in dataset.manifest.settings.columns}
    if not all(branches.get(name) for name in IDENTITY):
        return None
    table = dataset.table(list(IDENTITY), rows).drop_nulls()
    return event_hashes(*(table[name].to_numpy() for name in IDENTITY))


def shared_events(first: Dataset, first_rows: npt.ArrayLike, second: Dataset, second_rows: npt.ArrayLike) -> int:
    """How many of the events at `first_rows` of one dataset are also among those of another (or of the same)."""
    if first.fingerprint == second.fingerprint:
        return len(np.intersect1d(row_numbers(first_rows), row_numbers(second_rows)))
    mine, theirs = known_hashes(first, first_rows), known_hashes(second, second_rows)
    return 0 if mine is None or theirs is None else int(np.isin(mine, theirs).sum())

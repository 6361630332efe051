"""Second pass, first half: which rows belong to which shard, from the keys alone and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS_LOG2 = 20
"""Keys are counted by their upper bits first; only the bins in which a shard ends are looked at again."""

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Boundaries:
    """Where the shards of one split begin and end in the order of keys."""

    events: int
    per_shard: int
    first: Keys
    """(shards,): key of each shard's first row."""
    last: Keys
    """(shards,): key of each shard's last row."""
    before: npt.NDArray[np.int64]
    """(shards,): rows with a smaller key than the shard's first row."""

    @property
    def shards(self) -> int:
        """How many shards the events fill."""
        return len(self.first)

    def rows_of(self, shard: int) -> int:
        """How many rows a shard has."""
        return min(self.per_shard, self.events - shard * self.per_shard)

    def skip_of(self, shard: int) -> int:
        """How many rows with the key of the shard's first row belong to the shard before."""
        return shard * self.per_shard - int(self.before[shard])


def find_boundaries(keys: Callable[[], Iterable[Keys]], per_shard: int) -> Boundaries:
    """Find where shards of `per_shard` rows begin and end.

    Args:
        keys: gives all keys, in pieces and in any order, each time it is called (three times).
    """
    events, largest = 0, 0
    for piece in keys():
        events += len(piece)
        largest = max(largest, int(piece.max(initial=0)))
    shift = np.uint64(max(0, largest.bit_length() - BINS_LOG2))
    histogram = np.zeros(1 << BINS_LOG2, dtype=np.int64)
    for piece in keys():
        histogram += np.bincount((piece >> shift).astype(np.int64), minlength=len(histogram))
    starts = np.arange(0, events, per_shard, dtype=np.int64)
    ends = np.minimum(starts + per_shard, events) - 1
    ranks = np.concatenate([starts, ends])
    below = np.concatenate([[0], np.cumsum(histogram)])
    bins = np.searchsorted(below, ranks, side="right") - 1
    values, smaller = _at_ranks(_in_bins(keys(), shift, bins), ranks, bins, below, shift)
    n = len(starts)
    return Boundaries(events, per_shard, values[:n], values[n:], smaller[:n])


def _in_bins(pieces: Iterable[Keys], shift: np.uint64, bins: npt.NDArray[np.int64]) -> Keys:
    """All keys in the given bins, sorted."""
    wanted = np.zeros(1 << BINS_LOG2, dtype=bool)
    wanted[bins] = True
    found = [piece[wanted[(piece >> shift).astype(np.int64)]] for piece in pieces]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *found]))


def _at_ranks(
    candidates: Keys,
    ranks: npt.NDArray[np.int64],
    bins: npt.NDArray[np.int64],
    below: npt.NDArray[np.int64],
    shift: np.uint64,
) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The keys at the given ranks of the whole, and how many keys are smaller than each."""
    bin_starts = np.searchsorted(candidates, bins.astype(np.uint64) << shift)
    values = candidates[bin_starts + ranks - below[bins]] if len(ranks) else candidates
    smaller = below[bins] + np.searchsorted(candidates, values) - bin_starts
    return values, smaller


def cut_run(keys: Keys, bounds: Boundaries, shard: int) -> tuple[int, int]:
    """Which rows of a run a shard may need: first row, last row + 1.

    Rows with the key at a shard's edge belong to both neighbours here; source and entry tell them apart later.

    Args:
        keys: of the run, ascending.
    """
    edges = (
        np.searchsorted(keys, bounds.first[shard], side="left"),
        np.searchsorted(keys, bounds.last[shard], side="right"),
    )
    return int(edges[0]), int(edges[1])

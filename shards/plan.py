"""Which events, in which order, on which rank: a pure function of datasets, selection, seed, epoch and batch size.

    order = epoch_order([View(dataset, dataset.rows("fiducial"))], seed=1, epoch=0)
    plan = rank_plan(order, batch_size=256, rank=0, world=4)
    tars, indexes = write_indexes(plan, order.views, folder)       # what DALI reads, exactly in this order

Position in training is (epoch, step): global batch k is the same set of events whatever the number of ranks, and a plan
started at step k is the tail of the whole one.

The events of a shard are permuted anew each epoch and cut into runs; runs of different shards are interleaved, `WINDOW`
shards at a time, so that a batch mixes shards while reading stays local. Events were placed by a hash at conversion, so
any shard is a fair sample already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError, CorruptError
from shards.dataset import Dataset, row_numbers
from shards.order import hash64, uniform
from shards.tarfmt import INDEX_VERSION

Int64 = npt.NDArray[np.int64]

RUN = 64
"""Consecutive events of one shard."""
WINDOW = 16
"""Shards that are interleaved at a time: about 5 GB of page cache at the usual shard size."""


@dataclass(frozen=True, eq=False)
class View:
    """Some events of a dataset, and how often each is wanted."""

    dataset: Dataset
    rows: Int64
    """Global rows; repeats are allowed."""
    weight: float = 1.0
    """How many times each row comes in an epoch, on average; 0.5 takes half of them, the other half next time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", row_numbers(self.rows))


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """Every event of an epoch, in order; both arrays (n,)."""

    views: tuple[View, ...]
    view: npt.NDArray[np.int32]
    """Index into `views`."""
    row: Int64
    """Global row in that view's dataset."""

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class RankPlan:
    """What one rank reads: n = steps · accum · micro_batch events, in order; all arrays (n,)."""

    dataset: npt.NDArray[np.int32]
    """Index into the views."""
    shard: Int64
    row: Int64
    """Row within the shard."""
    global_row: Int64
    """Row within the dataset."""
    weight: npt.NDArray[np.float32]
    """1, or 0 for padding, which repeats a real event of the same global batch."""
    micro_batch: int
    """Events of a rank's forward pass, the same every time."""
    steps: int
    """Optimizer steps left, from `start_step` on."""
    accum: int
    """Micro-batches per step."""
    start_step: int
    batch_events: Int64
    """(steps,): real events of each *global* batch, over all ranks."""

    def stretches(self) -> tuple[Int64, Int64]:
        """Where stretches of consecutive events of the same shard begin and end; none in an empty plan."""
        cuts = np.flatnonzero((np.diff(self.shard) != 0) | (np.diff(self.dataset) != 0)) + 1
        bounds = np.concatenate(([0], cuts, [len(self.row)])) if len(self.row) else np.zeros(1, np.int64)
        return bounds[:-1], bounds[1:]


def epoch_order(
    views: Sequence[View], seed: int, epoch: int, shuffle: bool = True, epoch_events: int | None = None
) -> EpochOrder:
    """The order of an epoch.

    Args:
        views: of one dataset or several; with weights of 1, every event comes exactly once.
        seed: another seed gives another order of every epoch.
        epoch: likewise.
        shuffle: False: the views' rows one after another as they are, weights ignored.
        epoch_events: length of the epoch, shared out by weight × rows; None for the sum of these. A shorter epoch takes
            up where the one before stopped, so that every event has its turn.

    Raises:
        ConfigError: no views, or a weight that is not positive.
    """
    if not views or epoch < 0:
        raise ConfigError("a plan needs at least one view, and an epoch ≥ 0", found=(len(views), epoch))
    for view in views:
        if not (np.isfinite(view.weight) and view.weight > 0):
            raise ConfigError("weight must be positive", file=view.dataset.path, found=view.weight)
    if not shuffle:
        number = np.repeat(np.arange(len(views), dtype=np.int32), [len(view.rows) for view in views])
        row = np.concatenate([view.rows for view in views]).astype(np.int64)
        return EpochOrder(tuple(views), number[:epoch_events], row[:epoch_events])
    shares = _shares(views, epoch_events)
    parts = [
        _interleaved(view, i, share, seed, epoch) for i, (view, share) in enumerate(zip(views, shares, strict=True))
    ]
    number = np.repeat(np.arange(len(views), dtype=np.int32), [len(rows) for rows, _ in parts])
    rows = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(np.concatenate([when for _, when in parts]), kind="stable")
    return EpochOrder(tuple(views), number[order], rows[order])


def _shares(views: Sequence[View], epoch_events: int | None) -> list[int]:
    """Events that each view gives to an epoch: weight × rows, scaled to `epoch_events` in all."""
    wanted = np.array([view.weight * len(view.rows) for view in views])
    if epoch_events is None:
        return [int(n) for n in np.rint(wanted)]
    edges = np.rint(np.cumsum(wanted) * (epoch_events / max(wanted.sum(), 1e-300)))
    return [int(n) for n in np.diff(edges, prepend=0.0)]


def _interleaved(view: View, number: int, share: int, seed: int, epoch: int) -> tuple[Int64, npt.NDArray[np.float64]]:
    """`share` rows of a view in shuffled order, and the place of each in the epoch as a number from 0 to 1.

    All events of a run have the same place, and places of a view are evenly spread: sorting the events of several views
    by place mixes the views in proportion.
    """
    salt = (int(seed), view.dataset.fingerprint, number)
    rows = np.sort(_turn(view, share, salt, epoch))
    if not rows.size:
        return rows, np.zeros(0)
    shard, _ = view.dataset.shard_of(rows)
    hashes = hash64("plan events", (*salt, epoch), np.arange(len(rows)))
    begins = np.flatnonzero(np.diff(shard, prepend=-1))
    ends = np.append(begins[1:], len(rows))
    within = np.concatenate([b + np.argsort(hashes[b:e], kind="stable") for b, e in zip(begins, ends, strict=True)])
    sizes = ends - begins
    run_begins = np.concatenate([np.arange(b, e, RUN) for b, e in zip(begins, ends, strict=True)])
    run_shard = np.repeat(np.arange(len(sizes)), -(-sizes // RUN))  # counted in shards that have events
    run_sizes = np.diff(np.append(run_begins, len(rows)))
    place_of_shard = np.argsort(np.argsort(hash64("plan shards", (*salt, epoch), shard[begins]), kind="stable"))
    jitter = uniform(hash64("plan runs", (*salt, epoch), np.arange(len(run_begins))))
    run_order = np.argsort(place_of_shard[run_shard] + WINDOW * jitter, kind="stable")
    ordered_sizes = run_sizes[run_order]
    middle = (np.cumsum(ordered_sizes) - 0.5 * ordered_sizes) / len(rows)
    starts = np.repeat(run_begins[run_order] - (np.cumsum(ordered_sizes) - ordered_sizes), ordered_sizes)
    return rows[within[starts + np.arange(len(rows))]], np.repeat(middle, ordered_sizes)


def _turn(view: View, share: int, salt: tuple[int, str, int], epoch: int) -> Int64:
    """The rows whose turn it is in this epoch: all, or the next `share` in a fixed shuffled cycle."""
    n = len(view.rows)
    if share == n or n == 0:
        return np.asarray(view.rows, dtype=np.int64)
    cycle = np.argsort(hash64("plan turns", salt, np.arange(n)), kind="stable")
    return np.asarray(view.rows, dtype=np.int64)[cycle[(epoch * share + np.arange(share)) % n]]


def rank_plan(
    order: EpochOrder, batch_size: int, rank: int = 0, world: int = 1, accum: int = 1, start_step: int = 0
) -> RankPlan:
    """One rank's share of an epoch.

    Args:
        batch_size: global, per optimizer step, over all ranks and micro-batches.
        accum: micro-batches that a rank does per step.
        start_step: steps of this epoch that are done already.

    A global batch is cut into world · accum nearly equal pieces; rank r takes pieces r·accum … (r + 1)·accum − 1, each
    padded to ceil(batch_size / (world · accum)) events.

    Raises:
        ConfigError: numbers that make no sense.
    """
    if batch_size < 1 or world < 1 or accum < 1 or not 0 <= rank < world:
        raise ConfigError(
            "plan needs batch_size, world, accum ≥ 1 and rank < world", found=(batch_size, world, accum, rank)
        )
    total = -(-len(order) // batch_size)
    if not 0 <= start_step <= total:
        raise ConfigError("start_step is outside the epoch", found=start_step, expected=f"0 … {total}")
    pieces, micro = world * accum, -(-batch_size // (world * accum))
    step = np.arange(start_step, total, dtype=np.int64)[:, None, None]
    piece = rank * accum + np.arange(accum, dtype=np.int64)[None, :, None]
    slot = np.arange(micro, dtype=np.int64)[None, None, :]
    first = step * batch_size
    filled = np.minimum(batch_size, len(order) - first)
    begin, end = piece * filled // pieces, (piece + 1) * filled // pieces
    real = slot < end - begin
    place = np.minimum(begin + np.minimum(slot, np.maximum(end - begin - 1, 0)), filled - 1)
    where = (first + place).reshape(-1)
    view, row = order.view[where], order.row[where]
    shard, row_in_shard = np.zeros(len(where), np.int64), np.zeros(len(where), np.int64)
    for i, v in enumerate(order.views):
        mine = view == i
        shard[mine], row_in_shard[mine] = v.dataset.shard_of(row[mine])
    return RankPlan(
        dataset=view,
        shard=shard,
        row=row_in_shard,
        global_row=row,
        weight=real.astype(np.float32).reshape(-1),
        micro_batch=micro,
        steps=total - start_step,
        accum=accum,
        start_step=start_step,
        batch_events=filled.reshape(-1),
    )


def write_indexes(plan: RankPlan, views: Sequence[View], folder: Path | str) -> tuple[list[Path], list[Path]]:
    """Write the plan as small DALI index files, one for each stretch of consecutive events of the same shard.

    Args:
        views: those of the plan's order.
        folder: where the index files go, about 130 bytes an event. DALI reads them when it builds the pipeline, and
            never again.

    **Returns** (tars, indexes), lists of equal length to be read in this order; the same tar may be listed many times.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tars: list[Path] = []
    indexes: list[Path] = []
    begins, ends = plan.stretches()
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        dataset, shard = views[plan.dataset[begin]].dataset, int(plan.shard[begin])
        lines = _index_lines(dataset.file(shard, "idx"), dataset.manifest.shards[shard].idx.sha256)
        file = target / f"{number:08d}.idx"
        head = f"{INDEX_VERSION} {end - begin}\n".encode()
        file.write_bytes(head + b"".join([lines[row] for row in plan.row[begin:end].tolist()]))
        tars.append(dataset.file(shard, "tar"))
        indexes.append(file)
    return tars, indexes


@lru_cache(maxsize=4 * WINDOW)
def _index_lines(file: Path, digest: str) -> list[bytes]:
    """The sample lines of a shard's index, each with its newline, if the file's SHA-256 is the manifest's."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", file=file) from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise CorruptError("is not the index that the manifest describes", file=file, found=found, expected=digest)
    return content.splitlines(keepends=True)[1:]

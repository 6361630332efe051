"""The plan of an epoch without its data: seconds and peak memory, up to 10⁸ events, and the index files of 10⁶.

    python benchmarks/plan.py --events 1000000 10000000 100000000

The dataset is a stand-in of 2048 events a shard that knows its shards and nothing else, so that no file is needed;
where index files are written (`--indexes`, up to so many events), they have the lines of a real one. Every row has a
process of its own. `begin` is what a rank does before an epoch: order, its own share of it, and index files if written.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from shards.plan import View, epoch_order, rank_plan, write_indexes
from shards.tarfmt import INDEX_VERSION

SHARD = 2048
LINE = "sensors.npy {} 38208 {:08d}.sensors.npy truth.npy {} 256 {:08d}.truth.npy\n"
"""Of an index file, about as long as a real one."""


class StandIn:
    """As much of a dataset as a plan asks for."""

    path, fingerprint = Path("stand-in"), "0" * 64

    def __init__(self, folder: Path, events: int, write: bool) -> None:
        self.starts = np.arange(0, events + SHARD, SHARD)
        lines = [f"{INDEX_VERSION} {SHARD}\n", *(LINE.format(k * 40960, k, k * 40960 + 39424, k) for k in range(SHARD))]
        content = "".join(lines).encode()
        self.idx = folder / "stand-in.idx"
        if write:
            self.idx.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.manifest = SimpleNamespace(shards=_Every(SimpleNamespace(idx=SimpleNamespace(sha256=digest))))

    def file(self, shard: int, kind: str) -> Path:
        """The same for every shard."""
        return self.idx

    def shard_of(self, rows: Any) -> tuple[Any, Any]:
        """(shard, row in it)."""
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        return shard.astype(np.int64), rows - self.starts[shard]


class _Every:
    """A list that has the same in every place."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, _: int) -> Any:
        return self._value


def measure(
    events: int, world: int, write: bool, answer: multiprocessing.Queue[tuple[float, float, float, float]]
) -> None:
    """Seconds of order, share and index files, and the peak of memory in GB above what the imports take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        folder = Path(place)
        view = View(StandIn(folder, events, write), np.arange(events, dtype=np.int64))  # type: ignore[arg-type]
        at = [time.perf_counter()]
        order = epoch_order([view], seed=1, epoch=1)
        at.append(time.perf_counter())
        plan = rank_plan(order, 1024, 0, world)
        at.append(time.perf_counter())
        if write:
            write_indexes(plan, order.views, folder / "indexes")
        at.append(time.perf_counter())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        answer.put((*np.diff(at).tolist(), peak * 1024 / 1e9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--indexes", type=int, default=10**6, help="write index files up to so many events")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| events | ranks | order [s] | share [s] | index files [s] | begin, µs an event of the rank | peak [GB] |")
    print("|---|---|---|---|---|---|---|")
    for events in options.events:
        for world in options.worlds:
            answer = context.Queue()
            write = events <= options.indexes
            process = context.Process(target=measure, args=(events, world, write, answer))
            process.start()
            order, share, indexes, peak = answer.get()
            process.join()
            each = 1e6 * (order + share + indexes) * world / events
            files = f"{indexes:.2f}" if write else ""
            print(
                f"| {events:.0e} | {world} | {order:.2f} | {share:.2f} | {files} | {each:.2f} | {peak:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

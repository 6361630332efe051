"""Eight ranks reading one dataset on one machine: events/s of all of them, and the anonymous memory of each.

    python benchmarks/ranks.py --ranks 1 2 8 --data DATASET

Every rank is a process with its own DALI loader and one reading thread, as torchrun would start it, and reads its share
of the same epoch, plan and index files included; none computes. Without `--data` a dataset of toy events is made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from conversion import COMPRESSIONS, Memory, write_file

BATCH = 1024


def read(data: Path, rank: int, world: int, threads: int, together: Any, answer: multiprocessing.Queue[Any]) -> None:
    """One rank: events, seconds to the first batch, seconds in all, MB."""
    import pipelines.dali  # noqa: F401  before the clock starts
    from pipelines import open_loader
    from shards.opening import open_dataset
    from shards.plan import View, epoch_order, rank_plan

    dataset = open_dataset(data)
    memory = Memory()
    together.wait()
    memory.start()
    began, events, first = time.perf_counter(), 0, 0.0
    order = epoch_order([View(dataset, np.arange(len(dataset)))], seed=1, epoch=0)
    with open_loader(order.views, rank_plan(order, BATCH, rank, world), device="cpu", threads=threads) as loader:
        for batch in loader:
            first = first or time.perf_counter() - began
            events += int((batch.weight > 0).sum())
    seconds = time.perf_counter() - began
    memory.running = False
    memory.join()
    answer.put((events, first, seconds, memory.peak / 1e6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--threads", type=int, default=1, help="of a rank's reader")
    parser.add_argument("--events", type=int, default=32_768, help="of the dataset that is made")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    context = multiprocessing.get_context("spawn")
    try:
        data = options.data or made(folder, options.events)
        print("| ranks | events/s | ratio | first batch after [s] | anonymous MB of a rank |\n|---|---|---|---|---|")
        base = None
        for world in options.ranks:
            answer, together = context.Queue(), context.Barrier(world)
            processes = [
                context.Process(target=read, args=(data, rank, world, options.threads, together, answer))
                for rank in range(world)
            ]
            for process in processes:
                process.start()
            found = [answer.get() for _ in processes]
            for process in processes:
                process.join()
            events, firsts, seconds, megabytes = zip(*found, strict=True)
            rate = sum(events) / max(seconds)
            base = base or rate
            print(
                f"| {world} | {rate:.0f} | {rate / base:.2f} | {max(firsts):.2f} | {max(megabytes):.0f} |", flush=True
            )
    finally:
        shutil.rmtree(folder)


def made(folder: Path, events: int) -> Path:
    """A dataset of toy events."""
    from ingest.conversion.convert import convert
    from ingest.conversion.options import ConversionOptions
    from ingest.reading.rootio import open_sources
    from ingest.reading.schema import load_schema

    write_file(folder / "a.root", events, COMPRESSIONS["lz4"])
    convert(open_sources([folder / "a.root"]), folder / "data", ConversionOptions(schema=load_schema("mc")))
    (folder / "a.root").unlink()
    return folder / "data"


if __name__ == "__main__":
    main()

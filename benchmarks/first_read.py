"""What two safeguards of reading cost: comparing sums where a sample is read first, and not mapping the tars.

    python benchmarks/first_read.py [--events 65536] [--turns 8] [--folder DIR]

Random events are written as a dataset and read through `open_loader` as in training: two threads, batches of 256, a
shuffled epoch, from the page cache or from the disk. The rows are measured in turn; ratios are of the same turn.
Processor time is that of the process, all threads, in user and system mode: what wall time hides behind the reader's
threads. `sums` is the first pass of a process over a dataset, `plain` every later one, `mapped` what `plain` would be
if DALI mapped the tars (a tar that is cut then ends the process by SIGBUS).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def

import pipelines.dali
from pipelines import open_loader
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.manifest import N_SENSORS, Settings, SourceInfo
from shards.normalization import SensorCounts
from shards.opening import open_dataset
from shards.plan import View, epoch_order, rank_plan
from shards.writer import DatasetWriter, ShardRows

BATCH, BLOCK = 256, 1024
READ = pipelines.dali.shard_pipeline


@dataclass(frozen=True)
class Pass:
    """What an epoch took, µs an event."""

    wall: float
    processor: float


@pipeline_def  # type: ignore[untyped-decorator]
def mapped(tars: list[str], indexes: list[str], headers: tuple[int, int], gpu: bool) -> Any:
    """`shard_pipeline` with mapped tars, on a CPU."""
    sensors, truth = fn.readers.webdataset(  # type: ignore[misc]
        paths=tars, index_paths=indexes, ext=["sensors.npy", "truth.npy"], name="shards"
    )
    return sensors, truth, sensors[: headers[0]], truth[: headers[1]]


def write(folder: Path, events: int) -> Dataset:
    """A dataset of random events."""
    writer = DatasetWriter(folder, Settings(columns=tuple(COLUMNS.values())), ["a"])
    rng = np.random.default_rng(0)
    sensors = rng.standard_normal((BLOCK, N_SENSORS, 2), dtype=np.float32)
    for start in range(0, events, BLOCK):
        truth = rng.standard_normal((BLOCK, len(COLUMNS)))
        truth[:, :2] = np.rint(truth[:, :2])  # run and event
        writer.append(ShardRows(sensors, truth, np.zeros(BLOCK, np.int64), np.arange(start, start + BLOCK)))
    writer.close([SourceInfo("a", "a", "tree", "", 1, events, events)], SensorCounts.zero())
    return open_dataset(folder)


def forget(dataset: Dataset) -> None:
    """Take the tars out of the page cache."""
    for shard in range(len(dataset.manifest.shards)):
        handle = os.open(dataset.file(shard, "tar"), os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read(dataset: Dataset, pipeline: Any, first: bool, from_disk: bool) -> Pass:
    """One epoch."""
    if from_disk:
        forget(dataset)
    pipelines.dali.shard_pipeline = pipeline
    dataset.seen[:] = not first
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, 0, 0), BATCH)
    began, spent = time.perf_counter(), time.process_time()
    with open_loader(views, plan, threads=2) as loader:
        for _ in loader:
            pass
    scale = 1e6 / len(dataset)
    return Pass(scale * (time.perf_counter() - began), scale * (time.process_time() - spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=64 * BLOCK)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        dataset = write(folder / "data", arguments.events - arguments.events % BLOCK)
        rows: dict[str, tuple[Any, bool, bool]] = {
            "plain": (READ, False, False),
            "sums": (READ, True, False),
            "mapped": (mapped, False, False),
            "plain, from disk": (READ, False, True),
            "sums, from disk": (READ, True, True),
        }
        found: dict[str, list[Pass]] = {name: [] for name in rows}
        for turn in range(arguments.turns + 1):
            for name, how in rows.items():
                passed = read(dataset, *how)
                if turn:  # the first one fills the page cache
                    found[name].append(passed)
    finally:
        shutil.rmtree(folder)
    heads = f"{'events/s':>10}{'of plain':>10}{'processor µs/event':>20}{'of plain':>10}{'lowest':>8}{'highest':>9}"
    print(f"{'':<18}{heads}")
    for name, passes in found.items():
        plain = found["plain, from disk" if "disk" in name else "plain"]
        wall, base_wall = (np.array([one.wall for one in of]) for of in (passes, plain))
        spent, base = (np.array([one.processor for one in of]) for of in (passes, plain))
        ratio = spent / base
        print(
            f"{name:<18}{1e6 / np.median(wall):10.0f}{np.median(base_wall / wall):10.3f}{np.median(spent):20.2f}"
            f"{np.median(ratio):10.3f}{ratio.min():8.2f}{ratio.max():9.2f}"
        )


if __name__ == "__main__":
    main()

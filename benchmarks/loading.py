"""How fast shards are read into float32 batches, against streaming the same ROOT files and against stock webdataset.

    python benchmarks/loading.py [--events 32768] [--folder DIR]

DALI: `open_loader` with two threads and batches of 256, a shuffled epoch, as in training; the dataset counts four
times, since real epochs are longer than what fits into the page cache here. uproot: one process that reads the two
sensor branches 1000 events at a time, normalizes them and makes a tensor. webdataset: its own loop in one process over
the same shards, decoded and batched. All files are in the page cache; the rows are measured in turn, three times, and
the best of each counts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import uproot
import webdataset
from conversion import COMPRESSIONS, REPEATS, uproot_as_it_comes, write_file

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from pipelines import open_loader
from shards.dataset import Dataset
from shards.normalization import normalize, preset
from shards.opening import open_dataset
from shards.plan import View, epoch_order, rank_plan

BATCH = 256
COPIES = 4
TARGETS = {"zlib": 15.0, "zstd": 4.0, "lz4": 4.0, "webdataset": 3.0}


def rate(read: Callable[[], int]) -> float:
    """Events per second of one pass."""
    began = time.perf_counter()
    events = read()
    return events / (time.perf_counter() - began)


def dali(dataset: Dataset, copies: int = 1) -> int:
    views = [View(dataset, np.arange(dataset.n_events))] * copies
    plan = rank_plan(epoch_order(views, 0, 0), BATCH, 0, 1)
    events = 0
    with open_loader(views, plan, threads=2) as loader:
        for batch in loader:
            assert batch.sensors.dtype == torch.float32
            events += int(batch.weight.sum())
    return events


def streamed(path: Path) -> int:
    norm, events = preset("standard"), 0
    uproot_as_it_comes()
    with uproot.open(path) as file:
        for arrays in file["tree"].iterate(["npho", "relative_time"], step_size=1000, library="np"):
            sensors = torch.from_numpy(normalize(arrays["npho"], arrays["relative_time"], norm).sensors)
            events += len(sensors)
    return events


def stock(dataset: Dataset) -> int:
    urls = [str(dataset.file(shard, "tar")) for shard in range(len(dataset.manifest.shards))]
    loop = webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("sensors.npy", "truth.npy")
    return sum(len(sensors) for sensors, _ in loop.batched(BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=32768)
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for name, compression in COMPRESSIONS.items():
            write_file(folder / f"{name}.root", arguments.events, compression)
        readers: dict[str, Callable[[], int]] = {}
        for dtype in ("float32", "float16"):
            out = folder / dtype
            options = ConversionOptions(schema=load_schema("mc"), dtype=dtype)
            convert(open_sources([folder / "lz4.root"]), out, options, workers=2)
            readers[f"DALI, {dtype} shards"] = lambda out=out: dali(open_dataset(out), COPIES)
        readers["webdataset"] = lambda: stock(open_dataset(folder / "float32"))
        readers |= {name: lambda name=name: streamed(folder / f"{name}.root") for name in COMPRESSIONS}
        for read in readers.values():
            read()
        best = dict.fromkeys(readers, 0.0)
        for _ in range(REPEATS):
            for name, read in readers.items():
                best[name] = max(best[name], rate(read))
    finally:
        shutil.rmtree(folder)
    ours = best["DALI, float32 shards"]
    print(f"{'reader':<24}{'events/s':>10}{'DALI is':>10}{'target':>8}")
    for name, value in best.items():
        target = f"{TARGETS[name]:7.0f}×" if name in TARGETS else ""
        label = f"uproot, {name}" if name in COMPRESSIONS else name
        print(f"{label:<24}{value:10.0f}{ours / value:9.1f}×{target}")


if __name__ == "__main__":
    main()

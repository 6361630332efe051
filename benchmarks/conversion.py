"""How fast conversion is, as a fraction of what uproot alone does, and how much memory it takes.

    python benchmarks/conversion.py [--events 100000] [--full-cache] [--folder DIR]

uproot alone: two processes, each reading and decompressing npho and relative_time of half of the entries into arrays.
Conversion: `convert` with two workers, the start of their processes and all fsyncs included. Both read the same files,
which are in the page cache, in turn, three times; the best of each counts. Besides the rates there is the processor
time that an event takes, summed over processes: on a machine that does other things too, its ratio is the more telling
one. Memory is the anonymous memory of all processes together, sampled 20 times a second.

A virtual machine may give free pages back to its host, and then every page of the cache that temporary rows take anew
is as expensive as computing on it. With --full-cache other data fill the page cache before each conversion, as on a
machine that has been up for a day, so that pages come from there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import uproot

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema

COMPRESSIONS = {"zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1)}
TARGETS = {"zlib": 0.5, "lz4": 0.3, "zstd": 0.3}
BASKET = 512
"""Events in a basket, as in files that the toy Monte Carlo writes."""
DISTINCT = 1024
"""Different toy events; files repeat them, which a basket's compression does not notice."""
REPEATS = 3


def write_file(path: Path, events: int, compression: uproot.compression.Compression) -> None:
    from ingest.toymc import (
        ToyOptions,  # here, so that workers, which import this module, do without
        generate,
    )

    block = generate(DISTINCT, ToyOptions(seed=1)).branches()
    del block["event"]
    with uproot.recreate(path, compression=compression) as file:
        types = {
            name: values.dtype if values.ndim == 1 else (values.dtype, values.shape[1:])
            for name, values in block.items()
        }
        tree = file.mktree("tree", {**types, "event": np.dtype("i4")})
        for start in range(0, events, BASKET):
            n, at = min(BASKET, events - start), start % DISTINCT
            numbers = np.arange(start, start + n, dtype="i4")
            tree.extend({**{name: values[at : at + n] for name, values in block.items()}, "event": numbers})


def uproot_as_it_comes() -> None:
    """Take back what `ingest.reading.rootfile` put into uproot: a faster way to decompress zlib."""
    uproot.compression._decompress_ZLIB = uproot.ZLIB(1)


def read_alone(task: tuple[str, int, int]) -> int:
    """uproot reading two branches of a range of entries, chunk by chunk."""
    path, start, stop = task
    uproot_as_it_comes()
    with uproot.open(path) as file:
        tree = file["tree"]
        branches = ["npho", "relative_time"]
        n = 0
        for arrays in tree.iterate(branches, step_size=1000, library="np", entry_start=start, entry_stop=stop):
            n += len(arrays["npho"])
    return n


@dataclass
class Cost:
    """Best time and processor time of some repetitions."""

    seconds: float = np.inf
    cpu: float = np.inf
    peak: int = 0

    def take(self, seconds: float, cpu: float, peak: int = 0) -> None:
        self.seconds, self.cpu, self.peak = min(self.seconds, seconds), min(self.cpu, cpu), max(self.peak, peak)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def uproot_alone(path: Path, events: int, cost: Cost) -> None:
    """Two processes; they are started before the clock, their processor time of that is small."""
    half = events // 2
    cpu = cpu_seconds()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(read_alone, [(str(path), 0, 10), (str(path), 0, 10)]))
        began = time.perf_counter()
        assert sum(pool.map(read_alone, [(str(path), 0, half), (str(path), half, events)])) == events
        seconds = time.perf_counter() - began
    cost.take(seconds, cpu_seconds() - cpu)


class Memory(threading.Thread):
    """Peak of the anonymous memory of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.running = 0, True

    def run(self) -> None:
        me = psutil.Process()
        while self.running:
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += _anonymous(process.pid)
                except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.05)


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def conversion(path: Path, out: Path, cost: Cost) -> None:
    """Convert one file with two workers."""
    shutil.rmtree(out, ignore_errors=True)
    memory, cpu, began = Memory(), cpu_seconds(), time.perf_counter()
    memory.start()
    convert(open_sources([path]), out, ConversionOptions(schema=load_schema("mc")), workers=2)
    seconds = time.perf_counter() - began
    memory.running = False
    memory.join()
    cost.take(seconds, cpu_seconds() - cpu, memory.peak)
    shutil.rmtree(out)


def read_through(path: Path) -> None:
    """Put a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def fill_cache(path: Path) -> None:
    """Leave no free memory: read as much of nothing as there is, then `path`. The cache lasts as long as the file."""
    nothing = path.with_name("nothing")
    nothing.touch()
    os.truncate(nothing, psutil.virtual_memory().total)
    read_through(nothing)
    read_through(path)


def measure(name: str, path: Path, events: int, full_cache: bool) -> None:
    alone, ours = Cost(), Cost()
    read_through(path)
    for _ in range(REPEATS):
        uproot_alone(path, events, alone)
        if full_cache:
            fill_cache(path)
        conversion(path, path.with_name("out"), ours)
    print(
        f"{name:<6} {events:7d} {path.stat().st_size / 1e6:6.0f}  {events / alone.seconds:8.0f} "
        f"{events / ours.seconds:9.0f} "
        f"{alone.seconds / ours.seconds:6.2f}  {alone.cpu / events * 1e6:8.0f} {ours.cpu / events * 1e6:9.0f} "
        f"{alone.cpu / ours.cpu:6.2f}  {TARGETS[name]:6.1f} {ours.peak / 1e9:8.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--full-cache", action="store_true", help="fill the page cache before each conversion")
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    print(f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, uproot {uproot.__version__}")
    print(f"{'':<6} {'':>7} {'':>6}  {'events per second':^25}  {'CPU µs per event':^25}")
    print(
        f"{'file':<6} {'events':>7} {'MB':>6}  {'uproot':>8} {'convert':>9} {'ratio':>6}  {'uproot':>8} {'convert':>9} "
        f"{'ratio':>6}  {'target':>6} {'peak GB':>8}"
    )
    try:
        for name, compression in COMPRESSIONS.items():
            path = folder / f"{name}.root"
            write_file(path, arguments.events, compression)
            measure(name, path, arguments.events, arguments.full_cache)
            path.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""How fast conversion is, as a fraction of what uproot and CERN's ROOT do when they only read, and its memory.

    python benchmarks/conversion.py [--events 100000] [--root PYTHON] [--full-cache] [--folder DIR]

uproot: two processes, each reading and decompressing npho and relative_time of half of the entries into arrays. ROOT:
RDataFrame with two threads, reading both branches, compiled before the clock starts; `--root` names a Python that has
the package `ROOT` (default: this one). Conversion: `convert` with one worker and with two, the start of the second
one's process and all fsyncs included. All read the same files, which are in the page cache, in turn, several times;
the best of each counts. CPU is the processor time that an event takes, summed over processes: on a machine that does
other things too, its ratio is the more telling one. Memory is the anonymous memory of all processes together, sampled
20 times a second.

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
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import uproot

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema

COMPRESSIONS = {"zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1)}
TARGETS = {"zlib": 0.8, "lz4": 0.35, "zstd": 0.4}
"""Of ROOT's rate of reading, asked for with two workers."""
ROOT_READS = """
import sys, time, ROOT
ROOT.EnableImplicitMT(2)
def once():
    frame = ROOT.RDataFrame("tree", sys.argv[1]).Define("x", "npho[0] + relative_time[0]")
    began = time.perf_counter()
    frame.Sum("x").GetValue()
    return time.perf_counter() - began
once()
print(min(once() for _ in range(3)))
"""
"""A program that reads both branches of a file and says how many seconds that took."""
BASKET = 512
"""Events in a basket, as in files that the toy Monte Carlo writes."""
DISTINCT = 1024
"""Different toy events; files repeat them, which a basket's compression does not notice."""
REPEATS = 3


@cache
def toy_events() -> dict[str, np.ndarray]:
    """The branches of `DISTINCT` events."""
    from ingest.toymc import ToyOptions, generate  # here, so that workers, which import this module, do without

    return generate(DISTINCT, ToyOptions(seed=1)).branches()


def write_file(path: Path, events: int, compression: uproot.compression.Compression) -> None:
    block = {name: values for name, values in toy_events().items() if name != "event"}
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


def root_alone(python: str, path: Path, cost: Cost) -> None:
    """ROOT reading with two threads."""
    done = subprocess.run([python, "-c", ROOT_READS, str(path)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        cost.take(float(done.stdout.split()[-1]), np.nan)


def conversion(path: Path, out: Path, cost: Cost, workers: int) -> None:
    """Convert one file."""
    shutil.rmtree(out, ignore_errors=True)
    memory, cpu, began = Memory(), cpu_seconds(), time.perf_counter()
    memory.start()
    convert(open_sources([path]), out, ConversionOptions(schema=load_schema("mc")), workers=workers)
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


def measure(name: str, path: Path, arguments: argparse.Namespace) -> None:
    events: int = arguments.events
    uproot_cost, root, one, two = Cost(), Cost(), Cost(), Cost()
    read_through(path)
    for _ in range(arguments.repeats):
        uproot_alone(path, events, uproot_cost)
        root_alone(arguments.root, path, root)
        for workers, cost in ((1, one), (2, two)):
            if arguments.full_cache:
                fill_cache(path)
            conversion(path, path.with_name("out"), cost, workers)
    cells = [name, *(f"{events / cost.seconds:.0f}" for cost in (root, uproot_cost, one, two))]
    cells += [f"{one.seconds / two.seconds:.2f}", f"**{root.seconds / two.seconds:.2f}**", f"{TARGETS[name]}"]
    cells += [f"{uproot_cost.cpu / two.cpu:.2f}", f"{two.cpu / events * 1e6:.0f}", f"{two.peak / 1e9:.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


HEADS = (
    *("file", "ROOT reads", "uproot reads", "one worker", "two workers", "two : one", "two : ROOT", "asked for"),
    *("CPU, uproot : ours", "CPU µs per event", "peak GB"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--root", default=sys.executable, help="a Python that has CERN's ROOT (default: this one)")
    parser.add_argument("--full-cache", action="store_true", help="fill the page cache before each conversion")
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    print(f"Events/s of {arguments.events} events; {os.cpu_count()} CPUs, uproot {uproot.__version__}.\n")
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    try:
        for name, compression in COMPRESSIONS.items():
            path = folder / f"{name}.root"
            write_file(path, arguments.events, compression)
            measure(name, path, arguments)
            path.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

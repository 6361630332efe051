"""Where the time of a conversion goes: microseconds per event and stage, alone and beside a second one.

    python benchmarks/stages.py [--events 8192] [--compression lz4]

A conversion with one worker under Python's profiler; a stage is the time of its function and all that it calls. The
work is in NumPy, zlib and the like, which the profiler does not slow down. The second column is the same while another
process converts the same file again and again: what a worker needs when two of them share memory, cache and disk.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import pstats
import shutil
import tempfile
from pathlib import Path

from conversion import COMPRESSIONS, read_through, write_file

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema

STAGES = {
    "reading and decompressing": ("rootio.py", "read"),
    "normalizing": ("sensors.py", "normalize"),
    "counting bad values": ("sensors.py", "counts"),
    "columns": ("rootio.py", "read_columns"),
    "names and headers": ("tarfmt.py", "name"),
    "checksum of a temporary row, twice": ("bucket.py", "row_checksums"),
    "writing temporary rows": ("bucket.py", "_write"),
    "reading temporary rows": ("sorting.py", "_read"),
    "summaries": ("sidecar.py", "summarize"),
    "SHA-256": ("~", "<method 'update' of '_hashlib.HASH' objects>"),
    "writing shards": ("directio.py", "write"),
    "waiting for the disk": ("directio.py", "_wait"),
    "fsync": ("~", "<built-in method posix.fsync>"),
    "all": ("convert.py", "convert"),
}
"""Stage → file and function."""
OF_READING = ("columns",)
"""Stages that are part of the reading, which is given without them."""


def profiled(path: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage of a conversion, in the second of two."""
    options = ConversionOptions(schema=load_schema("mc"))
    convert(open_sources([path]), out, options, workers=1)  # imports and caches
    shutil.rmtree(out)
    profile = cProfile.Profile()
    profile.runcall(convert, open_sources([path]), out, options, workers=1)
    shutil.rmtree(out)
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    taken = {(Path(file).name, name): row[3] for (file, _, name), row in rows}
    seconds = {stage: taken[function] for stage, function in STAGES.items()}
    seconds["reading and decompressing"] -= sum(seconds[stage] for stage in OF_READING)
    seconds["writing shards"] -= seconds["waiting for the disk"]
    return seconds


def neighbour(path: Path, out: Path) -> None:
    """Convert again and again, until killed."""
    while True:
        convert(open_sources([path]), out, ConversionOptions(schema=load_schema("mc")), workers=1)
        shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=8192)
    parser.add_argument("--compression", choices=COMPRESSIONS, default="lz4")
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    process = multiprocessing.get_context("spawn").Process(
        target=neighbour, args=(folder / "a.root", folder / "beside")
    )
    try:
        write_file(folder / "a.root", arguments.events, COMPRESSIONS[arguments.compression])
        read_through(folder / "a.root")
        alone = profiled(folder / "a.root", folder / "out")
        process.start()
        beside = profiled(folder / "a.root", folder / "out")
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        shutil.rmtree(folder)
    print(f"| {arguments.compression}, {arguments.events} events, µs per event | one worker | beside another |")
    print("|---|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {' | '.join(f'{1e6 * x[stage] / arguments.events:.1f}' for x in (alone, beside))} |")


if __name__ == "__main__":
    main()

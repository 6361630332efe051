"""Where the time of a conversion goes: microseconds per event and stage, in one process.

    python benchmarks/stages.py [--events 8192] [--compression lz4]

A conversion with one worker under Python's profiler; a stage is the time of its function and all that it calls. The
work is in NumPy, zlib and the like, which the profiler does not slow down.
"""

from __future__ import annotations

import argparse
import cProfile
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
    "checksum of a temporary row, twice": ("bucket.py", "row_checksum"),
    "writing temporary rows": ("bucket.py", "_write"),
    "reading temporary rows": ("sorting.py", "_read"),
    "packing": ("tarfmt.py", "pack"),
    "summaries": ("sidecar.py", "summarize"),
    "SHA-256": ("~", "<method 'update' of '_hashlib.HASH' objects>"),
    "writing shards": ("directio.py", "write"),
    "all": ("convert.py", "convert"),
}
"""Stage → file and function."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=8192)
    parser.add_argument("--compression", choices=COMPRESSIONS, default="lz4")
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        path = folder / "a.root"
        write_file(path, arguments.events, COMPRESSIONS[arguments.compression])
        read_through(path)
        options = ConversionOptions(schema=load_schema("mc"))
        convert(open_sources([path]), folder / "first", options)  # imports and caches
        profile = cProfile.Profile()
        profile.runcall(convert, open_sources([path]), folder / "out", options)
        taken = {(Path(file).name, name): row[3] for (file, _, name), row in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    finally:
        shutil.rmtree(folder)
    print(f"| {arguments.compression}, {arguments.events} events, one worker | µs per event |\n|---|---|")
    for stage, function in STAGES.items():
        print(f"| {stage} | {1e6 * taken[function] / arguments.events:.1f} |")


if __name__ == "__main__":
    main()

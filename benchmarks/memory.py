"""Peak anonymous memory of converting, reading and predicting, over all processes, against the number of events.

    python benchmarks/memory.py [--events 10000 30000 100000] [--folder DIR]

None may depend on it. Each figure is taken in a process of its own. Conversion has two workers; reading is one shuffled
epoch through DALI; `xec infer` reads the ROOT file, with an untrained network of the preset `small`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from conversion import COMPRESSIONS, Memory, write_file
from inference import make_run, seconds, xec
from loading import dali

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.opening import open_dataset


def converting(root: Path, out: Path) -> None:
    convert(open_sources([root]), out, ConversionOptions(schema=load_schema("mc")), workers=2)


def reading(_: Path, out: Path) -> None:
    dali(open_dataset(out))


def peak(work: Callable[[Path, Path], None], root: Path, out: Path, answer: multiprocessing.Queue[int]) -> None:
    memory = Memory()
    memory.start()
    work(root, out)
    memory.running = False
    memory.join()
    answer.put(memory.peak)


def measured(work: Callable[[Path, Path], None], root: Path, out: Path) -> float:
    """Peak in MB."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak, args=(work, root, out, answer))
    process.start()
    megabytes = answer.get() / 1e6
    process.join()
    return megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--folder", type=Path, default=None, help="where files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        make_run(folder / "network", "small")
        print("| events | converting [MB] | reading [MB] | predicting [MB] |\n|---|---|---|---|")
        for events in arguments.events:
            root, out = folder / "a.root", folder / "shards"
            write_file(root, events, COMPRESSIONS["lz4"])
            row = [measured(work, root, out) for work in (converting, reading)]
            predictions = folder / "predictions.root"
            command = xec("infer", folder / "network" / "run", root, "--output", predictions, "--device", "cpu")
            row.append(seconds(command, predictions)[1])
            print(f"| {events} | {' | '.join(f'{megabytes:.0f}' for megabytes in row)} |", flush=True)
            shutil.rmtree(out)
            root.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""ROOT to ROOT: `xec infer` against the plain script that it replaces, at an equal network, and single events for C++.

    python benchmarks/inference.py --preset reference --folder /tmp/inference

The script is what one writes first, and what the older project had: `uproot.iterate`, float32 onnxruntime with its own
threads, normalization in numpy, predictions collected in lists and written at the end; it is in this file. Its network
is equal to the run's but written plainly (as in `model.py`; both graphs' outputs are compared first). A second row
gives the script the graph that `xec export` writes. All are whole commands in processes of their own, which take
turns; `without start` is a second measurement with a twentieth of the events subtracted. `model alone` is the rate of
the network on events that are in memory. The last row is no equal network, but the one that replaces it today. Below
the table is how far one can get at all: the arithmetic of a forward pass, and how fast this machine multiplies
matrices. The networks are untrained; making and exporting the first takes minutes, and `--folder` keeps it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import torch
import uproot
from conversion import COMPRESSIONS, write_file
from model import PlainEncoder
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shards import geometry as geo
from shards.base import keep_freed_memory
from xectrain.checkpoint import find_checkpoint, read_checkpoint
from xectrain.exporting.graph import onnx_bytes
from xectrain.exporting.modules import NormalizedInput, module_for
from xectrain.inference.load import load_mode
from xectrain.modes.base import EventMode

SMALLER = 20
"""How many times fewer events the second measurement has."""
SCRIPT = """
import sys, numpy, onnxruntime, uproot
root, onnx, out = sys.argv[1:]
session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
rows = {"run": [], "event": []}
with uproot.open(root) as file:
    for chunk in file["tree"].iterate(["run", "event", "npho", "relative_time"], step_size=1000, library="np"):
        npho, time = chunk["npho"].astype("f4"), chunk["relative_time"].astype("f4")
        bad, none = (npho > 9e9) | numpy.isnan(npho), (numpy.abs(time) > 9e9) | numpy.isnan(time)
        x = numpy.stack([numpy.log1p(numpy.maximum(npho, 0) / 0.58), time / 6.5e-8], 2).astype("f4")
        x[..., 0][bad] = -1
        x[..., 1][bad | none] = -5
        for start in range(0, len(x), 256):
            values = session.run(None, {session.get_inputs()[0].name: x[start:start + 256]})
            for output, value in zip(session.get_outputs(), values):
                rows.setdefault(output.name, []).append(value)
        rows["run"].append(chunk["run"])
        rows["event"].append(chunk["event"])
with uproot.recreate(out) as file:
    whole = {name: numpy.concatenate(parts) for name, parts in rows.items()}
    file.mktree("predictions", {name: v.dtype if v.ndim == 1 else (v.dtype, v.shape[1:]) for name, v in whole.items()})
    file["predictions"].extend(whole)
"""


def xec(*arguments: object) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "xec", *map(str, arguments)]


class Plainly(nn.Module):
    """In the place of an encoder without a focus: the same, written plainly."""

    def __init__(self, plain: PlainEncoder) -> None:
        super().__init__()
        self.plain = plain

    def look(self, x_BN2: Tensor, mask_BN: Tensor) -> None:
        del x_BN2, mask_BN

    def forward(self, x_BN2: Tensor, mask_BN: Tensor, scene: None) -> Tensor:
        del scene
        tokens: Tensor = self.plain(x_BN2, mask_BN)
        return tokens


def write_plain(run: Path, onnx: Path) -> None:
    """The run's network with its encoder written plainly, as a bare ONNX graph."""
    path = find_checkpoint(run)
    mode, facts = load_mode(read_checkpoint(path), path)
    assert isinstance(mode, EventMode)
    module = module_for(mode, facts, normalized=True)
    assert isinstance(module, NormalizedInput)
    encoder = mode.model.encoder
    mode.model.encoder = Plainly(PlainEncoder(encoder, facts.normalization))
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in ONNX
    onnx.write_bytes(onnx_bytes(module))


def largest_difference(one: Path, other: Path) -> float:
    """Of the outputs of two bare graphs, in units of the spread of the first's."""
    x = np.random.default_rng(0).uniform(0, 5, (8, 4760, 2)).astype(np.float32)
    found = []
    for path in (one, other):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found.append(session.run(None, {session.get_inputs()[0].name: x}))
    pairs = [(a, b) for a, b in zip(*found, strict=True) if a.dtype != bool]
    return max(float(np.abs(a - b).max() / np.std(a)) for a, b in pairs)


def make(folder: Path, preset: str) -> None:
    """A run folder and its network as ONNX, from raw sensors, bare, and bare and plain."""
    make_run(folder, preset)
    shards, run = folder / "shards", folder / "run"
    for name, form in (("raw.onnx", ()), ("bare.onnx", ("--normalized",))):
        if not (folder / name).exists():
            command = xec("export", run, "--data", shards, *form, "--output", folder / name)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not (folder / "plain.onnx").exists():
        write_plain(run, folder / "plain.onnx")
    difference = largest_difference(folder / "plain.onnx", folder / "bare.onnx")
    print(f"Plain and exported graph differ by {difference:.0e}.\n")


def make_run(folder: Path, preset: str) -> None:
    """`FOLDER/run`, an untrained network of a preset, and `FOLDER/shards`, a few events."""
    folder.mkdir(exist_ok=True)
    toy, shards, run = folder / "toy.root", folder / "shards", folder / "run"
    steps = [
        (toy, xec("toymc", "--events", 64, "--energy", "flat", "--energy-range", 15, 65, "--out", toy)),
        (shards, xec("ingest", "root2shards", toy, "--out", shards)),
        (
            run / "checkpoint_last.pt",
            xec(
                *("train", "--data", shards, "--val", shards, "--preset", preset, "--out", run, "--epochs", 1),
                *("--tasks", "angle,energy,timing,uvwFI", "--set", "checkpoint.save_artifacts=false"),
                *("--set", "tracking.mlflow=false", "--batch-size", 32, "--device", "cpu"),
            ),
        ),
    ]
    for made, command in steps:
        if not made.exists():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def seconds(command: list[str], out: Path) -> tuple[float, float]:
    """Wall time of a command, and the peak of its anonymous memory in MB."""
    out.unlink(missing_ok=True)
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    measured = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            info = measured.memory_info()
            peak = max(peak, info.rss - info.shared)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, peak / 1e6


def alone(run: Path, root: Path, events: int) -> float:
    """Events/s of the network on events in memory, side by side as in the command."""
    from xectrain.inference.events import Events
    from xectrain.inference.load import load

    keep_freed_memory()  # as the command does
    with uproot.open(root) as file:
        arrays = file["tree"].arrays(["npho", "relative_time"], library="np", entry_stop=min(events, 1024))
    loaded, known = load(run, device="cpu"), Events.of_raw(arrays["npho"], arrays["relative_time"])
    loaded.predict_events(known)  # type: ignore[union-attr]
    began = time.perf_counter()
    for _ in range(max(1, events // len(known))):
        loaded.predict_events(known)  # type: ignore[union-attr]
    return len(known) * max(1, events // len(known)) / (time.perf_counter() - began)


def measured_rates(pairs: list[tuple[float, float]], events: int) -> tuple[float, float]:
    """Events/s with and without start, from the seconds that all events and a part of them took in each turn."""
    whole, start = (min(pair[i] for pair in pairs) for i in range(2))
    return events / whole, (events - events // SMALLER) / (whole - start)


def arithmetic(run: Path) -> float:
    """Floating-point operations of a forward pass, per event: those of products and convolutions."""
    path, events = find_checkpoint(run), 4
    mode, _ = load_mode(read_checkpoint(path), path)
    x_BN2, mask_BN = torch.rand(events, geo.N_SENSORS, 2), torch.zeros(events, geo.N_SENSORS, dtype=torch.bool)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mode.model(x_BN2, mask_BN)
    return counter.get_total_flops() / events


def multiplying(dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second in products of large matrices, by all cores: the best of several."""
    left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        before = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - before)
    return 2 * size**3 / best


def singles(onnx: Path, root: Path, count: int = 200) -> tuple[float, float]:
    """Median and 99th percentile of one event's time [ms], through onnxruntime with one thread, as C++ would."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    with uproot.open(root) as file:
        arrays = file["tree"].arrays(["npho", "relative_time"], library="np", entry_stop=64)
    taken = []
    for k in range(count + 5):
        event = slice(k % 64, k % 64 + 1)
        feed = {"npho": arrays["npho"][event], "time": arrays["relative_time"][event]}
        feed["dead"] = np.zeros(feed["npho"].shape, dtype=bool)
        wanted = {given.name for given in session.get_inputs()}
        began = time.perf_counter()
        session.run(None, {name: value for name, value in feed.items() if name in wanted})
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken[5:]), float(np.quantile(taken[5:], 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="reference")
    parser.add_argument("--beside", default="small", help="preset of the last row")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the network for another run")
    parser.add_argument("--only-make", action="store_true", help="make the network and the files, measure nothing")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, options.preset)
    beside = folder / options.beside
    make_run(beside, options.beside)
    files = {events: folder / f"{events}.root" for events in (options.events, options.events // SMALLER)}
    for events, file in files.items():
        if not file.exists():
            write_file(file, events, COMPRESSIONS["lz4"])
    if options.only_make:
        return
    out, run = folder / "out.root", folder / "run"

    def ours(model: Path, file: Path, *more: str) -> list[str]:
        return xec("infer", model, file, "--output", out, "--device", "cpu", *more)

    def script(onnx: str, file: Path) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(file), str(folder / onnx), str(out)]

    ways = {
        "the plain script": lambda file: script("plain.onnx", file),
        "the same with our graph": lambda file: script("bare.onnx", file),
        "`xec infer run`": lambda file: ours(run, file),
        "`xec infer run --precision bf16`": lambda file: ours(run, file, "--precision", "bf16"),
        "`xec infer raw.onnx`": lambda file: ours(folder / "raw.onnx", file),
        f"`xec infer` with `{options.beside}`": lambda file: ours(beside / "run", file),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, command in ways.items():
            pair = [seconds(command(files[n]), out)[0] for n in (options.events, options.events // SMALLER)]
            taken[name].append((pair[0], pair[1]))
    network = alone(run, files[options.events], options.events)
    print(
        f"| `{options.preset}`, {options.events} events | events/s | ratio | without start | ratio | of model alone |"
    )
    print("|---|---|---|---|---|---|")
    rates = {name: measured_rates(pairs, options.events) for name, pairs in taken.items()}
    script_rates = rates["the plain script"]
    for name, (whole, inner) in rates.items():
        ratios = f"{whole:.1f} | {whole / script_rates[0]:.2f} | {inner:.1f} | {inner / script_rates[1]:.2f}"
        print(f"| {name} | {ratios} | {f'{inner / network:.2f}' if name == '`xec infer run`' else ''} |")
    operations, speeds = arithmetic(run), [multiplying(dtype) for dtype in (torch.float32, torch.bfloat16)]
    limits = [f"{speed / operations:.0f} ({speed / operations / script_rates[1]:.1f})" for speed in speeds]
    print(
        f"\nAn event is {operations / 1e9:.2f} GFLOP, and the cores multiply large matrices at {speeds[0] / 1e9:.0f} "
        f"GFLOP/s in float32, {speeds[1] / 1e9:.0f} in bf16: no program does more than {limits[0]} and {limits[1]} "
        "events/s (in brackets: ratio without start)."
    )
    median, late = singles(folder / "raw.onnx", files[options.events])
    print(f"\nOne event at a time, one thread of onnxruntime: median {median:.1f} ms, 99th percentile {late:.1f} ms.")


if __name__ == "__main__":
    main()

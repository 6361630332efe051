"""Everything that only a GPU can tell, in one run of half an hour; each result is written as soon as it is there.

    make gpu-check && python benchmarks/gpu.py --out gpu.jsonl
    python benchmarks/gpu.py --device cpu --quick --out cpu.jsonl       (what a test does: a CPU stands in)

Every step runs in a process of its own, so that one that fails, hangs or loses the device ends nothing else: its error
is its result. `--out` gets a line of JSON per result, and is continued: a step that it holds without an error is not
run again. In this order: the device, DALI's delivery, a training step against the CPU's (float32, bf16, one rank of
NCCL), whole trainings and inference, the older network, rates by network and batch; last what takes minutes before it
says anything, ONNX and everything compiled.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
TASKS = "angle,energy,timing,uvwFI"
STEP_SECONDS = 420
PRELOADED = ["torch", "pipelines.dali", "xectrain.models.regressor", "xectrain.training.optimization"]


@dataclass(frozen=True)
class Place:
    """What a step is given."""

    device: str
    quick: bool
    folder: Path
    """`data` (a dataset) is in it; steps leave there what later ones use."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (8,) if self.quick else (1024, 4096, 16384)

    @property
    def networks(self) -> tuple[str, ...]:
        return ("small",) if self.quick else ("reference", "small", "large")


def about(place: Place) -> Result:
    """What is measured on."""
    import torch

    from xectrain.cli.cuda import cuda_versions

    name = torch.cuda.get_device_name() if place.device == "cuda" else "CPU standing in"
    return {"name": name, "torch": torch.__version__, "python": sys.version.split()[0], "cuda": cuda_versions().told()}


def delivery(place: Place) -> Result:
    """Batches on the device equal those on the CPU, also while the device is kept busy behind the loader's back."""
    import torch

    with _loader(place, 16, "cpu") as loader:
        expected = [batch.sensors.clone() for batch in loader]
    busy = torch.rand(512 if place.quick else 4096, 512, device=place.device)
    differing, found = 0, []
    with _loader(place, 16, place.device) as loader:
        for batch in loader:
            for _ in range(4):
                busy = (busy @ busy[:512]).tanh()  # queued: what follows is read much later than it is asked for
            found.append(batch.sensors * 1.0)
    for one, other in zip(found, expected, strict=True):
        differing += int((one.cpu() != other).sum())
    return {"batches": len(expected), "values that differ": differing, "ok": not differing}


def step_float32(place: Place) -> Result:
    return _step_against_cpu(place, bf16=False)


def step_bf16(place: Place) -> Result:
    return _step_against_cpu(place, bf16=True)


def step_compiled(place: Place) -> Result:
    return _step_against_cpu(place, bf16=True, compile_mode="default")


def step_graphs(place: Place) -> Result:
    """CUDA graphs, and a shorter batch after them, as the last of an epoch of inference."""
    if place.device == "cpu":
        raise RuntimeError("CUDA graphs need a GPU")
    return _step_against_cpu(place, bf16=True, compile_mode="reduce-overhead")


def step_nccl(place: Place) -> Result:
    """One rank of NCCL (gloo on a CPU): DistributedDataParallel gives the gradients of the plain network."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    dist.init_process_group("nccl" if place.device == "cuda" else "gloo", rank=0, world_size=1)
    model, x, mask = _network("small", 8, place.device)
    plain = _gradients(model, x, mask, bf16=False)
    ranks = DistributedDataParallel(model, broadcast_buffers=False)
    _gradients(ranks, x, mask, bf16=False)
    difference = max(
        float((a - p.grad).abs().max()) for a, p in zip(plain, model.parameters(), strict=True) if p.grad is not None
    )
    dist.destroy_process_group()
    return {"largest difference": difference, "ok": difference < 1e-5, "torch": torch.__version__}


def loading(place: Place, batch: int, threads: int) -> Result:
    """Events/s from shards to the device after the first batch, and the seconds until that is there."""
    import torch

    began, ends = time.perf_counter(), list[float]()
    with _loader(place, batch, place.device, copies=8, threads=threads) as loader:
        for _ in loader:
            if place.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
    rate = batch * (len(ends) - 1) / (ends[-1] - ends[0])
    return {"events/s": round(rate), "first batch after [s]": round(ends[0] - began, 2)}


def network(place: Place, name: str, batch: int, precision: str, mode: str | None) -> Result:
    """Events/s of forward, and of whole optimizer steps (clipping, AdamW and average included), and peak memory."""
    import torch

    from xectrain.compute import choose_compute, compile_in_place
    from xectrain.config.tree import OptimConfig
    from xectrain.training.optimization import MovingAverage, build_optimizer, clip_gradients

    bf16 = choose_compute(place.device, precision).bf16  # as training does: float32 may use TF32 on a GPU
    model, x, mask = _network(name, batch, place.device)
    if mode:
        compile_in_place(model, mode)
    optimizer, average = build_optimizer(model, OptimConfig()), MovingAverage(model, 0.999)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(place.device, torch.bfloat16, enabled=bf16):
            model.eval()(x, mask)

    def step() -> None:
        _gradients(model, x, mask, bf16)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)

    rates = {"forward events/s": _rate(forward, batch, place), "training events/s": _rate(step, batch, place)}
    return rates | _memory(place)


def older(place: Place, batch: int) -> Result:
    """The plain implementation of the reference encoder (`benchmarks/model.py`) in float32, and ours in both types."""
    import torch
    from model import both, encoders, events, forward

    fast, plain = encoders("small" if place.quick else "reference")
    x, mask = (tensor.to(place.device) for tensor in events(batch))
    found: dict[str, float] = {}
    for name, model, bf16 in (
        ("plain", plain.on(place.device), False),
        ("ours", fast.to(place.device), False),
        ("ours bf16", fast, True),
    ):
        for what, make in (("forward", forward), ("training", both)):
            if place.device == "cpu":
                run = make(model, x, mask, bf16)
            else:
                run = _autocast(make(model, x, mask, False), bf16)
            model.train(what == "training")
            found[f"{name}, {what} events/s"] = _rate(run, batch, place)
    ratio = found["ours bf16, training events/s"] / found["plain, training events/s"]
    found["times as fast in training"] = round(ratio, 2)
    return found | {"torch": torch.__version__} | _memory(place)


def command(place: Place, name: str, batch: int, *words: str) -> Result:
    """`xec train` for two epochs: events/s of the second, the share of time spent waiting for data, peak memory."""
    run, data = place.folder / name, place.folder / "data"
    shutil.rmtree(run, ignore_errors=True)
    options = ["--data", data, "--val", data, "--epochs", "2", "--batch-size", batch, "--set", "train.log_every=5"]
    options += ["--set", f"data.device={place.device}", "--set", "tracking.mlflow=false", "--set", "data.num_threads=4"]
    _xec("train", *words, *options, "--set", "checkpoint.save_artifacts=false", "--out", run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(record for record in reversed(records) if record["kind"] == "epoch")
    return {key.removeprefix("system/"): value for key, value in last.items() if key.startswith("system/")}


def infer(place: Place, run: str, *options: str) -> Result:
    """`xec infer` with a trained network, from shards to ROOT."""
    output = place.folder / f"{run}.root"
    output.unlink(missing_ok=True)
    told = _xec("infer", place.folder / run, place.folder / "data", "--output", output, *options)
    return {"log": next(line.strip() for line in told.splitlines() if " events in " in line)}


def onnx(place: Place) -> Result:
    """The exported network by onnxruntime on the device, against the same on the CPU."""
    import numpy as np

    from shards.normalization import denormalize
    from shards.opening import open_dataset
    from xectrain.inference.load import load
    from xectrain.inference.regressor import Predictor

    file = place.folder / "model.onnx"
    _xec("export", place.folder / "small", "--output", file)
    data = open_dataset(place.folder / "data")
    npho, times = denormalize(data.read(np.arange(16))[0], data.normalization)
    found = []
    for device in ("cpu", place.device):
        model = load(file, device=device)
        assert isinstance(model, Predictor)
        found.append(model.predict(npho, times))
    largest = max(
        float(np.nanmax(np.abs(found[1][c] - v) / (np.nanstd(v) + 1e-9)))
        for c, v in found[0].items()
        if v.dtype != bool and np.isfinite(v).any()
    )
    return {"largest difference, in spreads": largest, "ok": largest < 0.01}


def steps(place: Place) -> dict[str, Callable[[Place], Result]]:
    """Every step by name, in order."""
    found: dict[str, Callable[[Place], Result]] = {"device": about, "DALI delivery": delivery}
    found |= {"step float32": step_float32, "step bf16": step_bf16, "step NCCL": step_nccl}
    size, tasks = place.sizes[0], ("--tasks", TASKS)
    for name in place.networks:
        found[f"train {name}"] = _step(command, name, size, "--preset", name, *tasks)
    for name in ("mae", "inpaint"):
        found[f"train {name}"] = _step(command, name, size, "--mode", name, "--preset", "small")
    found |= {"infer": _step(infer, "small"), "fill": _step(infer, "inpaint")}
    found[f"older network {size}"] = _step(older, size)
    for batch in place.sizes:
        for threads in (2, 4, 8):
            found[f"loading {batch} by {threads} threads"] = _step(loading, batch, threads)
        for name in place.networks:
            for precision in ("fp32", "bf16"):
                found[f"network {name} {batch} {precision}"] = _step(network, name, batch, precision, None)
    found |= {"ONNX": onnx, "step compiled": step_compiled, "step CUDA graphs": step_graphs}
    for name in place.networks if place.device == "cuda" else ():
        for mode in ("default", "reduce-overhead"):
            found[f"network {name} {size} bf16 compiled {mode}"] = _step(network, name, size, "bf16", mode)
    return found


def _step(run: Callable[..., Result], *arguments: object) -> Callable[[Place], Result]:
    return lambda place: run(place, *arguments)


# -- what steps share -----------------------------------------------------------------------------------------------


def _loader(place: Place, batch: int, device: str, copies: int = 1, threads: int = 4) -> Any:
    from pipelines import open_loader
    from shards.opening import open_dataset
    from shards.plan import View, epoch_order, rank_plan

    data = open_dataset(place.folder / "data")
    views = [View(data, data.rows())] * copies
    return open_loader(views, rank_plan(epoch_order(views, 0, 0), batch, 0, 1), device=device, threads=threads)


def _network(name: str, batch: int, device: str) -> Any:
    """(regressor, x_BN2, mask_BN), the same numbers on every device."""
    import torch

    from shards.normalization import preset
    from xectrain.config.networks import PRESETS
    from xectrain.models.regressor import Regressor

    torch.manual_seed(0)
    config = PRESETS[name]
    quiet = config.encoder.model_copy(update={"fusion_dropout": 0.0})  # dropout draws other numbers on each device
    config = config.model_copy(
        update={"encoder": quiet, "regressor": config.regressor.model_copy(update={"head_dropout": 0.0})}
    )
    model = Regressor(config, TASKS.split(","), preset("standard"))
    with torch.no_grad():  # no layer is zero, as last ones are at the beginning: every gradient counts
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    x = torch.rand(batch, 4760, 2)
    return model.to(device), x.to(device), torch.zeros(batch, 4760, dtype=torch.bool, device=device)


def _gradients(model: Any, x: Any, mask: Any, bf16: bool) -> list[Any]:
    """Gradients of the sum of the mean squares of all outputs, in the order of the parameters; zeros where none."""
    import torch

    model.train().zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        found = model(x, mask)
    sum((value.float().square().mean() for value in found.values()), start=torch.zeros((), device=x.device)).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def _step_against_cpu(place: Place, bf16: bool, compile_mode: str | None = None) -> Result:
    """Relative difference of the gradients of one step from those of the CPU in float32, and of a shorter batch's
    outputs after it: whatever was compiled must take tails, too."""
    import torch

    from xectrain.compute import compile_in_place

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, x, mask = _network("small", 16, "cpu")
    expected = torch.cat([g.flatten() for g in _gradients(model, x, mask, bf16=False)])
    with torch.no_grad():
        tail = torch.cat([v.flatten() for v in model.eval()(x[:5], mask[:5]).values()])
    model, x, mask = _network("small", 16, place.device)
    if compile_mode:
        compile_in_place(model, compile_mode)
    for _ in range(3):  # graphs are recorded in the second call
        gradients = _gradients(model, x, mask, bf16)
    found = torch.cat([g.flatten() for g in gradients]).cpu()
    with torch.no_grad(), torch.autocast(place.device, torch.bfloat16, enabled=bf16):
        outputs = torch.cat([v.float().flatten() for v in model.eval()(x[:5], mask[:5]).values()]).cpu()
    error = float((found - expected).norm() / expected.norm())
    of_tail = float((outputs - tail).norm() / tail.norm().clamp(min=1e-6))
    limit = 0.1 if bf16 else 1e-3
    return {"gradients differ by": error, "a tail by": of_tail, "limit": limit, "ok": max(error, of_tail) < limit}


def _autocast(run: Callable[[], Any], bf16: bool) -> Callable[[], None]:
    import torch

    def inside() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            run()

    return inside


def _rate(run: Callable[[], Any], events: int, place: Place) -> float:
    """Events/s over about a second, the device's queue emptied before and after."""
    import torch

    def seconds(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            run()
        if place.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds(3)  # finds its kernels and its memory, and records what is replayed from then on
    calls = 2 if place.quick else min(50, max(2, round(1 / seconds(1))))
    return round(events * calls / seconds(calls), 1)


def _memory(place: Place) -> Result:
    import torch

    return {"peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if place.device == "cuda" else {}


def _xec(*words: object) -> str:
    """What a command says."""
    done = subprocess.run([sys.executable, "-m", "xec", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout + done.stderr


# -- the run --------------------------------------------------------------------------------------------------------


def run_all(place: Place, out: Path, only: Collection[str] = ()) -> list[dict[str, Any]]:
    """Run every step that `out` does not hold yet; the results, each of which is in `out` when the next step begins.

    Args:
        only: names of steps; empty: all.
    """
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    results = [result for result in done if "error" not in result]
    known = {result["step"] for result in results}
    for name in steps(place):
        if name not in known and (not only or name in only):
            results.append(_run_apart(place, name))
            with out.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(_told(results[-1]), flush=True)
    return results


def _run_apart(place: Place, name: str) -> dict[str, Any]:
    """A step's result, from a process of its own, which is forked from one that has imported what all need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(place, name, theirs))
    began = time.perf_counter()
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(STEP_SECONDS) else {"error": f"took more than {STEP_SECONDS} s"}
    except EOFError:
        process.join()
        found = {"error": f"ended with status {process.exitcode}"}
    process.kill()
    return {"step": name, "seconds": round(time.perf_counter() - began, 1), **found}


def _work(place: Place, name: str, pipe: Connection) -> None:
    try:
        found = dict(steps(place)[name](place))
    except Exception as error:  # noqa: BLE001  whatever it is, it is the result
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    pipe.send(found)


def _told(result: Mapping[str, Any]) -> str:
    facts = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items() if k != "step")
    return f"| {result['step']} | {facts} |"


def make_data(folder: Path, events: int) -> None:
    """A dataset of toy events in `folder/data`, unless it is there."""
    if not (folder / "data" / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _xec("toymc", "--events", events, "--energy", "flat", "-j", "8", "--runs", "8", "--out", folder / "toy.root")
        _xec("ingest", "root2shards", folder / "toy.root", "--out", folder / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="results; continued if it is there")
    parser.add_argument("--folder", type=Path, default=None, help="where data are made, and kept (default: temporary)")
    parser.add_argument("--only", default="", help="steps, comma-separated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(options.device, options.quick, (options.folder or Path(temporary)).absolute())
        make_data(place.folder, 64 if place.quick else 16384)
        results = run_all(place, options.out, [name for name in options.only.split(",") if name])
    failed = [result["step"] for result in results if "error" in result or not result.get("ok", True)]
    print(f"{len(results)} steps, {len(failed)} of them failed ({', '.join(failed)}); results are in {options.out}")


if __name__ == "__main__":
    main()

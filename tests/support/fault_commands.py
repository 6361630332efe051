"""Runs inference, evaluation, export or training with injected faults and judges what they leave; run under the
preloaded shim.

    fault_commands.py SHIM PLACE WORK infer|evaluate|export|train fail|kill STRIDE

PLACE holds a run `regress`, `a.root` with events and the dataset `data`. Prints one line per fault that leaves
something wrong, and at the end `calls=N tried=M`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from shards.base import XecError
from shards.base.cli import error_line
from support.fault_driver import Faults
from support.training import config, curve
from xectrain.checkpoint import newest_valid
from xectrain.evaluation.evaluate import evaluate
from xectrain.evaluation.results import EvaluationOptions
from xectrain.exporting import graph
from xectrain.exporting.gate import GateEvents
from xectrain.exporting.modules import module_for
from xectrain.inference.infer import Request, infer
from xectrain.inference.load import load
from xectrain.inference.sources import open_parts
from xectrain.training import session
from xectrain.training.runfolder import RunFolder


@dataclass(frozen=True)
class Job:
    """A command on small data."""

    run: Callable[[Path], object]
    """Does it, into a folder."""
    result: Callable[[Path], Any]
    """What it left under final names; None: nothing that looks complete."""


def inference(place: Path, work: Path) -> Job:
    model, parts = load(place / "regress", device="cpu", precision="fp32"), open_parts([place / "a.root"])

    def rows(out: Path) -> Any:
        if not (out / "p.root").exists():
            return None
        with uproot.open(out / "p.root") as file:
            return {name: values.tolist() for name, values in file["predictions"].arrays(library="np").items()}

    return Job(lambda out: infer(model, parts, out / "p.root", Request(columns=())), rows)


def evaluation(place: Path, work: Path) -> Job:
    model, parts = load(place / "regress", device="cpu", precision="fp32"), open_parts([place / "a.root"])
    options = EvaluationOptions(baselines=False, resamples=2)

    def files(out: Path) -> Any:
        if not (out / "report" / "metrics.json").exists():
            return None
        names = sorted(
            p.relative_to(out).as_posix() for p in out.rglob("*") if p.suffix != ".part" and p.name != ".lock"
        )
        return names, json.loads((out / "report" / "metrics.json").read_text())

    return Job(lambda out: evaluate(model, parts, out / "report", options), files)


def exporting(place: Path, work: Path) -> Job:
    """The graph is made once: what is tried is how it is published."""
    model: Any = load(place / "regress", device="cpu", precision="fp32")
    module = module_for(model.mode, model.facts)
    made = work / "made.onnx"
    if not made.exists():
        made.write_bytes(graph.onnx_bytes(module))
    graph.onnx_bytes = lambda _: made.read_bytes()
    rng = np.random.default_rng(0)
    events = GateEvents.spoiled(rng.exponential(300, (2, 4760)), rng.uniform(0, 1e-7, (2, 4760)))

    def published(out: Path) -> Any:
        return (out / "m.onnx").read_bytes() if (out / "m.onnx").exists() else None

    return Job(lambda out: graph.export(module, out / "m.onnx", events), published)


def training(place: Path, work: Path) -> Job:
    from shards.opening import open_dataset

    options = {"train__epochs": 1, "checkpoint__every": 3, "data__epoch_events": 20}
    settings = config(open_dataset(place / "data"), **options)

    def losses(out: Path) -> Any:
        run = RunFolder(out / "run")
        if any((out / "run").glob("checkpoint_*.pt")) and newest_valid(out / "run") is None:
            return "checkpoints, and none of them valid"
        if run.read_state().state != "done":
            return None
        return [{key: f"{value:.4g}" for key, value in record.items() if "/" in key} for record in curve(out / "run")]

    return Job(lambda out: session.train(settings, out / "run"), losses)


JOBS = {"infer": inference, "evaluate": evaluation, "export": exporting, "train": training}


def alone(work: Callable[[], Any]) -> Any:
    """What a forked child of this process returns; None if it was killed.

    This process itself only imports: pools of threads that it had would be dead in every child.
    """
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            pickle.dump(work(), answer)
            answer.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        if not os.WIFSIGNALED(status):
            return pickle.load(answer)
    return None


def counted(job: Callable[[], Job], faults: Faults, out: Path) -> tuple[int, Any]:
    """Calls of an undisturbed run, and its result."""
    command = job()
    faults.arm(out, 0, Faults.COUNT)
    command.run(out)
    calls = faults.disarm()
    return calls, command.result(out)


def disturbed(job: Callable[[], Job], faults: Faults, out: Path, number: int, mode: int) -> str:
    """Let call `number` fail, or kill this process there; what the user would think wrong, or nothing.

    The complaint about a failure must be one of ours, or of the system about a file.
    """
    command = job()
    faults.arm(out, number, mode)
    try:
        command.run(out)
    except (XecError, OSError) as error:
        return "" if error_line(error) else f"raised {type(error).__name__}: {error}, which is a traceback for the user"
    except Exception as error:  # noqa: BLE001  what comes out is the finding
        return f"raised {type(error).__name__}: {error}"
    finally:
        faults.disarm()
    return "" if command.result(out) is not None else "a failure went unnoticed, and the result is not there"


def left(job: Callable[[], Job], out: Path) -> Any:
    return job().result(out)


def again(job: Callable[[], Job], out: Path) -> tuple[str, Any]:
    """Run once more where a fault has been: a complaint or nothing, and the result."""
    command = job()
    try:
        command.run(out)
    except (XecError, OSError) as error:
        return f"cannot be run again: {error}", None
    return "", command.result(out)


def judged(job: Callable[[], Job], faults: Faults, out: Path, number: int, kind: str, reference: Any) -> str:
    """What is wrong with a fault at one call, or nothing."""
    mode = {"fail": Faults.FAIL, "kill": Faults.KILL}[kind]
    complaint = alone(lambda: disturbed(job, faults, out, number, mode))
    if kind == "kill" and complaint is not None:
        return "was not killed"
    if complaint:
        return str(complaint)
    if (state := alone(lambda: left(job, out))) not in (None, reference):
        return f"left something else: {str(state)[:300]}"
    complaint, result = alone(lambda: again(job, out))
    if not complaint and result != reference:
        return f"running again gives another result: {str(result)[:300]}"
    return str(complaint)


def main(shim: str, place: Path, work: Path, name: str, kind: str, stride: int) -> None:
    faults, tried = Faults(shim), 0

    def job() -> Job:
        return JOBS[name](place, work)

    (work / "reference").mkdir()
    calls, reference = alone(lambda: counted(job, faults, work / "reference"))
    out = work / "out"
    for number in range(1, calls + 1, stride):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if wrong := judged(job, faults, out, number, kind, reference):
            print(f"call {number}: {wrong}", flush=True)
        tried += 1
    print(f"calls={calls} tried={tried}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]))

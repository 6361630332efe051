"""`xec demo`: the whole chain on toy data, each step an ordinary `xec` command that can be repeated by hand.

Every command is idempotent, so a demo that was killed continues where it was, and a finished one says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shards.base import XecError, publish_json

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec demo

  xec demo --out /tmp/demo --events 60000 --minutes 30
"""


TRAINING_RUNS = 20
"""Each run has its own response: from many, the network learns what they have in common."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    title: str
    events: int
    """Events it works on, for the rate; 0: a rate would say nothing."""
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return " ".join(["xec", *self.arguments])


@app.command(epilog=EPILOG)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path("demo"),
    events: Annotated[
        int, typer.Option("--events", min=20, help="Number of training events; the other samples are in proportion.")
    ] = 20_000,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="Minutes of training.")] = 5.0,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Train for this many passes instead.")] = None,
    preset: Annotated[str, typer.Option("--preset", help="Network size: reference, small, large or tiny.")] = "small",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the toy data and of the training.")] = 1,
) -> None:
    """Simulate toy events, convert, train, evaluate and predict, in minutes on two cores."""
    length = ("--minutes", f"{minutes:g}") if epochs is None else ("--epochs", str(epochs))
    plan = steps(out, events, length, preset, seed)
    record = out / "stages.json"
    seconds: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    already = all(step.title in seconds for step in plan)
    for number, step in enumerate(plan, 1):
        typer.secho(f"\n[{number}/{len(plan)}] {step.title}\n$ {step.command}", bold=True)
        started = time.monotonic()
        sys.stdout.flush()
        _run(step)
        seconds.setdefault(step.title, round(time.monotonic() - started, 1))
        publish_json(record, seconds)
    _summary(out, plan, seconds, already)


def steps(out: Path, events: int, length: tuple[str, str], preset: str, seed: int) -> list[Step]:
    """The commands of the demo: training on many runs, validation and predictions on runs the network never saw.

    Args:
        length: option that says how long to train.
    """
    root, data, run = out / "root", out / "shards", out / "run"
    unseen, signal = max(20, events // 10), max(20, 3 * events // 8)
    samples = {
        "train": ("flat", events, 1, TRAINING_RUNS),
        "flat": ("flat", unseen, 101, 1),
        "signal": ("signal", signal, 201, 1),
    }
    plan = []
    for index, (name, (energy, count, first_run, runs)) in enumerate(samples.items()):
        spectrum = ("--energy", "flat", "--energy-range", "15", "65") if energy == "flat" else ("--energy", "signal")
        where = ("--first-run", str(first_run), "--runs", str(runs), "--seed", str(seed + index))
        target = ("--out", str(root / f"{name}.root"))
        plan.append(Step(f"toy {name}", count, ("toymc", "--events", str(count), *spectrum, *where, *target)))
    for name, (_, count, _, _) in samples.items():
        files = (str(root / f"{name}.root"), "--out", str(data / name))
        plan.append(Step(f"ingest {name}", count, ("ingest", "root2shards", *files)))
    plan.append(
        Step(
            "train",
            0,
            (
                *("train", "--mode", "regress", "--preset", preset, "--tasks", "angle,energy,timing,uvwFI"),
                *("--data", str(data / "train"), "--val", str(data / "flat"), *length),
                *("--batch-size", "64", "--set", "optim.lr=1e-3", "--set", "schedule.kind=onecycle"),
                *("--set", "tasks.uvwFI.weight=3", "--set", "tasks.angle.weight=0.2"),  # see docs/model.md
                *("--set", "model.encoder.fusion_layers=0", "--set", "train.precision=fp32"),  # as its table was made
                *("--set", "augment.mirror_z=0.5", "--set", "augment.mirror_y=0.5"),
                *("--set", "checkpoint.save_artifacts=false", "--set", f"train.seed={seed}", "--out", str(run)),
            ),
        )
    )
    sets = (str(data / "flat"), str(data / "signal"))
    plan.append(
        Step(
            "evaluate", unseen + signal, ("evaluate", str(run), *sets, "--toy-limit", "--out", str(out / "evaluation"))
        )
    )
    inferred = ("infer", str(run), str(root / "signal.root"), "--output", str(out / "predictions.root"))
    plan.append(Step("infer", signal, inferred))
    return plan


def _run(step: Step) -> None:
    """Run one command as a process of its own.

    Raises:
        XecError: it failed; its own message is above.
    """
    command = [sys.executable, "-m", "xec", *step.arguments]
    done = subprocess.run(command, check=False, env=os.environ)
    if done.returncode != 0:
        raise XecError(
            f"the step '{step.title}' failed with status {done.returncode}",
            remedy="see its message above; the same command continues from here",
        )


def _summary(out: Path, plan: list[Step], seconds: dict[str, float], already: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if already:
        typer.echo("\nEverything existed already. When it was made, the stages took:")
    table = Table("stage", "events", "seconds", "events/s", box=None)
    for step in plan:
        took = seconds[step.title]
        rate = f"{step.events / max(took, 0.1):.0f}" if step.events else ""
        table.add_row(step.title, str(step.events or ""), f"{took:.1f}", rate)
    console = Console()
    console.print()
    console.print(table)
    console.print("including the start-up of each command", style="dim")
    for what, where in (
        ("ROOT files", out / "root"),
        ("shard datasets", out / "shards"),
        ("training run", out / "run"),
        ("report", out / "evaluation" / "report.html"),
        ("predictions", out / "predictions.root"),
    ):
        console.print(f"{what:15} {where}", soft_wrap=True, highlight=False)

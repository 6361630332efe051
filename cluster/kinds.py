"""What each kind of campaign consists of: its steps, the `xec` commands in them, and their checks."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.grid import Point
from cluster.profile import Kind
from cluster.script import Place, Shell, Step, command, quoted
from shards.base import ConfigError

ELEMENT, CPUS = Shell('"$element"'), Shell('"$SLURM_CPUS_PER_TASK"')


@dataclass(frozen=True)
class Work:
    """A campaign before it is submitted."""

    kind: Kind
    out: Path
    steps: tuple[Step, ...]
    request: dict[str, Any]
    """What was asked for, as far as the work depends on it: the same request again is the same campaign."""
    checks: tuple[tuple[str, ...], ...] = ()
    """`xec` commands that must succeed before anything is submitted."""
    input_checks: tuple[tuple[str, ...], ...] = ()
    """More of them, which need the inputs: `--no-check` leaves them out."""
    judge: Callable[[str], None] = field(default=lambda _: None)
    """Judges what the last check printed; raises ConfigError when the work cannot be done as asked."""


def ingest(place: Place, out: Path, arguments: Sequence[str], tasks: int, throttle: int | None) -> Work:
    """A conversion: what all elements must know, an array over the inputs, an array over the shards, the manifest."""
    convert = ("ingest", "root2shards", *arguments, "--out", str(out))
    share = ("--task-index", ELEMENT, "--task-count", str(tasks), "--workers", CPUS)
    words: tuple[str, ...] = ("xec", "ingest", "step", "prepare", "--out", str(out), "--workers", CPUS)
    steps = [_command("prepare", f"What must be known of all inputs of {out} before the other steps", place, words)]
    steps[0].values["notes"] = ("The plan was made by", f"  {quoted(('xec', *convert, '--step', 'plan'))}")
    for name, what in (("bucket", "inputs"), ("sort", "shards")):
        words = ("xec", "ingest", "step", name, "--out", str(out), *share)
        steps.append(_command(name, f"A share of the {what} of {out}", place, words, tasks, throttle, steps[-1].name))
    last = ("xec", "ingest", "finalize", "--out", str(out))
    steps.append(_command("finalize", f"The manifest of {out}", place.light(), last, after="sort"))

    def judge(printed: str) -> None:
        units = _number(printed, "unit")
        if units is not None and tasks > units:
            raise ConfigError(
                "exceeds the number of units of work", item="--tasks", found=tasks, expected=f"at most {units}"
            )

    request = {"arguments": list(arguments), "out": str(out), "tasks": tasks}
    return Work("ingest", out, tuple(steps), request, ((*convert, "--step", "plan"),), judge=judge)


def train(place: Place, out: Path, arguments: Sequence[str]) -> Work:
    """One training, on one node or several."""
    words = ("xec", "train", *arguments, "--out", str(out), *_own_database(arguments, Shell(shlex.quote(str(out)))))
    step = _training("train", f"Train {out}", place, words, {"choices": (), "run": shlex.quote(str(out))})
    request = {"arguments": list(arguments), "out": str(out)}
    options, look = _training_checks(place, arguments, out)
    return Work("train", out, (step,), request, checks=(options,), input_checks=(look,))


def scan(place: Place, out: Path, arguments: Sequence[str], found: Sequence[Point], throttle: int | None) -> Work:
    """One training per element, and afterwards the collection of MLflow records by a single writer."""
    run = Shell('"$run"')
    words = ("xec", "train", *arguments, Shell('"${point[@]}"'), "--out", run, *_own_database(arguments, Shell("$run")))
    choices = [(quoted(point.words), shlex.quote(str(out / point.name))) for point in found]
    step = _training(
        "scan", f"The points of {out}", place, words, {"choices": choices, "run": ""}, len(found), throttle
    )
    sync = ("xec", "track", "collect", str(out))
    title = f"The MLflow records of {out}, by a single writer"
    collect = _command("collect", title, place.light(), sync, after="scan", after_any=True)
    request = {"arguments": list(arguments), "out": str(out), "points": [point.name for point in found]}
    checks = [_training_checks(place, (*arguments, *point.words), out / point.name) for point in found]
    first = {point.config: look for point, (_, look) in zip(reversed(found), reversed(checks), strict=True)}
    return Work("scan", out, (step, collect), request, tuple(options for options, _ in checks), tuple(first.values()))


def infer(place: Place, out: Path, arguments: Sequence[str], tasks: int, throttle: int | None, merge: bool) -> Work:
    """Predictions, each element its own range of shards or files; on request merged in input order."""
    base = ("infer", *arguments)
    words = ("xec", *base, "--output", str(out), "--task-index", ELEMENT, "--task-count", str(tasks))
    steps = [_command("infer", f"A share of the predictions in {out}", place, words, tasks, throttle)]
    if merge:
        joined = ("--output", str(out / "predictions.root"), "--join", str(out), "--task-count", str(tasks))
        words = ("xec", *base, *joined)
        steps.append(_command("merge", f"One file of all predictions in {out}", place.light(), words, after="infer"))

    def judge(printed: str) -> None:
        pieces = _number(printed, "piece")
        if pieces is not None and tasks > pieces:
            raise ConfigError(
                "exceeds the number of shards and files", item="--tasks", found=tasks, expected=f"at most {pieces}"
            )

    request = {"arguments": list(arguments), "out": str(out), "tasks": tasks, "merge": merge}
    look = (*base, "--output", str(out), "--task-count", str(tasks), "--check")
    return Work("infer", out, tuple(steps), request, input_checks=(look,), judge=judge)


def evaluate(place: Place, out: Path, runs: Sequence[Path], arguments: Sequence[str], throttle: int | None) -> Work:
    """A report of each run, one per element."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError("runs with the same name would write the same report", item="--run", found=", ".join(names))
    choices = [quoted((str(run), str(out / run.name))) for run in runs]
    words = ("xec", "evaluate", Shell('"${this[0]}"'), *arguments, "--out", Shell('"${this[1]}"'))
    values = {"command": command(place, words), "choices": choices}
    step = Step("evaluate", f"Reports in {out}", place, "choices", values, len(runs), throttle)
    request = {"arguments": list(arguments), "out": str(out), "runs": [str(run) for run in runs]}
    looks = tuple(("evaluate", str(run), *arguments, "--out", str(out / run.name), "--check") for run in runs)
    return Work("evaluate", out, (step,), request, input_checks=looks)


def notebook(place: Place, out: Path, arguments: Sequence[str]) -> Work:
    """A Jupyter server on a node."""
    prefix = f"{quoted(place.prefix)} " if place.prefix else ""
    values = {"command": quoted(arguments), "prefix": prefix, "login": place.profile.login or socket.gethostname()}
    step = Step("notebook", "A Jupyter server", place, "notebook", values)
    return Work("notebook", out, (step,), {"arguments": list(arguments), "out": str(out)})


def _command(
    name: str,
    title: str,
    place: Place,
    words: Sequence[str],
    elements: int | None = None,
    throttle: int | None = None,
    after: str | None = None,
    after_any: bool = False,
) -> Step:
    values = {"command": command(place, words), "notes": ()}
    return Step(name, title, place, "command", values, elements, throttle, after, after_any, ("--requeue",))


def _training(
    name: str,
    title: str,
    place: Place,
    words: Sequence[str],
    values: dict[str, Any],
    elements: int | None = None,
    throttle: int | None = None,
) -> Step:
    ask, profile = place.ask, place.profile
    bare = Place(profile.model_copy(update={"environments": {}}), ask, None, ())  # the prefix comes before torchrun
    more = {
        "launcher": quoted((*place.prefix, "torchrun")),
        "command": command(bare, words),
        "ranks": ask.ranks or max(1, ask.gpus),
        "max_requeues": profile.max_requeues,
        "signal_seconds": profile.signal_seconds,
    }
    directives = ("--requeue", f"--signal=B:USR1@{profile.signal_seconds}")
    return Step(name, title, place, "train", values | more, elements, throttle, directives=directives)


def _training_checks(place: Place, arguments: Sequence[str], out: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(of the options alone, of the inputs, too)."""
    words = ("train", *arguments, "--out", str(out))
    return (*words, "--print-config"), (*words, "--check", "gpu" if place.ask.gpus else "cpu")


def _own_database(arguments: Sequence[str], run: Shell) -> tuple[str, ...]:
    """Every run its own MLflow database: many jobs on one SQLite file lock each other out."""
    if any("tracking.uri" in word or "tracking.mlflow" in word for word in arguments):
        return ()
    return ("--set", Shell(f'"tracking.uri=sqlite:///{run}/mlflow.db"'))


def _number(text: str, unit: str) -> int | None:
    """The number before a word in what a check printed."""
    found = re.search(rf"(\d+) {unit}s?\b", text)
    return int(found.group(1)) if found else None

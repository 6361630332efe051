"""Every command, given every wrong kind of input, says one line, exits with 1 or 2, and writes nothing.

A command is a row of `COMMANDS` that says what its input should be; every kind of input that is not that takes its
place. What is not yet so stands in `FAULTS`, each a strict expected failure, so that mending one shows.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.core import TyperGroup

import xec
from shards.base.cli import LazyGroup

if TYPE_CHECKING:
    from support.trained import Trained

DATASET, ROOT, RUN = "dataset", "root", "run"
SECONDS = 60  # an input that is waited for, such as a FIFO


@dataclass(frozen=True)
class Command:
    """A command line; `{wrong}` is where the input goes, `{out}` a folder for outputs that does not exist."""

    line: str
    takes: tuple[str, ...]
    """Kinds of input that are right there, and hence not tried."""


COMMANDS = {
    "ingest inspect": Command("ingest inspect {wrong}", (ROOT,)),
    "ingest root2shards": Command("ingest root2shards {wrong} --out {out}", (ROOT,)),
    "ingest root2shards --dead": Command("ingest root2shards {root} --dead {wrong} --out {out}", ("empty file",)),
    "ingest root2shards --channel-gain": Command("ingest root2shards {root} --channel-gain {wrong} --out {out}", ()),
    "ingest root2shards --schema": Command("ingest root2shards {root} --schema {wrong} --out {out}", ()),
    "ingest finalize": Command("ingest finalize --out {wrong}", (DATASET,)),
    "ingest dead-diff": Command("ingest dead-diff {wrong} {dead}", ("empty file",)),
    "shards info": Command("shards info {wrong}", (DATASET,)),
    "shards verify": Command("shards verify --full {wrong}", (DATASET,)),
    "shards select": Command("shards select {wrong} energy>0 --out {out}.json", (DATASET,)),
    "shards head": Command("shards head {wrong}", (DATASET,)),
    "shards merge": Command("shards merge {wrong} {dataset} --out {out}", (DATASET,)),
    "shards split": Command("shards split {wrong} --out {out}", (DATASET,)),
    "train --data": Command("train --preset tiny --data {wrong} --out {out}", (DATASET,)),
    "train --val": Command("train --preset tiny --data {dataset} --val {wrong} --out {out}", (DATASET,)),
    "train --config": Command("train --preset tiny --data {dataset} --config {wrong} --out {out}", ("empty file",)),
    "train --init-from": Command("train --preset tiny --data {dataset} --init-from {wrong} --out {out}", (RUN,)),
    "infer MODEL": Command("infer {wrong} {root} --output {out}.root", (RUN,)),
    "infer DATA": Command("infer {run} {wrong} --output {out}.root", (DATASET, ROOT)),
    "evaluate MODEL": Command("evaluate {wrong} {root} --out {out}", (RUN,)),
    "evaluate DATA": Command("evaluate {run} {wrong} --no-baselines --out {out}", (DATASET, ROOT)),
    "lines MODEL": Command("lines {wrong} {root} --energy 54.9 --out {out}", (RUN,)),
    "lines DATA": Command("lines {run} {wrong} --energy 54.9 --out {out}", (DATASET, ROOT)),
    "calibrate MODEL": Command("calibrate {wrong} {root} --line 54.9 --out {out}", (RUN,)),
    "calibrate DATA": Command("calibrate {run} {wrong} --line 54.9 --out {out}", (DATASET, ROOT)),
    "dead MODEL": Command("dead {wrong} {dataset} --dead-fraction 0.03 --out {out}", (RUN,)),
    "dead DATA": Command("dead {run} {wrong} --dead-fraction 0.03 --out {out}", (DATASET, ROOT)),
    "channels": Command("channels {wrong} --out {out}", (DATASET, ROOT)),
    "compare": Command("compare {inpaint} --data {wrong} --out {out}", (DATASET, ROOT)),
    "compare runs": Command("compare runs {wrong} --out {out}", (RUN,)),
    "compare-data": Command("compare-data {wrong} --against {dataset} --out {out}", (DATASET, ROOT)),
    "compare-data --against": Command("compare-data {dataset} --against {wrong} --out {out}", (DATASET, ROOT)),
    "export": Command("export {wrong} --output {out}.onnx", (RUN,)),
    "plots": Command("plots {wrong} --out {out}", (RUN,)),
    "display": Command("display {wrong} --entry 0 --output {out}.png", (DATASET, ROOT)),
    "model describe": Command("model describe {wrong}", (RUN,)),
    "train --check": Command("train --check cpu --preset tiny --data {wrong} --out {out}", (DATASET,)),
    "infer --check": Command("infer --check {wrong} {root} --output {out}.root", (RUN,)),
    "evaluate --check": Command("evaluate --check {run} {wrong} --out {out}", (DATASET, ROOT)),
    "cluster status": Command("cluster status {wrong}", ()),
    "cluster --site": Command("cluster render train --site {wrong} --out {out}", ()),
    "cluster sites": Command("cluster sites {wrong}", ()),
    "track collect": Command("track collect {wrong}", ()),
    "track sync": Command("track sync {wrong} --uri sqlite:///{out}.db", (RUN,)),
}


def _text(path: Path) -> None:
    path.write_text("just some words\n")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _json(path: Path) -> None:
    path.mkdir()
    for name in ("manifest.json", "metrics.json", "config.yaml", "state.json", "checkpoint_best.pt"):
        (path / name).write_text("[1, 2")


def _other_json(path: Path) -> None:
    path.mkdir()
    for name in ("manifest.json", "metrics.json", "config.yaml", "state.json", "checkpoint_best.pt"):
        (path / name).write_text('{"format": 5}')


def _tree_of_something_else(path: Path) -> None:
    import numpy as np
    import uproot

    with uproot.recreate(path) as file:
        file.mktree("tree", {"a": "int32"}).extend({"a": np.arange(3, dtype=np.int32)})


def _no_tree(path: Path) -> None:
    import uproot

    with uproot.recreate(path) as file:
        file["words"] = "nothing else"


WRONG: dict[str, Callable[[Path, Trained], object]] = {
    "missing": lambda path, trained: None,
    "empty file": lambda path, trained: path.touch(),
    "empty folder": lambda path, trained: path.mkdir(),
    "words": lambda path, trained: _text(path),
    "noise.root": lambda path, trained: path.write_bytes(bytes(range(256)) * 40),
    "cut.root": lambda path, trained: path.write_bytes(trained.roots[0].read_bytes()[:5000]),
    "no tree.root": lambda path, trained: _no_tree(path),
    "other tree.root": lambda path, trained: _tree_of_something_else(path),
    "cut.pt": lambda path, trained: path.write_bytes((trained.regress / "checkpoint_best.pt").read_bytes()[:5000]),
    "noise.pt": lambda path, trained: path.write_bytes(bytes(range(256)) * 40),
    "noise.onnx": lambda path, trained: path.write_bytes(bytes(range(256)) * 40),
    "broken documents": lambda path, trained: _json(path),
    "documents of another shape": lambda path, trained: _other_json(path),
    "FIFO": lambda path, trained: _fifo(path),
    "FIFO.root": lambda path, trained: _fifo(path),
    "socket": lambda path, trained: _socket(path),
    "folder.root": lambda path, trained: path.mkdir(),
    "link to nothing": lambda path, trained: path.symlink_to("nowhere"),
    "no UTF-8 \udcff.root": lambda path, trained: path.write_bytes(b"root"),
    "parent of a dataset": lambda path, trained: shutil.copytree(trained.data, path / "train"),
}
"""How a wrong input is made at a path."""

GIVEN: dict[str, tuple[str, Callable[[Trained], object]]] = {
    "a dataset": (DATASET, lambda trained: trained.data),
    "a ROOT file": (ROOT, lambda trained: trained.roots[0]),
    "a run": (RUN, lambda trained: trained.regress),
    "a URL": ("", lambda trained: "https://nowhere.invalid/data.root"),
    "a URL of ROOT": ("", lambda trained: "root://nowhere.invalid//data.root"),
    "an empty word": ("", lambda trained: ""),
    "a device": ("", lambda trained: "/dev/null"),
    "a name too long": ("", lambda trained: "n" * 300),
}
"""Wrong inputs that are there already, with the kind they are of."""

FAULTS: dict[tuple[str, str], str] = {}
"""What is not yet as it should be: (command, input) → what happens."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        pytest.fail(f"still waiting after {seconds} s")  # no OSError: the command would take it for its own

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def below(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below a folder, with its size and the time of its last change."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


CASES = [
    pytest.param(
        command,
        kind,
        id=f"{command}-{kind.encode('ascii', 'replace').decode()}",
        marks=[pytest.mark.xfail(strict=True, reason=FAULTS[command, kind])] if (command, kind) in FAULTS else [],
    )
    for command, row in COMMANDS.items()
    for kind in (*WRONG, *GIVEN)
    if kind not in row.takes and not (kind in GIVEN and GIVEN[kind][0] in row.takes)
]
WITHOUT_INPUT = {"demo", "toymc", "doctor"}
"""Commands that are given no data. Of `cluster`, those that submit are given none either; `ingest step` works on a
folder like `ingest finalize`."""


def test_every_command_has_a_row() -> None:
    """A command that is added is added here."""
    group = typer.main.get_command(xec.app)
    assert isinstance(group, LazyGroup)
    known = {" ".join(row.line.split()[:2]) for row in COMMANDS.values()} | {
        c.line.split()[0] for c in COMMANDS.values()
    }
    assert set(group.commands_table) - known == WITHOUT_INPUT
    for name in ("ingest", "shards", "track", "model", "compare"):
        module, _, attribute = group.commands_table[name].target.partition(":")
        inside = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        assert isinstance(inside, TyperGroup)
        assert {f"{name} {command}" for command in inside.commands} - known <= {"ingest step", "compare inpainters"}


LOG_LINE = re.compile(r"^\d\d:\d\d:\d\d (INFO|WARNING)\b")


@pytest.mark.parametrize(("command", "kind"), CASES)
def test_a_wrong_input_is_one_line(
    command: str,
    kind: str,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: Callable[[list[str]], tuple[object, list[str]]],
) -> None:
    (tmp_path / "in").mkdir()
    wrong = GIVEN[kind][1](trained) if kind in GIVEN else tmp_path / "in" / kind
    if kind in WRONG:
        WRONG[kind](tmp_path / "in" / kind, trained)
    dead = tmp_path / "in" / "dead.txt"
    dead.write_text("17\n")
    places = {
        "wrong": wrong,
        "out": tmp_path / "out",
        "root": trained.roots[0],
        "dataset": trained.data,
        "run": trained.regress,
        "inpaint": trained.inpaint,
        "dead": dead,
    }
    arguments = [word.format(**places) for word in COMMANDS[command].line.split()]
    monkeypatch.chdir(tmp_path)
    before = {folder: below(folder) for folder in (tmp_path, trained.folder)}
    with limited(SECONDS):
        status, said = ended(arguments)
    assert status in (1, 2), said
    errors = [line for line in said if not LOG_LINE.match(line)]
    assert len(errors) == 1, said
    assert errors[0].startswith("xec: error: ")
    for folder, files in before.items():
        assert below(folder) == files, "something was written"

"""A folder that holds something of another kind is refused by every command, before any work, and stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.trained import Trained

FOLDERS = {
    "a run": "config.yaml",
    "a dataset": "manifest.json",
    "a report": "metrics.json",
    "foreign files": "notes.txt",
}
"""A file in each kind of folder by which it is known."""

COMMANDS: dict[str, tuple[str, set[str]]] = {
    "root2shards": ("ingest root2shards {root} --out {out}", {"a run", "a report", "foreign files"}),
    "root2shards --split": (
        "ingest root2shards {root} --split a=0.5,b=0.5 --out {out}",
        {"a run", "a dataset", "a report"},
    ),
    "merge": ("shards merge {dataset} {dataset} --out {out}", {"a run", "a report", "foreign files"}),
    "split": ("shards split {dataset} --into a=0.5,b=0.5 --out {out}", {"a run", "a dataset", "a report"}),
    "train": ("train --data {dataset} --out {out}", {"a dataset", "a report", "foreign files"}),
    "infer": ("infer {run} {dataset} --per-file --output {out}", {"a run", "a dataset", "a report"}),
    "evaluate": ("evaluate {run} {dataset} --out {out}", {"a run", "a dataset"}),
    "lines": ("lines {run} {dataset} --energy 52.8 --out {out}", {"a run", "a dataset"}),
    "dead": ("dead {run} {dataset} --dead-fraction 0.1 --out {out}", {"a run", "a dataset"}),
    "channels": ("channels {dataset} --out {out}", {"a run", "a dataset"}),
    "compare-data": ("compare-data {dataset} --against {dataset} --out {out}", {"a run", "a dataset"}),
    "compare runs": ("compare runs {run} --out {out}", {"a run", "a dataset", "a report", "foreign files"}),
}
"""A command's line, and the kinds of folder that it must not write into."""


@pytest.mark.parametrize(
    ("command", "kind"), [(command, kind) for command, (_, kinds) in COMMANDS.items() for kind in sorted(kinds)]
)
def test_a_folder_of_another_kind_is_refused(
    command: str, kind: str, trained: Trained, tmp_path: Path, ended: Callable[[list[str]], tuple[object, list[str]]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / FOLDERS[kind]).write_text("{}\n")
    places = {"root": trained.roots[0], "dataset": trained.data, "run": trained.regress, "out": out}
    status, (line,) = ended([word.format(**places) for word in COMMANDS[command][0].split()])
    assert status == 1
    assert line.startswith(f"xec: error: {out}: exists, and is not a ")
    assert line.endswith(" that this command wrote; choose another output, or remove it")
    assert [item.name for item in tmp_path.rglob("*")] == ["out", FOLDERS[kind]]

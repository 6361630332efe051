"""Every study with every wrong kind of input: an error that says what to do, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic import make_dataset
from support.trained import COLUMNS, tiny_run
from typer.testing import CliRunner

from shards.base import XecError
from xectrain.cli import channels, compare, compare_data, dead, display, evaluate, lines, plots

WRONG = ("missing", "empty_folder", "text.txt", "garbage.root", "empty.root", "cut.pt")
"""What is given in place of a model or of data."""
DATA = {
    "evaluate": (evaluate.app, ("RUN", "X", "--out", "OUT")),
    "lines": (lines.app, ("RUN", "X", "--energy", "54.9", "--out", "OUT")),
    "dead": (dead.app, ("RUN", "X", "--dead-fraction", "0.1", "--out", "OUT")),
    "compare-data": (compare_data.app, ("DATA", "--against", "X", "--out", "OUT")),
    "channels": (channels.app, ("X", "--out", "OUT")),
    "display": (display.app, ("X", "--entry", "0", "--output", "OUT/e.png")),
    "plots": (plots.app, ("X", "--out", "OUT")),
}
"""Command → its app and arguments; X is the wrong input."""
MODELS = {
    "evaluate": (evaluate.app, ("X", "DATA", "--out", "OUT")),
    "lines": (lines.app, ("X", "DATA", "--energy", "54.9", "--out", "OUT")),
    "dead": (dead.app, ("X", "DATA", "--dead-fraction", "0.1", "--out", "OUT")),
    "compare": (compare.app, ("X", "--data", "DATA", "--out", "OUT")),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, `run`, and one thing of each wrong kind."""
    folder = tmp_path_factory.mktemp("wrong")
    tiny_run(folder / "run", make_dataset(folder / "data", 24, columns=COLUMNS), tasks=("energy",))
    (folder / "empty_folder").mkdir()
    (folder / "text.txt").write_text("no list of anything\n")
    (folder / "garbage.root").write_bytes(b"root" + bytes(range(256)) * 8)
    (folder / "empty.root").touch()
    (folder / "cut.pt").write_bytes((folder / "run" / "checkpoint_best.pt").read_bytes()[:5000])
    return folder


def cases(table: dict[str, tuple[object, tuple[str, ...]]], extra: str) -> list[object]:
    return [pytest.param(*table[name], wrong, id=f"{name}-{wrong}") for name in table for wrong in (*WRONG, extra)]


@pytest.mark.parametrize(("app", "arguments", "wrong"), [*cases(DATA, "run"), *cases(MODELS, "data")])
def test_one_line_and_nothing_written(place, tmp_path, app, arguments, wrong):
    named = {"X": place / wrong, "RUN": place / "run", "DATA": place / "data", "OUT": tmp_path / "out"}
    given = [str(named.get(a, tmp_path / "out" / "e.png" if a == "OUT/e.png" else a)) for a in arguments]
    if app is plots.app and wrong == "run":
        pytest.skip("a run folder is what `xec plots` takes")
    with pytest.raises(XecError) as caught:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert wrong in str(caught.value), "it names what is wrong"
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != ".lock"]
    assert written == []

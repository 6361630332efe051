"""The examples of docs/ingest.md run as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.reading.schema import load_schema
from shards.dead import read_dead
from shards.opening import open_dataset

DOC = Path(__file__).parents[2] / "docs" / "ingest.md"
APPS = {"toymc": "ingest.toymc.cli:app", "ingest": "ingest.cli:app", "shards": "shards.cli:app"}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs")
    for kind in ("text", "yaml"):
        for block in blocks(kind):
            name, _, text = block.partition("\n")
            (path / name.removeprefix("# ")).write_text(text)
    return path


def test_the_commands_do_what_the_page_says(
    folder: Path, run_command: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 13
    for command in commands:
        xec, group, *arguments = shlex.split(command)
        assert xec == "xec"
        run_command(APPS[group], *arguments)
    train, val = (open_dataset(folder / "data" / "mc" / name) for name in ("train", "val"))
    assert train.n_events + val.n_events == 80
    assert open_dataset(folder / "data" / "small").n_events == 20
    real = open_dataset(folder / "data" / "real", check="full")
    assert real.table()["run"].to_list() == [430001] * 20 + [430002] * 20
    assert {entry["sensor"] for entry in real.manifest.settings.conversion["dead"]} >= {1234, 4100}
    assert open_dataset(folder / "data" / "steps").n_events == 80
    exec(compile("\n".join(blocks("python")), str(DOC), "exec"), {})
    assert "prod_000.root 20" in capsys.readouterr().out


def test_the_files_of_the_page_are_understood(folder: Path) -> None:
    assert [entry.reason for entry in read_dead(folder / "dead.csv").entries] == ["HV tripped", "noisy"]
    schema = load_schema(str(folder / "mine.yaml"))
    assert schema.tree == "sim/rec"
    assert schema.time.unit == "ns"

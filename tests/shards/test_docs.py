"""The examples of docs/shards.md run as they stand."""

from __future__ import annotations

import gc
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from support.synthetic import make_dataset

DOC = Path(__file__).parents[2] / "docs" / "shards.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_dataset(tmp_path / "data" / "train", events=60, events_per_shard=16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(folder: Path, run_command: Callable[..., str]) -> None:
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 8
    for command in commands:
        xec, shards, *arguments = shlex.split(command)
        assert (xec, shards) == ("xec", "shards")
        run_command("shards.cli:app", *arguments)
    assert (folder / "data" / "again" / "manifest.json").read_bytes() == (
        folder / "data" / "train" / "manifest.json"
    ).read_bytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks("python"))
    exec(compile(code, str(DOC), "exec"), {})
    assert capsys.readouterr().out
    assert len(list((folder / "indexes").glob("*.idx"))) > 0
    gc.collect()  # webdataset leaves its files to the garbage collector

"""The documentation is true: its commands run, the options and files it names exist, the site builds."""

from __future__ import annotations

import contextlib
import gc
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from support.pages import (
    BLOCKS,
    NOT_RUN,
    PAGES,
    ROOT,
    blocks,
    commands,
    lines_of_commands,
    mentioned,
    not_run,
    run_page,
)
from support.synthetic import make_dataset

import xec
from shards.opening import open_dataset

if TYPE_CHECKING:
    from support.trained import Trained

DOCS = ROOT / "docs"


def run(words: list[str]) -> None:
    """`xec WORDS` in this process."""
    typer.main.get_command(xec.app)(words, standalone_mode=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gc.collect()  # webdataset leaves its files to the garbage collector


def test_ingest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page(DOCS / "ingest.md", folder, run_any)
    train, val = (open_dataset(folder / "data" / "mc" / name) for name in ("train", "val"))
    assert train.n_events + val.n_events == 80
    assert open_dataset(folder / "data" / "small").n_events == 20
    real = open_dataset(folder / "data" / "real", check="full")
    assert real.table()["run"].to_list() == [430001] * 20 + [430002] * 20
    assert {entry["sensor"] for entry in real.manifest.settings.conversion["dead"]} >= {1234, 4100}
    assert open_dataset(folder / "data" / "steps").n_events == 80
    assert "prod_000.root 20" in capsys.readouterr().out
    assert names["chunk"].npho.shape == (16, 4760)


def test_the_files_of_ingest_are_understood(folder: Path) -> None:
    from ingest.reading.schema import load_schema
    from shards.dead import read_dead

    for block in blocks(DOCS / "ingest.md"):
        if block.kind in ("text", "yaml"):
            name, _, text = block.text.partition("\n")
            (folder / name.removeprefix("# ")).write_text(text)
    assert [entry.reason for entry in read_dead(folder / "dead.csv").entries] == ["HV tripped", "noisy"]
    schema = load_schema(str(folder / "mine.yaml"))
    assert schema.tree == "sim/rec"
    assert schema.time.unit == "ns"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(folder / "data" / "train", events=60, events_per_shard=16)
    run_page(DOCS / "shards.md", folder, run_any)
    assert capsys.readouterr().out
    assert list((folder / "indexes").glob("*.idx"))
    again, first = (folder / "data" / name / "manifest.json" for name in ("again", "train"))
    assert again.read_bytes() == first.read_bytes()


def test_notebook(folder: Path, trained: Trained) -> None:
    shutil.copytree(trained.data, folder / "data" / "toy" / "val")
    shutil.copytree(trained.regress, folder / "runs" / "first")
    names = run_page(DOCS / "notebook.md", folder, run_any)
    assert len(names["prediction"]["pred_energy"]) == len(names["npho"])
    assert (folder / "event.pdf").read_bytes().startswith(b"%PDF")


# What a page of the slow test begins with: the name there, and the name where README.md was followed.
TOY = {"data/toy": "data/toy"}
FIRST = {**TOY, "runs/first": "runs/first"}
LINE = {"line.root": "line.root", "cex.root": "cex.root"}
REAL = {"runs.txt": "runs.txt", "dead.csv": "dead.csv", "real.root": "real.root", "data/real": "data/real"}
LONG = {"runs/long": "runs/first"}
SIGNAL = {"signal": "data/toy/val"}
GIVEN: dict[str, dict[str, str]] = {
    "calibration.md": {
        **{**FIRST, **LONG, **REAL, "line.root": "line.root"},
        **{"data/real": "data/real-all", "data/simulation": "data/toy/train"},
    },
    "cluster.md": {"data/mc": "data/toy", "runs/scan/a": "runs/first", "runs/scan/b": "runs/first"},
    "dead-channels.md": {
        **FIRST,
        **LONG,
        "toy.root": "toy.root",
        "signal": "data/toy/val",
        "data/train100": "data/toy/train",
    },
    "evaluation.md": FIRST,
    "fine-tuning.md": {**FIRST, **REAL},
    "lines.md": {**FIRST, **LONG, **LINE},
    "machines.md": {},
    "model.md": {**SIGNAL, "train": "data/toy/train", "flat": "data/toy/val"},
    "onnx.md": {"model.onnx": "first.onnx"},
    "real-data.md": {**FIRST, **REAL},
    "toymc.md": {},
    "training.md": TOY,
}
ELSEWHERE = ("README.md", "ingest.md", "shards.md", "notebook.md")
"""Pages with a test of their own above."""


def run_any(words: list[str]) -> None:
    """A command line of a page in this process."""
    program, *rest = words
    if program == "xec":
        run(rest)
    else:
        assert program == "python", words
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", rest)
            runpy.run_path(str(ROOT / rest[0]), run_name="__main__")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of someone who has followed README.md."""
    folder = tmp_path_factory.mktemp("readme")
    with contextlib.chdir(folder):
        run_page(ROOT / "README.md", folder, run_any)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme(followed: Path) -> None:
    for written in ("report/report.html", "comparison/metrics.json", "predictions.root", "first.onnx", "event.pdf"):
        assert (followed / written).stat().st_size > 0


@pytest.fixture(scope="module")
def all_given(followed: Path) -> Path:
    """`followed`, with what only other pages begin with: lines, and events that stand for real ones."""
    with contextlib.chdir(followed):
        for line in (
            "toymc --events 300 --energy cex --runs 6 --out cex.root",
            "toymc --events 150 --energy flat --runs 3 --first-run 430001 --seed 8 --out real.root",
            "ingest root2shards real.root --out data/real --split train=0.7,val=0.3 --split-by run",
            "ingest root2shards real.root --out data/real-all",
            "calibrate runs/first --undo",
        ):
            run(line.split())
        Path("runs.txt").write_text("real.root\n")
        Path("dead.csv").write_text("run_first,run_last,sensor,reason,kind\n,,4100,noisy,invalid\n")
    return followed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", GIVEN)
def test_every_command_of_a_page_runs(page: str, folder: Path, all_given: Path) -> None:
    for name, source in GIVEN[page].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (all_given / source).is_dir() else shutil.copy
        copy(all_given / source, folder / name)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    shape = (2, 4760)
    arrays = {"npho": np.full(shape, 100.0), "time": np.full(shape, 2e-8), "dead": np.zeros(shape, dtype=bool)}
    run_page(DOCS / page, folder, run_any, given=arrays)


def test_no_command_of_a_page_is_forgotten() -> None:
    """Each is in a block that a test runs, or in `NOT_RUN` with the reason; and nothing is there for nothing."""
    excused = set()
    for page in PAGES:
        runs = [words for block in blocks(page) for words in commands(block)]
        for words in lines_of_commands(page):
            key = not_run(page, words)
            excused.add(key)
            assert key or words in runs, f"{page.name}: make it an `sh` block: {' '.join(words)}"
            assert key or page.name in (*GIVEN, *ELSEWHERE), f"{page.name} has commands, and no test that runs them"
            assert key or words[0] in ("xec", "python"), f"{page.name}: {' '.join(words)}"
        for block in blocks(page):
            assert block.kind in BLOCKS, f"{page.name}: what does a test do with a block of {block.kind!r}?"
    assert set(NOT_RUN) <= excused, "stands in NOT_RUN, and on no page"


def parse(words: list[str]) -> None:
    """Parse a command line as `xec` does, without running it."""
    command: Any = typer.main.get_command(xec.app)
    context = command.make_context("xec", list(words), resilient_parsing=True)
    words = [*context._protected_args, *context.args]
    while words and hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        if not hasattr(command, "resolve_command"):
            command.make_context(name, words, parent=context)
        else:
            context = command.make_context(name, words, parent=context, resilient_parsing=True)
            words = [*context._protected_args, *context.args]


MENTIONED = [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in mentioned()]


@pytest.mark.parametrize("words", MENTIONED)
def test_every_command_named_exists_with_its_options(words: list[str]) -> None:
    if words and words[0] not in ("--version", "--install-completion", "--help"):
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert (page.parent / target).exists() or "://" in target, target


@pytest.mark.parametrize("page", ["architecture.md"])
def test_every_source_file_named_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:shards|ingest|pipelines|xectrain|cluster|tests|docs|recipes)/[\w./-]*|xec\.py)`", text)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src=|<link [^>]*href=)["'](?:https?:)?//""", page), "nothing is fetched from elsewhere"

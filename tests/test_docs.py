"""The documentation is true: its commands run, the options and files it names exist, the site builds."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from support.pages import PAGES, ROOT, blocks, commands, mentioned, run_page
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
    names = run_page(DOCS / "ingest.md", folder, run)
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
    run_page(DOCS / "shards.md", folder, run)
    assert capsys.readouterr().out
    assert list((folder / "indexes").glob("*.idx"))
    again, first = (folder / "data" / name / "manifest.json" for name in ("again", "train"))
    assert again.read_bytes() == first.read_bytes()


def test_notebook(folder: Path, trained: Trained) -> None:
    shutil.copytree(trained.data, folder / "data" / "toy" / "val")
    shutil.copytree(trained.regress, folder / "runs" / "first")
    names = run_page(DOCS / "notebook.md", folder, run)
    assert len(names["prediction"]["pred_energy"]) == len(names["npho"])
    assert (folder / "event.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", ["evaluation.md", "dead-channels.md", "machines.md", "calibration.md", "lines.md"])
def test_pages_about_a_trained_model(page: str, folder: Path, trained: Trained) -> None:
    shutil.copytree(trained.data, folder / "data" / "toy" / "val")
    shutil.copytree(trained.train, folder / "data" / "line")
    for run_folder, name in ((trained.regress, "first"), (trained.inpaint, "inpaint")):
        shutil.copytree(run_folder, folder / "runs" / name)
    shutil.copy(trained.roots[0], folder / "toy.root")
    run_page(DOCS / page, folder, run)


SMALLER = {"20000": ["300"], "train": ["train", "--preset", "tiny", "--epochs", "1", "--batch-size", "32"]}
"""What the README's words are replaced by, so that its examples take a minute."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "README.md"
    for block in blocks(page):
        for name, *words in commands(block):
            if name == "xec":
                run([small for word in words for small in SMALLER.get(word, [word])])
            else:
                assert name == "torchrun"  # tests/xectrain/training starts ranks
    for written in ("report/report.html", "comparison/metrics.json", "predictions.root", "first.onnx", "event.pdf"):
        assert (folder / written).stat().st_size > 0
    names = run_page(page, folder, run)
    assert len(names["prediction"]["pred_energy"]) == 3


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

"""What all tests share: toy events as a ROOT file and as the dataset that the real conversion makes of it, and one
trained run of each mode.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from typer.testing import CliRunner

from shards.base.log import OURS

if TYPE_CHECKING:
    from support.trained import Trained

# Tiny networks gain nothing from threads, and threads that wait for one another on a busy machine lose minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is not a failure of a property, and a run that passed passes again: the examples follow from the test.
# `pytest --hypothesis-profile=explore` draws others.
settings.register_profile("explore", deadline=None)
settings.register_profile("xec", deadline=None, derandomize=True)
settings.load_profile("xec")

TOY_EVENTS = 60


def run_app(target: str, *arguments: object) -> str:
    """Run a sub-command's Typer app (`module:app`) in this process; return what it printed."""
    import importlib

    module, _, name = target.partition(":")
    result = CliRunner().invoke(getattr(importlib.import_module(module), name), [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """Handlers that a command sets up go with the test: the stream that they write to is closed after it."""
    names = ("", *OURS)
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names}
    yield
    for name, (handlers, level) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], tuple[object, list[str]]]:
    """Runs `xec` as the command does, in this process: its exit status, and the lines that it wrote to stderr."""
    import xec

    def run(arguments: list[str]) -> tuple[object, list[str]]:
        monkeypatch.setattr(sys, "argv", ["xec", *arguments])
        with pytest.raises(SystemExit) as ended:
            xec.main()
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture(scope="session")
def run_command() -> Callable[..., str]:
    """`run_app`, as a fixture."""
    return run_app


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROOT file of `TOY_EVENTS` toy events on the flat spectrum, runs 1 and 2."""
    path = tmp_path_factory.mktemp("toy") / "toy.root"
    flat = ("--energy", "flat", "--energy-range", 15, 65)
    run_app("ingest.toymc.cli:app", "--events", TOY_EVENTS, *flat, "--runs", 2, "--seed", 5, "--out", path)
    return path


@pytest.fixture(scope="session")
def toy_dataset(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy_root` as a dataset of several shards."""
    out = tmp_path_factory.mktemp("shards") / "toy"
    run_app("ingest.cli:app", "root2shards", toy_root, "--out", out, "--events-per-shard", 25)
    return out


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One tiny run of each mode, and its data; read only."""
    from support.trained import Trained

    return Trained(tmp_path_factory.mktemp("trained"))

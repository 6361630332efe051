"""`--check`: a command says what it would refuse before its first event, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shards.base import ConfigError, InputError

if TYPE_CHECKING:
    from support.trained import Trained

RunCommand = Callable[..., str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(trained: Trained, *more: object) -> tuple[object, ...]:
    data = ("--data", trained.train, "--val", trained.data, "--set", "tasks.energy.enabled=true")
    return ("xectrain.cli.train:app", "--check", "cpu", "--preset", "tiny", *data, *more)


def test_what_fits_is_said_and_nothing_is_written(trained: Trained, run_command: RunCommand, tmp_path: Path) -> None:
    assert run_command(*train(trained, "--out", "new")) == (
        "new would start: 240 training events, 40 validation events\n"
    )
    told = run_command("xectrain.cli.infer:app", trained.regress, trained.data, "--output", "p.root", "--check")
    assert told == "40 events in 4 pieces (shards and files)\n"
    reports = ("xectrain.cli.evaluate:app", trained.regress)
    assert "40 events to evaluate " in run_command(*reports, trained.data, "--out", "report", "--check")
    assert "40 events to evaluate " in run_command(*reports, "--out", "report", "--check")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "nowhere"), "nowhere: there is no such dataset"),
        (("--select", "enrgy > 0"), "unknown column 'enrgy'"),
        (("--select", "energy > 99"), "no events are left for training"),
        (("--init-from", "nowhere"), "nowhere: "),
        (("--set", "augment.curriculum=nothing"), "nothing"),
    ],
)
def test_a_training_that_would_not_begin(
    trained: Trained, run_command: RunCommand, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        run_command(*train(trained, *more))


def test_a_finished_run_and_one_of_another_network(trained: Trained, run_command: RunCommand) -> None:
    given = ("xectrain.cli.train:app", "--config", trained.regress / "config.yaml", "--out", trained.regress)
    assert run_command(*given, "--check", "gpu") == f"{trained.regress} is already trained\n"
    with pytest.raises(ConfigError, match=r"model\.preset"):
        run_command(*given, "--preset", "small", "--check", "cpu")


@pytest.mark.parametrize("command", ["infer", "evaluate"])
@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ("nowhere", (), "nowhere: does not exist"),
        (None, ("--select", "enrgy > 0"), "unknown column 'enrgy'"),
    ],
)
def test_predictions_and_evaluations_that_would_not_begin(
    command: str, data: str | None, more: tuple[str, ...], message: str, trained: Trained, run_command: RunCommand
) -> None:
    out = ("--output", "p.root") if command == "infer" else ("--out", "report")
    with pytest.raises((ConfigError, InputError), match=message):
        run_command(f"xectrain.cli.{command}:app", trained.regress, data or trained.data, *out, *more, "--check")


def test_samples_and_the_data_of_classical_methods_are_looked_at(trained: Trained, run_command: RunCommand) -> None:
    given = ("xectrain.cli.evaluate:app", trained.regress, trained.data, "--out", "report", "--check")
    with pytest.raises(ConfigError, match="unknown column 'wrong'"):
        run_command(*given, "--sample", "deep=wrong > 2")
    with pytest.raises(InputError, match="nowhere: "):
        run_command(*given, "--baseline-data", "nowhere")

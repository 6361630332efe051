"""Continuing a run with other options: every change is named and acts, or is refused; nothing is recorded undone."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.training import config, curve

from shards.base import ConfigError
from shards.dataset import Dataset
from xectrain.checkpoint import LAST, PREVIOUS, read_checkpoint, write_checkpoint
from xectrain.config.tree import Config
from xectrain.training import session
from xectrain.training.changes import changes, completed
from xectrain.training.runfolder import RunFolder


@pytest.fixture
def halfway(undisturbed: Path, tmp_path: Path) -> Path:
    """The undisturbed run after its first epoch."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(undisturbed / PREVIOUS, run / LAST)
    shutil.copy(undisturbed / "metrics.jsonl", run)
    assert read_checkpoint(run / LAST)["position"]["epoch"] == 1
    return run


def test_every_change_is_named_with_both_values_and_acts(
    dataset: Dataset, undisturbed: Path, halfway: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = config(dataset, optim__weight_decay=0.5, schedule__kind="constant", train__epochs=3, data__num_threads=1)
    with caplog.at_level(logging.INFO):
        session.train(asked, halfway)
    assert (
        "changed options from here on: data.num_threads 2 → 1, optim.weight_decay 0.0001 → 0.5, "
        "schedule.kind cosine → constant, train.epochs 2 → 3" in caplog.text
    )
    assert "the learning rate continues at 0.000571, after 0.000538" in caplog.text
    after, before = read_checkpoint(halfway / LAST), read_checkpoint(undisturbed / LAST)
    assert after["config"]["optim"]["weight_decay"] == 0.5
    name = "model.heads.energy.body.0.weight"
    assert after["model"][name].norm() < 0.999 * before["model"][name].norm()


def test_the_same_options_are_no_change(dataset: Dataset, halfway: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session.train(config(dataset), halfway)
    assert "other options" not in caplog.text
    assert "the learning rate continues" not in caplog.text


def test_an_average_begun_later_begins_from_the_weights(dataset: Dataset, halfway: Path) -> None:
    state = read_checkpoint(halfway / LAST)
    state["config"]["train"]["ema_decay"] = 0.0
    write_checkpoint(halfway / LAST, {**state, "ema": None, "ema_updates": 0})
    session.train(config(dataset, optim__lr=1e-12), halfway)
    after = read_checkpoint(halfway / LAST)
    assert all((after["ema"][name] - tensor).abs().max() < 1e-6 for name, tensor in state["model"].items())


def test_freezing_the_encoder_later_is_done_and_said(
    dataset: Dataset, halfway: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_checkpoint(halfway / LAST)["model"]
    session.train(config(dataset, optim__freeze_encoder="true"), halfway)
    assert "optim.freeze_encoder False → True" in caplog.text
    after = read_checkpoint(halfway / LAST)["model"]
    parameters = [name for name in after if name.startswith("model.encoder.") and name.endswith((".weight", ".bias"))]
    assert all(bool((after[name] == before[name]).all()) for name in parameters)
    assert not bool((after["model.heads.energy.last.weight"] == before["model.heads.energy.last.weight"]).all())


def test_what_a_run_began_from_cannot_be_changed(dataset: Dataset, undisturbed: Path, halfway: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.init_from: is not what the run began with .*expected None\)"):
        session.train(config(dataset, checkpoint__init_from=str(undisturbed)), halfway)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim__weight_decay": 0.5}, r"trained to its end with other options: optim\.weight_decay 0\.0001 → 0\.5;"),
        ({"train__seed": 4}, r"other options: train\.seed 0 → 4; use another run folder, or train longer"),
        ({"model__encoder.width": 256}, r"model\.encoder\.width 128 → 256"),
    ],
)
def test_a_finished_run_is_not_taken_for_another(
    dataset: Dataset, undisturbed: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        session.train(config(dataset, **change), undisturbed)


def test_options_that_an_older_version_did_not_know_had_their_default() -> None:
    stored = Config().model_dump(mode="json")
    del stored["train"]["minutes"], stored["tracking"]["patience_s"]
    stored["optim"]["forgotten"] = 1
    assert changes(completed(stored), Config()) == []
    asked = Config.model_validate({"train": {"minutes": 5}, "augment": {"pattern_dropout": 0.5, "patterns": ["a"]}})
    assert [str(change) for change in changes(completed(stored), asked)] == [
        "train.minutes None → 5",
        "augment.pattern_dropout 0 → 0.5",
        "augment.patterns [] → ['a']",
    ]


def test_data_is_found_from_any_folder(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(dataset.path.parent)
    relative = Config.model_validate(
        {
            **config(dataset, train__epochs=1).model_dump(),
            "data": {"train": ["a"], "val": ["./a"], "batch_size": 4},
        }
    )
    session.train(relative, tmp_path / "run")
    stored = read_checkpoint(tmp_path / "run" / LAST)["config"]["data"]
    assert [entry["path"] for entry in (*stored["train"], *stored["val"])] == [str(dataset.path)] * 2
    monkeypatch.chdir(tmp_path)
    elsewhere = os.path.relpath(dataset.path, tmp_path)
    data = {"train": [elsewhere], "val": [elsewhere], "batch_size": 4}
    with caplog.at_level(logging.INFO):
        session.train(Config.model_validate({**relative.model_dump(), "data": data}), tmp_path / "run")
    assert "already trained for 1 epoch" in caplog.text


def test_a_failed_start_leaves_no_folder(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no events are left for"):
        session.train(config(dataset, data__select="energy > 99"), tmp_path / "runs" / "first")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_no_run_folder(dataset: Dataset, undisturbed: Path) -> None:
    with pytest.raises(Exception, match="is an input of this command; choose another output"):
        session.train(config(dataset), dataset.path)
    assert RunFolder(undisturbed).read_state().epochs == 2
    assert len(curve(undisturbed)) == 10

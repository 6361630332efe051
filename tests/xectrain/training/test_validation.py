"""Events that have nothing to compare with are no achievement, and numbers that are not finite end nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_dataset
from support.training import BATCH, config, curve

from shards.dataset import Dataset
from xectrain.checkpoint import LAST, find_checkpoint
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.training import session
from xectrain.training.runfolder import RunFolder

Truth = dict[str, np.ndarray]


def no_truth(npho: np.ndarray, time: np.ndarray, truth: Truth) -> None:
    for name in ("energy", "u", "v", "w"):
        truth[name][:] = np.nan


def one_without_energy(npho: np.ndarray, time: np.ndarray, truth: Truth) -> None:
    truth["energy"][0] = 0.0


def no_light(npho: np.ndarray, time: np.ndarray, truth: Truth) -> None:
    npho[:] = np.nan


def no_times(npho: np.ndarray, time: np.ndarray, truth: Truth) -> None:
    time[:] = 1e10


def validated_on(dataset: Dataset, val: Dataset, **sets: Any) -> Config:
    settings = config(dataset, train__epochs=1, **sets)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"val": _entries(val)})})


def _entries(val: Dataset) -> Any:
    return load_config(options={"data": {"val": [str(val.path)]}}).data.val


def test_validation_without_truth_is_never_the_best(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = make_dataset(tmp_path / "val", events=6, first_source=5, change=no_truth)
    session.train(validated_on(dataset, val), tmp_path / "run")
    assert "6 of 6 validation events do not have any truth" in caplog.text
    assert "6 of 6 validation events do not have a truth for energy, and are not in its loss" in caplog.text
    assert "there is no validation loss, so no checkpoint is the best" in caplog.text
    assert curve(tmp_path / "run")[-1]["val/loss"] is None
    assert find_checkpoint(tmp_path / "run").name == LAST
    assert RunFolder(tmp_path / "run").read_state().best_loss is None


def test_a_logarithm_that_does_not_exist_is_no_truth(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = make_dataset(tmp_path / "val", events=6, first_source=5, change=one_without_energy)
    asked = validated_on(dataset, val, **{"tasks__energy.log_transform": "true"})
    session.train(asked, tmp_path / "run")
    assert "2 of 6 validation events do not have a truth for energy" in caplog.text
    assert np.isfinite(curve(tmp_path / "run")[-1]["val/loss"])


def test_an_infinite_validation_loss_is_never_the_best_and_ends_nothing(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def far_away(npho: np.ndarray, time: np.ndarray, truth: Truth) -> None:
        truth["energy"][:] = 1e60

    val = make_dataset(tmp_path / "val", events=6, first_source=5, change=far_away)
    session.train(validated_on(dataset, val), tmp_path / "run")
    assert (
        "the validation loss is inf, from dataset rows 0, 1, 2, 3, 4, 5 …: it never counts as the best" in caplog.text
    )
    assert RunFolder(tmp_path / "run").read_state().state == "done"
    assert find_checkpoint(tmp_path / "run").name == LAST


def test_hidden_sensors_without_light_are_no_achievement(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = make_dataset(tmp_path / "val", events=6, first_source=5, change=no_light)
    settings = load_config(
        assignments=["mode=mae", "model.preset=tiny", f"data.batch_size={BATCH}", "tracking.mlflow=false"],
        options={"data": {"train": [str(dataset.path)], "val": [str(val.path)]}, "train": {"epochs": 1}},
    )
    session.train(settings, tmp_path / "run")
    assert f"{val.path}: no sensor has a photon number in the 6 validation events checked" in caplog.text
    assert "6 of 6 validation events do not have any truth, or any hidden sensor with light" in caplog.text
    assert find_checkpoint(tmp_path / "run").name == LAST


def test_data_without_any_times_is_named(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_dataset(tmp_path / "timeless", events=8, change=no_times)
    with caplog.at_level(logging.WARNING):
        session.train(config(data, train__epochs=1), tmp_path / "run")
    assert f"{data.path}: no sensor has a time in the 8 training events checked" in caplog.text
    assert f"{dataset.path}: no sensor" not in caplog.text

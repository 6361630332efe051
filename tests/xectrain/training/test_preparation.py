"""What is said of data before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_dataset
from support.trained import COLUMNS

from shards.base import InputError
from shards.dataset import Dataset
from shards.opening import open_dataset
from shards.plan import View
from xectrain.data import TrainingData
from xectrain.modes import load_config
from xectrain.training.preparation import look_at_values, with_absolute_paths


def test_values_in_other_units_are_said_once_with_the_key_that_corrects_them(
    toy_root: Path, toy_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, run_command
) -> None:
    """Every toy column is plausible; a schema that takes GeV for MeV and seconds for ns gives what is not."""
    look_at_values(data(open_dataset(toy_dataset)))
    assert caplog.text == ""
    schema = tmp_path / "mine.yaml"
    schema.write_text(
        "extends: mc\nsensors:\n  npho: {branches: [npho]}\n"
        "  time: {branches: [relative_time], unit: s, scale: 1.0e+9, relative: [relative_time]}\n"
        "columns: [{names: [energy], branches: [energyTruth], unit: GeV, scale: 1000}]\n"
    )
    run_command("ingest.cli:app", "root2shards", toy_root, "--out", tmp_path / "d", "--schema", schema)
    caplog.clear()
    look_at_values(data(open_dataset(tmp_path / "d")))
    energy, times = sorted(r.getMessage() for r in caplog.records)
    assert "d: energyTruth (energy): 100 % of the values are implausible, such as " in energy
    assert energy.endswith(
        "(expected 0 to 1 GeV); if they are in another unit, say so in the schema's columns, names [energy], unit"
    )
    assert "d: relative times: " in times
    assert times.endswith(
        "(expected -1e-06 to 1e-06 s); if they are in another unit, say so in the schema's sensors.time.unit"
    )


def data(dataset: Dataset) -> TrainingData:
    """Trained and validated on alike: what is said is said once."""
    return TrainingData((View(dataset, np.arange(len(dataset))),), (View(dataset, np.arange(len(dataset))),))


def test_synthetic_events_without_times_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = make_dataset(tmp_path / "d", 8, columns=COLUMNS)
    look_at_values(TrainingData((View(dataset, np.arange(8)),), ()))
    assert "has a time" not in caplog.text


def test_data_behind_a_url_are_refused_as_such() -> None:
    config = load_config(options={"data": {"train": [{"path": "https://host/data"}]}})
    with pytest.raises(InputError, match=r"https:/+host/data: is a URL, inputs are local files; copy it here first"):
        with_absolute_paths(config)

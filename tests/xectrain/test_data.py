from pathlib import Path

import pytest
from support.synthetic import make_dataset

from xectrain.config.tree import DataConfig
from xectrain.data import open_training_data


def test_validating_on_training_events_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, other = (str(make_dataset(tmp_path / f"{i}", 20, first_source=2 * i).path) for i in range(2))
    config = DataConfig.model_validate({"train": [{"path": data}], "val": [{"path": data}]})
    open_training_data(config, seed=0)
    assert "20 of 20 validation events are training events of" in caplog.text
    caplog.clear()
    open_training_data(DataConfig.model_validate({"train": [{"path": data}], "val": [{"path": other}]}), seed=0)
    open_training_data(DataConfig.model_validate({"train": [{"path": data}]}), seed=0)
    assert "training events" not in caplog.text

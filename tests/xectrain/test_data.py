from collections.abc import Callable
from pathlib import Path

import pytest
from support.synthetic import make_dataset

from shards.base import ConfigError, InputError
from xectrain.config.tree import DataConfig
from xectrain.data import open_training_data


def mixture(*paths: str, **options: object) -> DataConfig:
    return DataConfig.model_validate({"train": [{"path": path} for path in paths], **options})


def test_an_event_of_two_training_sets_is_refused(
    toy_root: Path, toy_dataset: Path, run_command: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same dataset twice, the same events in other bytes; not two halves."""
    again = tmp_path / "again"
    run_command("ingest.cli:app", "root2shards", toy_root, "--out", again, "--events-per-shard", 17)
    caplog.clear()
    for twice in (toy_dataset, again):
        with pytest.raises(
            ConfigError, match=r"60 of its 60 training events are also training events of .*; remove the copies"
        ):
            open_training_data(mixture(str(toy_dataset), str(twice)), seed=0)
    open_training_data(mixture(str(toy_dataset), str(again), allow_duplicates=True), seed=0)
    assert "60 of its 60 training events are also training events of" in caplog.text
    caplog.clear()
    halves = [{"path": str(toy_dataset), "select": "run == 1"}, {"path": str(again), "select": "run == 2"}]
    open_training_data(DataConfig.model_validate({"train": halves}), seed=0)
    assert "training events of" not in caplog.text


def test_validating_on_training_events_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, other = (str(make_dataset(tmp_path / f"{i}", 20, first_source=2 * i).path) for i in range(2))
    config = DataConfig.model_validate({"train": [{"path": data}], "val": [{"path": data}]})
    open_training_data(config, seed=0)
    assert "20 of 20 validation events are also training events of" in caplog.text
    caplog.clear()
    open_training_data(DataConfig.model_validate({"train": [{"path": data}], "val": [{"path": other}]}), seed=0)
    open_training_data(DataConfig.model_validate({"train": [{"path": data}]}), seed=0)
    assert "training events" not in caplog.text


def test_training_sets_of_other_columns_are_refused_by_what_they_lack(tmp_path: Path) -> None:
    columns = {"a": ("run", "event", "energy"), "b": ("run", "event"), "c": ("run", "event", "energy", "quality")}
    paths = {
        name: str(make_dataset(tmp_path / name, 20, columns=has, first_source=2 * i).path)
        for i, (name, has) in enumerate(columns.items())
    }
    for other, found in (("b", "lacks energy"), ("c", "also has quality")):
        with pytest.raises(
            InputError, match=rf"/{other}: has other columns than .*/a \(found {found}\); convert both with"
        ):
            open_training_data(mixture(paths["a"], paths[other]), seed=0)

"""MLflow mirrors a run exactly, and nothing that happens to it stops a training."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.synthetic import make_dataset

from shards.base import ConfigError
from shards.dataset import Dataset
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.training import session
from xectrain.training.runfolder import RunFolder, read_metrics
from xectrain.training.trainer import Stopped, Trainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "a", events=16, events_per_shard=10)


def config(dataset: Dataset, **sets: Any) -> Config:
    base = {"model.preset": "tiny", "train.epochs": 2, "data.batch_size": 4, "train.log_every": 1}
    options = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    changes = {k.replace("__", "."): v for k, v in sets.items()}
    return load_config(assignments=[f"{k}={v}" for k, v in {**base, **changes}.items()], options=options)


def mirrored(store: Path, key: str) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("xec")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))


def synced(store: Path, key: str) -> list[tuple[int, float]]:
    """As `mirrored`, past MLflow's own connection to a store that was broken in this process."""
    with sqlite3.connect(store) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1,)
        return sorted(connection.execute("select step, value from metrics where key = ?", (key,)).fetchall())


def recorded(run: Path, key: str) -> list[tuple[int, float]]:
    return sorted((r["step"], r[key]) for r in read_metrics(RunFolder(run).metrics) if key in r)


def test_mlflow_has_what_the_run_folder_has(dataset: Dataset, tmp_path: Path) -> None:
    session.train(config(dataset), tmp_path / "run")
    for key in ("train/loss", "val/loss", "train/lr", "system/throughput_events_per_sec"):
        assert mirrored(tmp_path / "mlflow.db", key) == recorded(tmp_path / "run", key)
    assert len(recorded(tmp_path / "run", "train/loss")) == 8


def test_a_continued_run_has_no_repeated_and_no_missing_step(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._forward

    def forward(self: Trainer, module: Any, batch: Any, epoch: int | None) -> Any:
        if epoch is not None and self.at.global_step == 6:
            raise RuntimeError("power cut")
        return original(self, module, batch, epoch)

    monkeypatch.setattr(Trainer, "_forward", forward)
    with pytest.raises(RuntimeError, match="power cut"):
        session.train(config(dataset), tmp_path / "run")
    monkeypatch.undo()
    session.train(config(dataset), tmp_path / "run")
    steps = mirrored(tmp_path / "mlflow.db", "train/loss")
    assert [s for s, _ in steps] == list(range(1, 9))
    assert steps == recorded(tmp_path / "run", "train/loss")


def test_the_config_and_the_metrics_are_artifacts(dataset: Dataset, tmp_path: Path) -> None:
    session.train(config(dataset), tmp_path / "run")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("xec").experiment_id])
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.yaml", "metrics.jsonl"]
    stored = tmp_path / "mlartifacts" / run.info.run_id / "artifacts" / "metrics.jsonl"
    assert stored.read_bytes() == RunFolder(tmp_path / "run").metrics.read_bytes()


def test_a_new_mlflow_run_on_request(dataset: Dataset, tmp_path: Path) -> None:
    session.train(config(dataset, train__epochs=1), tmp_path / "run")
    for _ in range(2):  # the second time it has nothing to do
        session.train(config(dataset, checkpoint__new_run="true"), tmp_path / "run")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("xec").experiment_id])
    counts = sorted(len(client.get_metric_history(r.info.run_id, "train/loss")) for r in runs)
    assert counts == [4, 8]


def test_event_files_hold_each_step_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (1, 2):
        session.train(config(dataset, train__epochs=epochs, tracking__tensorboard="true"), tmp_path / "run")
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    written = [(e.step, e.value) for e in accumulator.Scalars("train/loss")]
    assert len(written) == 8
    assert dict(written) == pytest.approx(dict(recorded(tmp_path / "run", "train/loss")), rel=1e-6)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"TensorBoard is not installed; pip install"):
        session.train(config(dataset, train__epochs=3, tracking__tensorboard="true"), tmp_path / "run")


def break_store(store: Path, how: str) -> Any:
    if how == "deleted":
        store.unlink()
    elif how == "no database":
        store.write_bytes(b"not a database" * 100)
    elif how == "locked":
        connection = sqlite3.connect(store, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        return connection
    return None


@pytest.mark.parametrize("how", ["deleted", "no database", pytest.param("locked", marks=pytest.mark.slow)])
def test_whatever_happens_to_mlflow_training_goes_on(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    held: list[Any] = []
    original = Trainer._forward

    def forward(self: Trainer, module: Any, batch: Any, epoch: int | None) -> Any:
        if epoch is not None and self.at.global_step == 2 and not held:
            held.append(break_store(tmp_path / "mlflow.db", how))
        return original(self, module, batch, epoch)

    monkeypatch.setattr(Trainer, "_forward", forward)
    with caplog.at_level(logging.WARNING):
        session.train(config(dataset), tmp_path / "run")
    assert "MLflow does not answer" in caplog.text
    assert len(recorded(tmp_path / "run", "train/loss")) == 8
    if held[0] is not None:
        held[0].close()
    if how == "no database":
        (tmp_path / "mlflow.db").unlink()
    for _ in range(2):  # a process of its own: MLflow keeps the broken connection
        command = [sys.executable, "-m", "xec", "track", "sync", str(tmp_path / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "10 records are in" in done.stdout, done.stderr
    assert synced(tmp_path / "mlflow.db", "train/loss") == recorded(tmp_path / "run", "train/loss")


def test_a_store_that_cannot_be_made_is_a_warning(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path}/no/such/folder/mlflow.db"
    with caplog.at_level(logging.WARNING):
        session.train(config(dataset, train__epochs=1, tracking__uri=uri), tmp_path / "run")
    assert "MLflow does not answer" in caplog.text or (tmp_path / "no").exists()
    assert RunFolder(tmp_path / "run").read_state()["state"] == "done"


def test_a_call_after_stopping_is_the_same_mlflow_run(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    original = Trainer._step

    def stepping(self: Trainer, *arguments: Any) -> bool:
        if self.at.global_step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stepping)
    with pytest.raises(Stopped, match="SIGUSR1"):
        session.train(config(dataset), tmp_path / "run")
    monkeypatch.undo()
    session.train(config(dataset), tmp_path / "run")
    assert mirrored(tmp_path / "mlflow.db", "train/loss") == recorded(tmp_path / "run", "train/loss")

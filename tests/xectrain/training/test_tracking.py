"""MLflow mirrors a run exactly, and nothing that happens to it stops a training."""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.synthetic import make_dataset
from support.training import at_step, signalled

from shards.base import ConfigError, OutputError, locked
from shards.dataset import Dataset
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.training import session
from xectrain.training.runfolder import RunFolder, read_metrics
from xectrain.training.tracking import send_artifacts, sync
from xectrain.training.trainer import Stopped


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


def moved_store(tracked: Path, run: Path) -> Path:
    """The store of `tracked` beside its copy `run`, as if the run had always been there."""
    store = Path(shutil.copy(tracked.parent / "mlflow.db", run.parent))
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("update tags set value = ? where key = 'xec.run_folder'", (str(run.resolve()),))
    return store


def recorded(run: Path, key: str) -> list[tuple[int, float]]:
    return sorted((r["step"], r[key]) for r in read_metrics(RunFolder(run).metrics) if key in r)


@pytest.fixture(scope="module")
def tracked(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lost its power at step 6, was stopped at step 7, and was continued to its end."""
    run = tmp_path_factory.mktemp("tracked") / "run"

    def power_cut() -> None:
        raise RuntimeError("power cut")

    with at_step(6, power_cut), pytest.raises(RuntimeError, match="power cut"):
        session.train(config(dataset), run)
    with at_step(3, signalled(signal.SIGUSR1)), pytest.raises(Stopped, match="SIGUSR1"):
        session.train(config(dataset), run)
    session.train(config(dataset), run)
    return run


@pytest.mark.parametrize("key", ["train/loss", "val/loss", "train/lr", "system/throughput_events_per_sec"])
def test_mlflow_has_what_the_run_folder_has_with_no_repeated_and_no_missing_step(tracked: Path, key: str) -> None:
    assert mirrored(tracked.parent / "mlflow.db", key) == recorded(tracked, key)
    assert len(recorded(tracked, "train/loss")) == 8


def test_the_config_and_the_metrics_are_artifacts(tracked: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tracked.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("xec").experiment_id])
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.yaml", "metrics.jsonl"]
    stored = tracked.parent / "mlartifacts" / run.info.run_id / "artifacts" / "metrics.jsonl"
    assert stored.read_bytes() == RunFolder(tracked).metrics.read_bytes()


def test_a_new_mlflow_run_on_request(dataset: Dataset, tracked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tracked, tmp_path / "run")
    for _ in range(2):  # the second time it has nothing to do
        session.train(config(dataset, train__epochs=3, checkpoint__new_run="true"), run)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (new,) = client.search_runs([client.get_experiment_by_name("xec").experiment_id])
    assert len(client.get_metric_history(new.info.run_id, "train/loss")) == 12


def test_options_that_changed_are_tags_of_the_mlflow_run(dataset: Dataset, tracked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tracked, tmp_path / "run")
    store = moved_store(tracked, run)
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("xec").experiment_id
    session.train(config(dataset, train__epochs=3), run)
    (after,) = client.search_runs([experiment])
    assert (after.data.params["train.epochs"], after.data.tags["xec.now.train.epochs"]) == ("2", "3")
    assert [tag for tag in after.data.tags if tag.startswith("xec.now.")] == ["xec.now.train.epochs"]


def test_event_files_hold_each_step_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = {"tracking__tensorboard": "true", "tracking__mlflow": "false"}
    for epochs in (1, 2):
        session.train(config(dataset, train__epochs=epochs, **board), tmp_path / "run")
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    written = [(e.step, e.value) for e in accumulator.Scalars("train/loss")]
    assert len(written) == 8
    assert dict(written) == pytest.approx(dict(recorded(tmp_path / "run", "train/loss")), rel=1e-6)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"TensorBoard is not installed; pip install"):
        session.train(config(dataset, train__epochs=3, **board), tmp_path / "run")


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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "no database", "locked"])
def test_whatever_happens_to_mlflow_training_goes_on(
    dataset: Dataset, tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    run = shutil.copytree(tracked, tmp_path / "run")
    store = moved_store(tracked, run)
    held = break_store(store, how)
    longer = config(dataset, train__epochs=3)
    with caplog.at_level(logging.WARNING):
        session.train(longer, run)
    assert ("MLflow does not answer" in caplog.text) == (how != "deleted")
    assert len(recorded(run, "train/loss")) == 12
    if held is not None:
        held.close()
    if how == "no database":
        store.unlink()
    for _ in range(2):  # a process of its own: MLflow keeps the broken connection
        command = [sys.executable, "-m", "xec", "track", "sync", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "sent 15 records to" in done.stdout, done.stderr
        assert "INFO mlflow" not in done.stderr, "its own log lines"
    assert synced(store, "train/loss") == recorded(run, "train/loss")


def test_two_that_look_for_the_run_at_once_make_one(dataset: Dataset, tracked: Path, tmp_path: Path) -> None:
    """A mirror that waits for a locked store goes on in its thread, while artifacts or `xec track sync` come."""
    run = shutil.copytree(tracked, tmp_path / "run")
    settings = load_config([run / "config.yaml"])
    with (
        locked(run / ".mlflow.lock", "looking for the run in MLflow"),
        pytest.raises(OutputError, match=r"MLflow did not accept the run: .*\.mlflow\.lock: is held by process"),
    ):
        sync(RunFolder(run), settings, None)
    assert [sync(RunFolder(run), settings, None) for _ in range(2)] == [10, 10]
    assert mirrored(tmp_path / "mlflow.db", "train/loss") == recorded(run, "train/loss")


def test_a_server_that_is_gone_costs_no_more_than_was_agreed(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that takes the connection and never answers: MLflow itself would wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server, caplog.at_level(logging.WARNING):
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        asked = config(dataset, train__epochs=1, tracking__uri=uri, tracking__patience_s=0.5)
        session.train(asked, tmp_path / "run")
        assert RunFolder(tmp_path / "run").read_state().state == "done"
        assert "MLflow did not accept everything within 0.5 s; metrics.jsonl has everything and" in caplog.text
        send_artifacts(RunFolder(tmp_path / "run"), asked, None, [])
        assert caplog.messages[-1] == f"MLflow still does not answer: the files are in {tmp_path / 'run'}"


def test_a_store_that_cannot_be_made_is_a_warning(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:////dev/null/mlflow-{tmp_path.name}.db"
    with caplog.at_level(logging.WARNING):
        session.train(config(dataset, train__epochs=1, tracking__uri=uri), tmp_path / "run")
    assert "MLflow does not answer" in caplog.text
    assert RunFolder(tmp_path / "run").read_state().state == "done"
    with pytest.raises(OutputError, match=r"mlflow-.*: MLflow did not accept the run: .*; try again"):
        sync(RunFolder(tmp_path / "run"), load_config([tmp_path / "run" / "config.yaml"]), None)

"""Mirrors of the run folder: TensorBoard, and MLflow, which can be late, locked or gone while training goes on.

Only records up to a checkpoint are sent. Sending one twice changes nothing (MLflow keeps one row per run, key, step,
time and value; event files are written anew), so a continued run has no repeated and no missing step.
"""

from __future__ import annotations

import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shards.base import ConfigError
from xectrain.config.tree import Config
from xectrain.training.runfolder import RunFolder, read_metrics

logger = logging.getLogger(__name__)

FOLDER_TAG = "xec.run_folder"
BATCH = 1000
"""Metrics per request, the most that MLflow takes."""


class Mirror(ABC):
    """Takes the records of `metrics.jsonl` to another place."""

    run_id: str | None = None
    """The run's name there, for a checkpoint to remember."""

    def __init__(self) -> None:
        self._waiting: list[Mapping[str, Any]] = []

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep a record for the next `flush`."""
        self._waiting.append(record)

    def flush(self) -> None:
        """Send what was logged; called when a checkpoint holds it."""
        records, self._waiting = self._waiting, []
        self._send(records)

    @abstractmethod
    def _send(self, records: Iterable[Mapping[str, Any]]) -> None: ...

    @abstractmethod
    def finish(self, status: str) -> None:
        """The run has ended: FINISHED, FAILED or KILLED. What no checkpoint holds is not sent."""


def open_mirrors(config: Config, run: RunFolder, run_id: str | None) -> list[Mirror]:
    """The mirrors that a configuration asks for.

    Args:
        config: the run's configuration.
        run: its folder.
        run_id: the MLflow run to continue; None: a new one.
    """
    mirrors: list[Mirror] = []
    if config.tracking.mlflow:
        mirrors.append(MlflowMirror(config, run, run_id))
    if config.tracking.tensorboard:
        mirrors.append(TensorBoardMirror(run))
    return mirrors


class TensorBoardMirror(Mirror):
    """Writes event files into the run's folder `tensorboard`, anew each time the run is started.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "TensorBoard is not installed", item="tracking.tensorboard", remedy="pip install 'xec[tensorboard]'"
            )
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))

    def _send(self, records: Iterable[Mapping[str, Any]]) -> None:
        for record, key, value in _values(records):
            self._writer.add_scalar(key, value, record["step"], record["time"])
        self._writer.flush()

    def finish(self, status: str) -> None:
        self._writer.close()


class MlflowMirror(Mirror):
    """Sends records to MLflow until it fails once; then warns, stops, and leaves the rest to `xec track sync`."""

    def __init__(self, config: Config, run: RunFolder, run_id: str | None = None) -> None:
        super().__init__()
        self.run_id = run_id
        self._run = run
        self._client: Any = None
        try:
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=tracking_uri(config, run.path))
            self.run_id = self._find(config, run) or self._create(config, run)
        except Exception as error:  # noqa: BLE001  MLflow raises its own, SQLAlchemy's and OS errors; none may stop a run
            self._give_up(error)

    @property
    def answers(self) -> bool:
        """Whether MLflow has taken everything so far."""
        return self._client is not None

    def _experiment(self, config: Config) -> str:
        name = config.tracking.experiment
        found = self._client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        store = tracking_uri(config, self._run.path).removeprefix("sqlite:///")
        files = (Path(store).parent / "mlartifacts").as_uri() if Path(store).is_absolute() else None
        return str(self._client.create_experiment(name, artifact_location=files))

    def _find(self, config: Config, run: RunFolder) -> str | None:
        """The MLflow run of this run folder, if the store has it."""
        where = f"tags.`{FOLDER_TAG}` = '{run.path.resolve()}'"
        runs = self._client.search_runs([self._experiment(config)], filter_string=where, max_results=10)
        known = [str(r.info.run_id) for r in runs]
        return self.run_id if self.run_id in known else (known[0] if known and self.run_id else None)

    def _create(self, config: Config, run: RunFolder) -> str:
        name = config.tracking.run_name or run.path.resolve().name
        tags = {FOLDER_TAG: str(run.path.resolve())}
        run_id = str(self._client.create_run(self._experiment(config), run_name=name, tags=tags).info.run_id)
        from mlflow.entities import Param

        params = [Param(key, str(value)[:500]) for key, value in _flat(config.model_dump(mode="json"))]
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])
        return run_id

    def _send(self, records: Iterable[Mapping[str, Any]]) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        metrics = [Metric(k, v, int(record["time"] * 1000), int(record["step"])) for record, k, v in _values(records)]
        try:
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        except Exception as error:  # noqa: BLE001  as above
            self._give_up(error)

    def finish(self, status: str) -> None:
        if self._client is None:
            return
        try:
            for file in (self._run.config, self._run.metrics):
                self._client.log_artifact(self.run_id, str(file))
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # noqa: BLE001  as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        logger.warning(
            "MLflow does not answer (%s); training goes on, metrics.jsonl has everything and `xec track sync` sends it",
            reason,
        )
        self._client = None


def tracking_uri(config: Config, run: Path) -> str:
    """The MLflow store of a run."""
    return config.tracking.uri or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def sync(run: RunFolder, config: Config, run_id: str | None) -> int:
    """Send a run's whole `metrics.jsonl` to MLflow, into the run it has there or a new one; return the records sent.

    Returns:
        Number of records, or -1 when MLflow did not take them (the log says why).
    """
    mirror = MlflowMirror(config, run, run_id or "any")
    records = list(read_metrics(run.metrics))
    for record in records:
        mirror.log(record)
    state = run.read_state().get("state")
    mirror.flush()
    if state in ("done", "failed"):
        mirror.finish("FINISHED" if state == "done" else "FAILED")
    return len(records) if mirror.answers else -1


def _values(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str, float]]:
    """Every metric of some records, with its record, name and value."""
    for record in records:
        for key, value in record.items():
            if "/" in key and isinstance(value, int | float):
                yield record, key, float(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs.extend(_flat(value, f"{prefix}{key}."))
        else:
            pairs.append((prefix + key, value))
    return pairs

"""Mirrors of the run folder: TensorBoard, and MLflow, which may be late, locked or gone while training goes on.

Only records up to a checkpoint are sent. Sending one twice changes nothing (MLflow keeps one row per run, key, step,
time and value; event files are written anew), so a continued run has no repeated and no missing step.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.base import ConfigError, LockedError, OutputError, locked
from xectrain.config.merge import leaves
from xectrain.config.tree import Config
from xectrain.training.background import Background
from xectrain.training.runfolder import RunFolder, read_metrics

logger = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its messages come through our log

KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""Lets MLflow open the experiment in the view of runs, not of traces."""
FOLDER_TAG = "xec.run_folder"
CHANGED_TAG = "xec.now."
"""Prefix of an option that a continued run has changed."""
ANY = "any"
"""In place of an MLflow run: whichever belongs to the run folder."""
BATCH = 1000
"""Metrics per request, the most that MLflow takes."""


class Mirror(ABC):
    """Sends records of `metrics.jsonl` to another place. Whatever it raises, training goes on."""

    name: str
    run_id: str | None = None
    """The run's name there, for a checkpoint to remember."""

    @abstractmethod
    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records; the first call makes or finds the run."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """The run has ended: FINISHED, FAILED or KILLED. What no checkpoint holds was not sent."""


class Mirrors:
    """The mirrors of a run, in a thread of their own. One that fails is warned about, and not used again."""

    def __init__(self, mirrors: Sequence[Mirror] = ()) -> None:
        self._all = tuple(mirrors)
        self._alive = list(mirrors)
        self._thread = Background("tracking") if mirrors else None

    @property
    def run_id(self) -> str | None:
        """The run's name in MLflow, if known."""
        return next((mirror.run_id for mirror in self._all if mirror.run_id), None)

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records to all."""
        self._each(lambda mirror: mirror.send(records))

    def finish(self, status: str, patience_s: float) -> None:
        """Tell all how the run ended, and wait a while for them.

        Args:
            status: FINISHED, FAILED or KILLED.
            patience_s: how long to wait [s].
        """
        self._each(lambda mirror: mirror.finish(status))
        if self._thread is not None and not self._thread.close(patience_s):
            names = " and ".join(mirror.name for mirror in self._alive)
            logger.warning("%s did not accept everything within %g s; %s", names, patience_s, LATER)

    def _each(self, call: Callable[[Mirror], None]) -> None:
        def all_of_them() -> None:
            for mirror in tuple(self._alive):
                try:
                    call(mirror)
                except Exception as error:  # noqa: BLE001  MLflow raises its own, SQLAlchemy's and OS errors
                    logger.warning("%s does not answer (%s); training goes on, %s", mirror.name, _reason(error), LATER)
                    self._alive.remove(mirror)

        if self._thread is not None:
            self._thread.submit(all_of_them)


LATER = "metrics.jsonl has everything and `xec track sync` sends it"


def open_mirrors(config: Config, run: RunFolder, run_id: str | None) -> Mirrors:
    """The mirrors that a configuration asks for.

    Args:
        config: the run's configuration.
        run: its folder.
        run_id: the MLflow run to continue (`ANY`: that of the run folder); None: a new one.

    Raises:
        ConfigError: TensorBoard is asked for but not installed.
    """
    mirrors: list[Mirror] = []
    if config.tracking.mlflow:
        mirrors.append(MlflowMirror(config, run, run_id))
    if config.tracking.tensorboard:
        mirrors.append(TensorBoardMirror(run))
    return Mirrors(mirrors)


class TensorBoardMirror(Mirror):
    """Writes event files into the run's folder `tensorboard`, anew each time the run is started.

    Raises:
        ConfigError: the package is not installed.
    """

    name = "TensorBoard"

    def __init__(self, run: RunFolder) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "TensorBoard is not installed", item="tracking.tensorboard", remedy="pip install 'xec[tensorboard]'"
            )
        self._folder = run.path / "tensorboard"
        self._writer: Any = None

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(self._folder))
        for record, key, value in _values(records):
            self._writer.add_scalar(key, value, record["step"], record["time"])
        self._writer.flush()

    def finish(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()


class MlflowMirror(Mirror):
    """Sends records to MLflow."""

    name = "MLflow"

    def __init__(self, config: Config, run: RunFolder, run_id: str | None = None) -> None:
        self.run_id = None if run_id == ANY else run_id
        self._wanted = run_id
        self._config, self._run = config, run
        self._client: Any = None

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        if self._client is None:
            self._connect()
        metrics = [Metric(k, v, int(record["time"] * 1000), int(record["step"])) for record, k, v in _values(records)]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def finish(self, status: str) -> None:
        if self._client is None:
            return
        for file in (self._run.config, self._run.metrics):
            self._client.log_artifact(self.run_id, str(file))
        self._client.set_terminated(self.run_id, status)

    def send_folders(self, folders: Sequence[Path]) -> None:
        """Send the files of folders to the run, under the folders' names."""
        self._connect()
        for folder in folders:
            self._client.log_artifacts(self.run_id, str(folder), folder.name)
        self._client.set_terminated(self.run_id, "FINISHED")

    def _connect(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=tracking_uri(self._config, self._run.path))
        name = self._config.tracking.run_name or self._run.path.resolve().name
        # Finding and making are one step: a mirror that still waits for a locked store makes its run later.
        with locked(self._run.path / ".mlflow.lock", "looking for the run in MLflow"):
            experiment = self._experiment()
            found = self._find(experiment)
            self.run_id = self._create(experiment, name) if found is None else found
        if found is not None:
            self._client.update_run(found, status="RUNNING", name=name)
            self._tag_changes(found)

    def _tag_changes(self, run_id: str) -> None:
        """Name in tags what differs from the run's parameters, which MLflow keeps as they were first given."""
        began = self._client.get_run(run_id).data.params
        for key, value in self._parameters().items():
            if key in began and began[key] != value:
                self._client.set_tag(run_id, f"{CHANGED_TAG}{key}", value)

    def _parameters(self) -> dict[str, str]:
        return {key: str(value)[:500] for key, value in leaves(self._config.model_dump(mode="json"))}

    def _experiment(self) -> str:
        name = self._config.tracking.experiment
        found = self._client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        store = tracking_uri(self._config, self._run.path).removeprefix("sqlite:///")
        files = (Path(store).parent / "mlartifacts").as_uri() if Path(store).is_absolute() else None
        return str(self._client.create_experiment(name, artifact_location=files, tags={KIND_TAG: KIND}))

    def _find(self, experiment: str) -> str | None:
        """The MLflow run of this run folder that is to be continued, if the store has it."""
        if self._wanted is None:
            return None
        where = f"tags.`{FOLDER_TAG}` = '{self._run.path.resolve()}'"
        runs = self._client.search_runs([experiment], filter_string=where, max_results=10)
        known = [str(r.info.run_id) for r in runs]
        return self._wanted if self._wanted in known else (known[0] if known else None)

    def _create(self, experiment: str, name: str) -> str:
        from mlflow.entities import Param

        tags = {FOLDER_TAG: str(self._run.path.resolve())}
        run_id = str(self._client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        params = [Param(key, value) for key, value in self._parameters().items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])
        return run_id


def tracking_uri(config: Config, run: Path) -> str:
    """The MLflow store of a run."""
    return config.tracking.uri or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def send_artifacts(run: RunFolder, config: Config, run_id: str | None, folders: Sequence[Path]) -> None:
    """Send the files made about a finished run to its MLflow run, if the run is mirrored; warns when it cannot."""
    if not config.tracking.mlflow:
        return
    mirror, work, patience_s = (
        MlflowMirror(config, run, run_id or ANY),
        Background("tracking"),
        config.tracking.patience_s,
    )
    work.submit(lambda: mirror.send_folders(folders))
    try:
        if not work.close(patience_s):
            logger.warning("MLflow did not accept everything within %g s: the files are in %s", patience_s, run.path)
    except LockedError:  # by the thread that waits for MLflow since the training began
        logger.warning("MLflow still does not answer: the files are in %s", run.path)
    except Exception as error:  # noqa: BLE001  MLflow raises its own, SQLAlchemy's and OS errors
        logger.warning("MLflow does not answer (%s): the files are in %s", _reason(error), run.path)


def sync(run: RunFolder, config: Config, run_id: str | None) -> int:
    """Send a run's whole `metrics.jsonl` to MLflow, into the run it has there or a new one; return the records sent.

    Raises:
        OutputError: MLflow did not accept them.
    """
    mirror = MlflowMirror(config, run, run_id or ANY)
    records = list(read_metrics(run.metrics))
    state = run.read_state().state
    try:
        mirror.send(records)
        if state in ("done", "failed"):
            mirror.finish("FINISHED" if state == "done" else "FAILED")
    except Exception as error:
        where = tracking_uri(config, run.path)
        raise OutputError(f"MLflow did not accept the run: {_reason(error)}", file=where, remedy="try again") from error
    return len(records)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _values(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str, float]]:
    """Every metric of some records, with its record, name and value."""
    for record in records:
        for key, value in record.items():
            if "/" in key and isinstance(value, int | float):
                yield record, key, float(value)

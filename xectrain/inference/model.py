"""What is known about a trained model, whatever file it came from, and how it is read from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from shards.base import ConfigError
from shards.normalization import Normalization
from xectrain.checkpoint import DIGEST
from xectrain.config.tree import Config, completed
from xectrain.inference.calibration import EnergyCalibration
from xectrain.modes.base import EventMode, Mode
from xectrain.targets import TargetOptions
from xectrain.workers import in_order

T = TypeVar("T")
R = TypeVar("R")

IN_RANGE = "in_training_range"
CPU_BATCH, GPU_BATCH = 128, 1024
"""Default events per forward pass. On a CPU: so many that Python, which one worker at a time may run, is a small part
of a batch, and few enough for the cache; on a GPU: what fills it."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model says about itself, whatever file it came from."""

    file: Path
    digest: str
    """SHA-256 of the file."""
    mode: str
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    """What `predict` returns, `in_training_range` left out; empty for modes that predict sensors."""
    channels: tuple[str, ...]
    """What is predicted of a sensor, out of npho and time; empty for regression."""
    normalization: Normalization
    npho_threshold: float
    """Photons below which a sensor's time counts as missing."""
    targets: TargetOptions
    """Whether `pred_timing` is relative to `time_min_used`, and at which point."""
    means: Mapping[str, float]
    """Mean of each target over the training set."""
    fingerprint: str
    """Of the training data."""
    geometry: str
    """Digest of the training data's geometry; empty where unknown."""
    code_version: str
    config: Mapping[str, Any]
    """The run's configuration."""
    calibration: EnergyCalibration | None = None
    """Calibration of the energy on lines; None: as it was trained."""

    @property
    def identity(self) -> str:
        """What determines its predictions: the file, and its calibration if it has one."""
        return self.digest if self.calibration is None else f"{self.digest}+{self.calibration.digest}"


class Model:
    """A model loaded for use."""

    facts: ModelFacts
    batch_size: int
    """Events per forward pass."""
    device: str
    """Where stored sensors should be."""

    workers: int = 1
    """Number of batches that are computed side by side."""

    def side_by_side(self, function: Callable[[T], R], batches: Sequence[T]) -> list[R]:
        """The results of `function` for each of the batches, in order."""
        return list(in_order(function, batches, max(1, min(self.workers, len(batches)))))


def checked_config(state: Mapping[str, Any], path: Path) -> Config:
    """The configuration of a checkpoint.

    Raises:
        ConfigError: this version does not understand it.
    """
    try:
        return Config.model_validate(completed(state["config"]))
    except ValidationError as error:
        problem = f"has a configuration that this version does not know: {error.errors()[0]['msg']}"
        item = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(problem, file=path, item=item, found=state["code_version"]) from None


def config_of(facts: ModelFacts) -> Config:
    """The configuration of a model's run.

    Raises:
        ConfigError: it has none (an ONNX file from elsewhere), or one that this version does not understand.
    """
    if not facts.config:
        raise ConfigError("does not say how it was trained", file=facts.file)
    return checked_config({"config": facts.config, "code_version": facts.code_version}, facts.file)


def facts_of(
    state: Mapping[str, Any], path: Path, config: Config, mode: Mode, calibration: EnergyCalibration | None = None
) -> ModelFacts:
    """The facts that a checkpoint and its mode tell."""
    return ModelFacts(
        file=path,
        digest=state[DIGEST],
        mode=mode.name,
        tasks=mode.tasks,
        columns=mode.columns,
        channels=mode.channels,
        normalization=Normalization.from_dict(state["normalization"]),
        npho_threshold=float(state["npho_threshold"]),
        targets=TargetOptions(bool(state["relative_time"]), config.tasks.timing_at),
        means=mode.means() if isinstance(mode, EventMode) else {},
        fingerprint=str(state["fingerprint"]),
        geometry=str(state["geometry"]),
        code_version=str(state["code_version"]),
        config=state["config"],
        calibration=calibration,
    )


def chosen_weights(state: Mapping[str, Any], path: Path, weights: str) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, as of `load`."""
    if weights not in ("auto", "ema", "raw"):
        raise ConfigError("there are no such weights", item="weights", found=weights, expected="auto, ema or raw")
    if weights == "ema" and not state["ema"]:
        raise ConfigError("has no moving average of the weights", file=path, remedy="use the raw weights")
    tensors: Mapping[str, Tensor] = state["model"] if weights == "raw" or not state["ema"] else state["ema"]
    return tensors

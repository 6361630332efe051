"""A trained model as a function: sensors in, physical quantities out. Evaluation, inference and notebooks all use this.

model = xectrain.inference.regressor.load("runs/energy")
found = model.predict(npho, time)          # (n, 4760) photons and seconds, straight from a ROOT file
found["pred_energy"]                       # (n,) GeV
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.base import ConfigError, InputError
from shards.normalization import Normalization, normalize
from xectrain.inference.events import Events, Stored
from xectrain.inference.model import (
    CPU_BATCH,
    GPU_BATCH,
    IN_RANGE,
    Model,
    ModelFacts,
    checked_config,
    chosen_weights,
    facts_of,
)
from xectrain.tasks import TASKS, absolute_time, output_columns

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xectrain.compute import Compute
    from xectrain.inference.sensors import Filler
    from xectrain.models.regressor import Regressor

logger = logging.getLogger(__name__)

Columns = dict[str, NDArray[Any]]
"""Column name → (n,) values."""


class Predictor(Model, ABC):
    """A regression model loaded for prediction."""

    def predict(
        self,
        npho: ArrayLike,
        time: ArrayLike,
        dead: ArrayLike | None = None,
        time_min_used: ArrayLike | None = None,
    ) -> Columns:
        """Predict from raw sensors.

        Args:
            npho: (n, 4760) or (4760,), photons; NaN, infinite or > 9e9 where a sensor is dead.
            time: same shape, s; NaN, infinite or beyond ±9e9 where there is none. Relative or absolute as in the
                training data (`facts.targets.relative_time`).
            dead: bool, same shape or (4760,): further dead sensors.
            time_min_used: (n,), s: earliest time; makes `pred_timing` absolute where the input times are relative.

        Returns:
            (n,) arrays by column: `pred_*` and `sigma_*` in canonical units (degree, GeV, ns, cm), float64, and bool
            `in_training_range`.
        """
        photons, seconds = (np.atleast_2d(np.asarray(a)) for a in (npho, time))
        if photons.ndim != 2 or photons.shape != seconds.shape or photons.shape[1] != 4760:
            raise InputError("sensors have the wrong shape", found=(photons.shape, seconds.shape), expected="(n, 4760)")
        lost = None if dead is None else np.broadcast_to(np.asarray(dead, dtype=bool), photons.shape)
        return self._in_batches(
            len(photons),
            lambda part: self._raw(photons[part], seconds[part], None if lost is None else lost[part]),
            time_min_used,
        )

    def predict_normalized(
        self, sensors: Tensor | NDArray[Any], storage: Normalization, time_min_used: ArrayLike | None = None
    ) -> Columns:
        """Predict from stored sensors, as a loader or `Dataset.read` gives them.

        Args:
            sensors: float32 (n, 4760, 2), normalized as `storage`, sentinel-marked; on any device.
            storage: normalization of the dataset.
            time_min_used: as of `predict`.
        """
        return self._in_batches(len(sensors), lambda part: self._normalized(sensors[part], storage), time_min_used)

    def predict_events(self, events: Events) -> Columns:
        """Predict a chunk from shards or ROOT."""
        sensors = events.sensors
        if isinstance(sensors, Stored):
            return self.predict_normalized(sensors.sensors, sensors.normalization, events.earliest)
        return self.predict(sensors.npho, sensors.time, sensors.dead, events.earliest)

    @abstractmethod
    def _raw(self, npho: NDArray[Any], time: NDArray[Any], dead: NDArray[np.bool_] | None) -> Columns: ...

    @abstractmethod
    def _normalized(self, sensors: Tensor | NDArray[Any], storage: Normalization) -> Columns: ...

    def _in_batches(self, count: int, run: Any, time_min_used: ArrayLike | None) -> Columns:
        parts = [run(slice(start, start + self.batch_size)) for start in range(0, count, self.batch_size)]
        if not parts:
            empty: Columns = {name: np.empty(0) for name in self.facts.columns}
            return {**empty, IN_RANGE: np.empty(0, dtype=bool)}
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if time_min_used is not None and self.facts.targets.relative_time:
            earliest = np.broadcast_to(np.asarray(time_min_used, dtype=np.float64), (count,))
            for name in joined:
                if name.startswith("pred_timing"):
                    joined[name] = absolute_time(joined[name], earliest)
        return joined


class TorchPredictor(Predictor):
    """A checkpoint's network."""

    def __init__(self, model: Regressor, facts: ModelFacts, compute: Compute, batch_size: int) -> None:
        self.model, self.facts, self.compute, self.batch_size = model, facts, compute, batch_size
        self.device = str(compute.device)

    def _raw(self, npho: NDArray[Any], time: NDArray[Any], dead: NDArray[np.bool_] | None) -> Columns:
        norm = self.facts.normalization
        lost = None if dead is None else self._tensor(dead)
        return self._normalized(normalize(self._tensor(npho), self._tensor(time), norm, dead=lost).sensors, norm)

    def _normalized(self, sensors: Tensor | NDArray[Any], storage: Normalization) -> Columns:
        import torch

        from xectrain.model_input import InputRules

        sensors_BN2 = sensors if isinstance(sensors, torch.Tensor) else self._tensor(np.asarray(sensors, np.float32))
        rules = InputRules(storage, self.facts.normalization, self.facts.npho_threshold)
        with torch.inference_mode():
            x_BN2, mask_BN = rules.apply(sensors_BN2.to(self.compute.device, non_blocking=True))
            with self.compute.autocast():
                found = self.model.predict(x_BN2, mask_BN)
            found = {name: values.float() for name, values in found.items()}
            inside = self.model.in_training_range(x_BN2, mask_BN, found)
            together = torch.stack([*found.values(), inside.float()]).cpu().numpy()
        result: Columns = {name: together[i].astype(np.float64) for i, name in enumerate(found)}
        return {**result, IN_RANGE: together[-1] > 0.5}

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        import torch

        native = values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
        if native.dtype.kind not in "fb":
            native = native.astype(np.float32)
        return torch.from_numpy(np.require(native, requirements=["C", "W"])).to(self.compute.device, non_blocking=True)


def load(
    model: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    weights: str = "auto",
    normalization: str | None = None,
    allow_cpu: bool = False,
) -> Predictor | Filler:
    """Load a model.

    Args:
        model: run folder (its best checkpoint), checkpoint file or ONNX file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`.
        batch_size: events per forward pass; None: 64 on a CPU, 1024 on a GPU.
        weights: `ema`, `raw`, or `auto`: the moving average where there is one.
        normalization: preset of the input of an ONNX file that this project did not export.
        allow_cpu: for an ONNX file: accept the CPU where a GPU was asked for and cannot be had.

    Raises:
        InputError: no such model. CorruptError: a damaged file. ConfigError: a device that is not there.
    """
    if Path(model).suffix == ".onnx":
        return _load_onnx(Path(model), device, precision, batch_size, normalization, allow_cpu)
    if normalization is not None:
        raise ConfigError("a checkpoint knows its own normalization", file=model, found=normalization)
    from xectrain.checkpoint import find_checkpoint, read_checkpoint
    from xectrain.compute import choose_compute

    path = find_checkpoint(Path(model))
    state = read_checkpoint(path)
    compute = choose_compute(device, precision, "off")
    if state["mode"] != "regress":
        from xectrain.inference.sensors import load_sensor_predictor

        return load_sensor_predictor(state, path, weights, compute, batch_size)
    network, facts = from_checkpoint(state, path, weights)
    network = network.to(compute.device).eval()
    size = batch_size or (GPU_BATCH if compute.device.type == "cuda" else CPU_BATCH)
    logger.info("%s: %s for %s", path, facts.mode, ", ".join(facts.tasks))
    return TorchPredictor(network, facts, compute, size)


def _load_onnx(
    path: Path, device: str, precision: str, batch_size: int | None, normalization: str | None, allow_cpu: bool
) -> Predictor | Filler:
    from xectrain.inference.onnx import load_onnx

    if not path.is_file():
        raise InputError("no such ONNX file", file=path)
    if precision == "bf16":
        raise ConfigError("an ONNX file is float32", file=path, item="precision", found=precision)
    return load_onnx(path, device, batch_size, normalization, allow_cpu)


def from_checkpoint(state: Mapping[str, Any], path: Path, weights: str = "auto") -> tuple[Regressor, ModelFacts]:
    """The regression network of a checkpoint on the CPU, and what is known about it.

    Args:
        state: of `checkpoint.read_checkpoint`.
        path: the file, for messages and its digest.
        weights: as of `load`.

    Raises:
        ConfigError: no such weights in it, or another mode than regression.
    """
    from xectrain.models.regressor import Regressor

    if state["mode"] != "regress":
        raise ConfigError("is not a regression model", file=path, found=state["mode"])
    tensors = chosen_weights(state, path, weights)
    config = checked_config(state, path)
    network = Regressor(config.model, config.tasks.enabled(), Normalization.from_dict(state["normalization"]))
    network.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    means = {
        column: float(network.standardization.mean(task)[k])
        for task in network.tasks
        if TASKS[task].kind != "classes" and not network.tasks[task].log_transform
        for k, column in enumerate(TASKS[task].columns)
    }
    columns = tuple(c for name, task in network.tasks.items() for c in output_columns(TASKS[name], task))
    return network, facts_of(state, path, config, tasks=tuple(network.tasks), columns=columns, means=means)

"""From a file to a model that predicts: checkpoints and ONNX files, of every mode."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.base import ConfigError, InputError
from xectrain.checkpoint import DIGEST, find_checkpoint, read_checkpoint
from xectrain.compute import choose_compute
from xectrain.inference.calibration import read_calibration
from xectrain.inference.model import CPU_BATCH, GPU_BATCH, ModelFacts, checked_config, chosen_weights, facts_of
from xectrain.inference.onnx import load_onnx
from xectrain.inference.regressor import Predictor, TorchPredictor
from xectrain.inference.sensors import SensorPredictor, TorchSensorPredictor
from xectrain.models.blocks import without_initial_weights
from xectrain.modes import find_mode
from xectrain.modes.base import EventMode, Mode, SensorMode

logger = logging.getLogger(__name__)


def load(
    model: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    weights: str = "auto",
    normalization: str | None = None,
    allow_cpu: bool = False,
    calibrated: bool = True,
) -> Predictor | SensorPredictor:
    """Load a model.

    Args:
        model: run folder (its best checkpoint), checkpoint file or ONNX file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`.
        batch_size: events per forward pass; None: 128 on a CPU, 1024 on a GPU.
        weights: `ema`, `raw`, or `auto`: the moving average where there is one.
        normalization: preset of the input of an ONNX file that this project did not export.
        allow_cpu: for an ONNX file: accept the CPU where a GPU was asked for but is unavailable.
        calibrated: apply the calibration beside a checkpoint (`xec calibrate`), if there is one.

    Raises:
        InputError: no such model. CorruptError: a damaged file. ConfigError: a device that does not exist.
    """
    if Path(model).suffix == ".onnx":
        return _load_onnx(Path(model), device, precision, batch_size, normalization, allow_cpu)
    if normalization is not None:
        raise ConfigError("is a checkpoint, which has its own normalization", file=model, found=normalization)
    path = find_checkpoint(Path(model))
    mode, facts = load_mode(read_checkpoint(path), path, weights, calibrated)
    compute = choose_compute(device, precision)
    mode = mode.to(compute.device)
    size = batch_size or (GPU_BATCH if compute.device.type == "cuda" else CPU_BATCH)
    logger.info("%s: %s of %s", path, facts.mode, ", ".join(facts.tasks or facts.channels or facts.columns))
    if isinstance(mode, SensorMode):
        return TorchSensorPredictor(mode, facts, compute, size)
    assert isinstance(mode, EventMode)
    return TorchPredictor(mode, facts, compute, size)


def load_mode(
    state: Mapping[str, Any], path: Path, weights: str = "auto", calibrated: bool = True
) -> tuple[Mode, ModelFacts]:
    """The mode of a checkpoint, on the CPU and ready to predict, and what is known about it.

    Args:
        state: of `checkpoint.read_checkpoint`.
        path: the file, for messages and its digest.
        weights: as of `load`.
        calibrated: as of `load`; other weights than those of `auto` are never calibrated.

    Raises:
        ConfigError: it has no such weights, or a mode or configuration that this version does not know.
    """
    config = checked_config(state, path)
    chosen = chosen_weights(state, path, weights)
    with without_initial_weights():
        mode = find_mode(state["mode"]).load().of_checkpoint(config, state, chosen).eval()
    found = read_calibration(path, state[DIGEST]) if calibrated and isinstance(mode, EventMode) else None
    if found is not None and weights == "raw" and state["ema"]:
        logger.warning("%s: its calibration is for the averaged weights, and is not applied", path)
        found = None
    return mode, facts_of(state, path, config, mode, found)


def _load_onnx(
    path: Path, device: str, precision: str, batch_size: int | None, normalization: str | None, allow_cpu: bool
) -> Predictor | SensorPredictor:
    if not path.is_file():
        raise InputError("there is no such ONNX file", file=path)
    if precision == "bf16":
        raise ConfigError("is an ONNX file, which computes in float32", file=path, item="precision", found=precision)
    return load_onnx(path, device, batch_size, normalization, allow_cpu)

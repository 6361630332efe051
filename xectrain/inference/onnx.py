"""Prediction with onnxruntime: our own exported files, and bare networks of the older kind."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch import Tensor

from shards.base import ConfigError, CorruptError
from shards.normalization import NPHO_THRESHOLD, preset
from xectrain.inference.events import Columns, Events
from xectrain.inference.metadata import FACTS_KEY, RUN, facts_from_metadata
from xectrain.inference.model import CPU_BATCH, GPU_BATCH, IN_RANGE, ModelFacts, config_of
from xectrain.inference.regressor import Predictor
from xectrain.inference.sensors import Floats, SensorPredictor
from xectrain.modes import find_mode
from xectrain.modes.base import SensorMode
from xectrain.modes.masking import Masker
from xectrain.targets import TargetOptions
from xectrain.tasks import ALIASES, TASKS
from xectrain.workers import workers_for

logger = logging.getLogger(__name__)

REFUSALS = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
FOREIGN_MODE = "regress"
"""The mode that a bare foreign network is taken for."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxPredictor(Predictor):
    """An ONNX file run by onnxruntime.

    Args:
        session: an `onnxruntime.InferenceSession`.
        facts: about the model; `columns` in the order predictions are returned.
        raw: whether the graph takes raw sensors (`npho`, `time`, `dead`); else one normalized tensor.
        outputs: graph output → columns it holds; several for an output of shape (N, k).
        batch_size: events per run.
    """

    def __init__(
        self, session: Any, facts: ModelFacts, raw: bool, outputs: dict[str, tuple[str, ...]], batch_size: int
    ) -> None:
        self.session, self.facts, self.raw, self.outputs, self.batch_size = session, facts, raw, outputs, batch_size
        self.inputs = {i.name for i in session.get_inputs()}
        self.device = "cpu"  # sensors go in from the host's memory
        self.workers = _workers(session)

    def _run(self, events: Events) -> Columns:
        if self.raw:
            given = events.raw()
            feed = {"npho": given.npho, "time": given.time, "dead": given.dead}
            if RUN in events.columns and RUN in self.inputs:
                return self._outputs(feed, {RUN: np.asarray(events.columns[RUN], dtype=np.float64)})
        else:
            x_BN2, _ = events.model_input(self.facts.normalization, self.facts.npho_threshold)
            feed = {self.session.get_inputs()[0].name: x_BN2.numpy()}
        return self._outputs(feed)

    def _outputs(
        self, feed: dict[str, NDArray[Any]], further: Mapping[str, NDArray[np.float64]] | None = None
    ) -> Columns:
        typed = {k: np.ascontiguousarray(v, None if v.dtype == bool else np.float32) for k, v in feed.items()}
        found = self.session.run(list(self.outputs), {**typed, **(further or {})})
        result: Columns = {}
        for columns, values in zip(self.outputs.values(), found, strict=True):
            table = values.reshape(len(values), -1)
            result.update({name: table[:, i] for i, name in enumerate(columns)})
        inside = result.pop(IN_RANGE, np.ones(len(next(iter(feed.values()))), dtype=bool))
        ordered: Columns = {name: result[name].astype(np.float64) for name in self.facts.columns}
        return {**ordered, IN_RANGE: inside.astype(bool)}


class OnnxSensorPredictor(SensorPredictor):
    """An exported inpainter or autoencoder. To it hidden sensors are dead ones."""

    def __init__(self, session: Any, facts: ModelFacts, batch_size: int) -> None:
        self.session, self.facts, self.batch_size, self.device = session, facts, batch_size, "cpu"
        self.workers = _workers(session)
        self.fills = "filled" in {output.name for output in session.get_outputs()}

    @cached_property
    def masker(self) -> Masker:  # type: ignore[override]
        """That of the run. Made when it is needed: lists of dead channels are not in the file."""
        config, mode = config_of(self.facts), find_mode(self.facts.mode).load()
        assert issubclass(mode, SensorMode)
        return mode.masks(config.masking, self.facts.normalization, config.train.seed)

    def _predicted(self, events: Events, x_BN2: Tensor, mask_BN: Tensor, hidden_BN: Tensor) -> dict[str, Floats]:
        given = events.raw()
        npho, time = (np.ascontiguousarray(a, dtype=np.float32) for a in (given.npho, given.time))
        feed = {"npho": npho, "time": time, "dead": np.ascontiguousarray(given.dead | hidden_BN.numpy())}
        names = [f"{'filled' if self.fills else 'pred'}_{channel}" for channel in self.facts.channels]
        return dict(zip(self.facts.channels, self.session.run(names, feed), strict=True))


def load_onnx(
    path: Path,
    device: str = "auto",
    batch_size: int | None = None,
    normalization: str | None = None,
    allow_cpu: bool = False,
    threads: int | None = None,
) -> OnnxPredictor | OnnxSensorPredictor:
    """Load an ONNX file.

    Args:
        device: `auto` (CUDA where onnxruntime has it), `cpu`, `cuda` or `cuda:N`.
        normalization: for a bare network that is not ours: the preset that its input is normalized with.
        allow_cpu: accept the CPU where CUDA was asked for but is unavailable.
        threads: of onnxruntime on the CPU; None: one, since batches are computed side by side.

    Raises:
        CorruptError: onnxruntime cannot read it. ConfigError: no such device, or an output that is not understood.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    session = open_session(path, device, allow_cpu, threads or 1)
    properties = session.get_modelmeta().custom_metadata_map
    if FACTS_KEY in properties:
        if normalization is not None:
            raise ConfigError("has its own normalization", file=path, item="normalization", found=normalization)
        facts, kind = facts_from_metadata(path, properties, digest)
        if facts.channels:
            return OnnxSensorPredictor(session, facts, batch_size or CPU_BATCH)
        outputs: dict[str, tuple[str, ...]] = {name: (name,) for name in (*facts.columns, IN_RANGE)}
        raw = kind == "raw"
    else:
        facts, outputs = _foreign(session, path, digest, normalization)
        raw = False
    uses_cuda = CUDA in session.get_providers()
    size = batch_size or (GPU_BATCH if uses_cuda else CPU_BATCH)
    logger.info("%s: %s by onnxruntime on %s", path, ", ".join(facts.tasks), "CUDA" if uses_cuda else "the CPU")
    return OnnxPredictor(session, facts, raw, outputs, size)


def open_session(path: Path, device: str, allow_cpu: bool = False, threads: int | None = None) -> Any:
    """A session on the provider that was asked for; onnxruntime itself would fall back with only a message.

    Raises:
        CorruptError: it is not an ONNX file, or one that onnxruntime cannot run. ConfigError: no such device here.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device {device!r} for an ONNX file", expected="auto, cpu, cuda or cuda:N")
    providers: list[Any] = [CPU]
    if kind == "cuda" or (kind == "auto" and _cuda_works()):
        providers = [(CUDA, {"device_id": number or "0"}), CPU]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except (*REFUSALS, state.NoModel, state.RuntimeException, RuntimeError, ValueError) as error:
        raise CorruptError(f"onnxruntime cannot load it: {str(error).partition(chr(10))[0]}", file=path) from None
    if len(providers) == 2 and session.get_providers()[0] != CUDA:
        if not allow_cpu:
            raise ConfigError(
                "CUDA is not available to onnxruntime here",
                file=path,
                found=", ".join(session.get_providers()),
                remedy="accept the CPU with --allow-cpu",
            )
        logger.warning("%s: CUDA is not available to onnxruntime here; running on the CPU, as allowed", path)
    return session


def _workers(session: Any) -> int:
    return workers_for("cuda" if CUDA in session.get_providers() else "cpu")


def _cuda_works() -> bool:
    """Whether the CUDA provider is compiled in and there is a device."""
    if CUDA not in onnxruntime.get_available_providers():
        return False
    return bool(torch.cuda.is_available())


def _foreign(
    session: Any, path: Path, digest: str, normalization: str | None
) -> tuple[ModelFacts, dict[str, tuple[str, ...]]]:
    """Facts about a bare network that is not ours: one (N, 4760, 2) input, outputs named after tasks or columns."""
    inputs = session.get_inputs()
    if normalization is None:
        raise ConfigError(
            "was not exported by this project, so its normalization is unknown",
            file=path,
            remedy="state it with --normalization (older models: legacy)",
        )
    if len(inputs) != 1 or list(inputs[0].shape[1:]) != [4760, 2]:
        shapes = {i.name: i.shape for i in inputs}
        raise ConfigError("has unexpected inputs", file=path, found=shapes, expected="one tensor (N, 4760, 2)")
    outputs: dict[str, tuple[str, ...]] = {}
    tasks: dict[str, None] = {}
    for output in session.get_outputs():
        name = output.name.removeprefix("pred_").removeprefix("output_")
        task = TASKS.get(ALIASES.get(name, name))
        if task is not None:
            outputs[output.name] = tuple(f"pred_{c}" for c in task.columns)
        else:
            task = next((t for t in TASKS.values() if name in t.columns), None)
            if task is None:
                continue
            outputs[output.name] = (f"pred_{name}",)
        tasks[task.name] = None
    if not outputs:
        found = ", ".join(o.name for o in session.get_outputs())
        raise ConfigError("has no output named after a task", file=path, found=found, expected=", ".join(TASKS))
    columns = tuple(c for group in outputs.values() for c in group)
    facts = ModelFacts(
        file=path,
        digest=digest,
        mode=FOREIGN_MODE,
        tasks=tuple(tasks),
        columns=columns,
        channels=(),
        normalization=preset(normalization),
        npho_threshold=NPHO_THRESHOLD[normalization],
        targets=TargetOptions(),
        means={},
        fingerprint="",
        geometry="",
        code_version="",
        config={},
    )
    return facts, outputs

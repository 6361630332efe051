"""The parity gate: onnxruntime against PyTorch on real events, before anything is published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from shards.normalization import normalize
from xectrain.exporting.modules import ExportModule, SensorInput
from xectrain.inference.metadata import EARLIEST, NORMALIZED_INPUT, OPTIONAL, RAW_INPUTS, RUN
from xectrain.inference.model import IN_RANGE, ModelFacts

GATE_BATCHES = (1, 2, 7, 64)
TOLERANCE = 1e-4
"""Largest deviation, in units of a quantity's spread over the training set (of 1 for probabilities)."""

SHAKEN = 1e-6
"""Relative change of the photons that tells how much of a deviation is rounding."""
SHAKES = 4
"""Such changes, of which the one counts that moves an event most: a single one may by chance hardly move it."""
ROUNDING = 10.0
"""Deviations up to so many times an event's own change under `SHAKEN` are rounding."""
UNDECIDED = 1e-3
"""How close to the threshold photons are moved off it, relative."""
SENSOR_TOLERANCE = {"npho": 1e-4, "time": 1e-12}
"""Largest deviation of a predicted sensor: of photons relative to their number plus `npho_scale`, of time in s."""


@dataclass(frozen=True, eq=False)
class GateEvents:
    """Raw events to compare on, as they come from a file: with dead, negative and missing values."""

    npho: NDArray[np.float32]
    """(n, 4760), photons."""
    time: NDArray[np.float32]
    """(n, 4760), s."""
    dead: NDArray[np.bool_]
    """(n, 4760)."""

    def __len__(self) -> int:
        return len(self.npho)

    @classmethod
    def spoiled(cls, npho: NDArray[Any], time: NDArray[Any], seed: int = 0) -> GateEvents:
        """Events with every kind of bad value in some of their sensors: the graph must clean them as PyTorch does."""
        rng = np.random.default_rng(seed)
        npho, time = npho.astype(np.float32), time.astype(np.float32)
        for code in (np.nan, np.inf, -np.inf, 1e10, -3.0, -5000.0, 0.0):
            npho[rng.random(npho.shape) < 0.004] = code
        for code in (np.nan, np.inf, 1e10, -1e10):
            time[rng.random(time.shape) < 0.004] = code
        return cls(npho, time, rng.random(npho.shape) < 0.01)


@dataclass(frozen=True)
class Deviation:
    """How far the exported graph is from PyTorch in one output."""

    output: str
    largest: float
    """Largest absolute deviation over all gate batches, in the output's unit; of photons of a sensor, relative."""
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether it is small enough; a NaN on one side is not."""
        return self.largest <= self.allowed


def compare(path: Path, module: ExportModule | SensorInput, events: GateEvents) -> list[Deviation]:
    """The largest deviation in each output, over batches of 1, 2, 7 and 64 events, with and without optional inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # of the bytes: what onnxruntime says of a file that cannot be opened is no error of the system
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = list(module.outputs)
    largest = dict.fromkeys(names, 0.0)
    for size in GATE_BATCHES:
        for feed in _feeds(module, events, size):
            expected = _expected(module, feed)
            shaken = [_expected(module, other) for other in _shaken(feed)]
            found = session.run(names, feed)
            for number, (name, a, b) in enumerate(zip(names, found, expected, strict=True)):
                scale = _relative_to(name, module, b)
                others = [values[number] / scale for values in shaken]
                largest[name] = max(largest[name], largest_difference(a / scale, b / scale, others))
    return [Deviation(name, value, _allowed(name, module)) for name, value in largest.items()]


def _expected(module: ExportModule | SensorInput, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What PyTorch says."""
    arguments = [feed[n] if n in feed else np.array([OPTIONAL[n]]) for n in module.inputs]
    with torch.inference_mode():
        return [value.numpy() for value in module(*map(torch.from_numpy, arguments))]


def _shaken(feed: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """The same raw events with photons changed by `SHAKEN`. (Normalized ones are not: their sentinels are exact.)

    A local fit to a spoiled event at the edge of the face may lie in a valley so flat that a millionth moves it by
    millimetres: there no two runtimes agree, and it is not the graph's fault.
    """
    npho, rng = RAW_INPUTS[0], np.random.default_rng(0)
    for _ in range(SHAKES if npho in feed else 0):
        noise = rng.choice(np.array([-SHAKEN, SHAKEN], dtype=np.float32), feed[npho].shape)
        yield {**feed, npho: feed[npho] * (1 + noise)}


def _feeds(module: ExportModule | SensorInput, events: GateEvents, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of `size` events; the events are repeated if they are fewer."""
    rows = np.resize(np.arange(len(events)), size)
    npho, time, dead = (values[rows] for values in (decided(events.npho, module.facts), events.time, events.dead))
    if module.inputs == (NORMALIZED_INPUT,):
        yield {NORMALIZED_INPUT: normalize(npho, time, module.facts.normalization, dead).sensors}
        return
    raw = dict(zip(RAW_INPUTS, (npho, time, dead), strict=True))
    yield raw
    runs = (module.facts.calibration.factor.runs if module.facts.calibration else ()) or (0.0,)
    further = (
        (EARLIEST, np.linspace(-7e-7, 1e-6, size)),
        (EARLIEST, np.resize([1e10, np.nan, np.inf, -np.inf, 2e-7], size)),
        (RUN, np.resize([*np.linspace(runs[0] - 1, runs[-1] + 1, 7), np.nan], size)),
    )
    for name, values in further:
        if name in module.inputs:
            yield {**raw, name: values}


def decided(npho: NDArray[np.float32], facts: ModelFacts) -> NDArray[np.float32]:
    """Photons moved off the threshold of usable times: a sensor within rounding of it may have a time in one runtime
    and none in the other, which is not the graph's fault."""
    norm = facts.normalization
    if facts.npho_threshold <= norm.domain_minimum:
        return npho
    with np.errstate(invalid="ignore"):
        near = np.abs(npho - facts.npho_threshold) < UNDECIDED * facts.npho_threshold
    return np.where(near, np.float32((1 + 2 * UNDECIDED) * facts.npho_threshold), npho)


def _relative_to(output: str, module: ExportModule | SensorInput, expected: NDArray[Any]) -> NDArray[Any] | float:
    """What deviations of an output are measured in: 1, or for photons of a sensor about their own number."""
    if isinstance(module, SensorInput) and output.endswith("npho"):
        return np.asarray(np.nan_to_num(np.abs(expected), posinf=0.0) + module.facts.normalization.npho_scale)
    return 1.0


def largest_difference(a: NDArray[Any], b: NDArray[Any], shaken: Sequence[NDArray[Any]] = ()) -> float:
    """Largest |a − b|; equal NaNs agree, other NaNs and other shapes are infinitely far apart.

    Args:
        a, b: (n, …).
        shaken: what `b` is for inputs that differ by rounding; events that one of these moves as far do not count.
    """
    if a.shape != b.shape:
        return np.inf
    difference = _differences(a, b)
    for other in shaken:
        difference[difference <= ROUNDING * _differences(b, other)] = 0.0
    return float(difference.max(initial=0.0))


def _differences(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Largest |a − b| of each event, (n,)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):  # equal infinities agree as well
        difference = np.where((np.isnan(a) & np.isnan(b)) | (a == b), 0.0, np.abs(a - b))
    largest: NDArray[np.float64] = np.nan_to_num(difference, nan=np.inf).reshape(len(difference), -1).max(axis=1)
    return largest


def _allowed(output: str, module: ExportModule | SensorInput) -> float:
    """The tolerance of an output in its own unit; the training range must agree in every event."""
    if output == IN_RANGE:
        return 0.0
    if isinstance(module, SensorInput):
        return 0.0 if output == "filled" else SENSOR_TOLERANCE[output.rpartition("_")[2]]
    return TOLERANCE * module.mode.spread(output)

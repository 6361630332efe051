"""A trained autoencoder or inpainter as a function: hidden or dead sensors filled, in physical units.

Shape suffixes: B events, N = 4760 sensors, X channels.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from shards.base import ConfigError, InputError
from shards.dead import read_dead
from shards.normalization import Normalization, denormalize, normalize, valid
from xectrain.inference.events import Events, Raw, Stored
from xectrain.inference.model import CPU_BATCH, GPU_BATCH, Model, ModelFacts, checked_config, chosen_weights, facts_of
from xectrain.model_input import InputRules
from xectrain.models.sensors import hide
from xectrain.modes.masked import MaskedSensors
from xectrain.modes.masking import MASK_KINDS, MaskInput

if TYPE_CHECKING:
    from xectrain.compute import Compute

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Filled:
    """Events with their dead sensors filled; arrays (n, 4760)."""

    npho: NDArray[Any]
    """Photons: as given, except at filled sensors."""
    time: NDArray[Any]
    """s; as given, except at filled sensors, where it is predicted or NaN."""
    filled: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Hidden:
    """Events of which some sensors were hidden from the model; arrays (n, 4760) unless stated, physical units."""

    hidden: NDArray[np.bool_]
    kind: NDArray[np.int64]
    """(n,): index into `masking.MASK_KINDS`."""
    truth: Mapping[str, Floats]
    """By channel: npho [photons] and time [s] of the data; NaN where a sensor gave none."""
    predicted: Mapping[str, Floats]
    """By channel, every sensor."""


class Filler(Model, ABC):
    """A model that fills dead sensors."""

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None) -> Filled:
        """Fill the dead sensors of raw events; all others leave exactly as they came.

        Args:
            npho: (n, 4760) or (4760,), photons; NaN, infinite or > 9e9 where a sensor is dead.
            time: same shape, s.
            dead: bool, same shape or (4760,): further dead sensors.
        """
        photons, seconds = (np.atleast_2d(np.asarray(a)) for a in (npho, time))
        if photons.ndim != 2 or photons.shape != seconds.shape or photons.shape[1] != 4760:
            raise InputError("sensors have the wrong shape", found=(photons.shape, seconds.shape), expected="(n, 4760)")
        lost = None if dead is None else np.broadcast_to(np.asarray(dead, dtype=bool), photons.shape)
        return self.fill_events(Events({}, Raw(photons, seconds, lost)))

    @abstractmethod
    def fill_events(self, events: Events) -> Filled:
        """As `fill`, for a chunk from shards or ROOT; stored sensors come out in photons and seconds."""


class SensorPredictor(Filler):
    """A model that predicts sensors from the others."""

    def __init__(self, mode: MaskedSensors, facts: ModelFacts, compute: Compute, batch_size: int) -> None:
        self.mode, self.facts, self.compute, self.batch_size = mode, facts, compute, batch_size
        self.device = str(compute.device)

    def fill_events(self, events: Events) -> Filled:
        parts = [self._fill(part) for part in self._batches(events)]
        return Filled(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("npho", "time", "filled")))

    def _fill(self, events: Events) -> Filled:
        x_BN2, mask_BN = self._input(events)
        predicted = self._predicted(x_BN2, mask_BN)
        dead = mask_BN.cpu().numpy()
        if isinstance(events.sensors, Stored):
            stored = events.sensors.sensors.cpu().numpy()
            npho, time = (a.astype(np.float32) for a in denormalize(stored, events.sensors.normalization))
        else:
            npho, time = events.sensors.npho.copy(), events.sensors.time.copy()
        for name, values in (("npho", npho), ("time", time)):
            values[dead] = predicted[name][dead] if name in predicted else np.nan
        return Filled(npho, time, dead)

    def hide_and_predict(self, events: Events, hidden: NDArray[np.bool_] | None = None) -> Hidden:
        """Hide sensors as in validation (the same for every model and epoch) and predict them.

        Args:
            hidden: bool (n, 4760): hide these instead (those among them that have a valid npho).

        Raises:
            ConfigError: the events have no run and event numbers, from which masks are drawn.
        """
        size = self.batch_size
        parts = [
            self._hidden(part, None if hidden is None else hidden[i * size : (i + 1) * size])
            for i, part in enumerate(self._batches(events))
        ]

        def joined(name: str) -> dict[str, Floats]:
            return {c: np.concatenate([getattr(p, name)[c] for p in parts]) for c in getattr(parts[0], name)}

        drawn, kind = (np.concatenate([getattr(p, name) for p in parts]) for name in ("hidden", "kind"))
        return Hidden(drawn, kind, joined("truth"), joined("predicted"))

    def _hidden(self, events: Events, given: NDArray[np.bool_] | None) -> Hidden:
        x_BN2, mask_BN = self._input(events)
        _, time_valid_BN = valid(x_BN2, self.facts.normalization)
        with torch.inference_mode():
            if given is None:
                drawn = self.mode.masker.draw(self._mask_input(events, x_BN2, ~mask_BN, time_valid_BN), None)
                hidden_BN, kind_B = drawn.hidden_BN, drawn.kind_B
            else:
                hidden_BN = torch.from_numpy(np.require(given, bool, ["C", "W"])).to(mask_BN.device) & ~mask_BN
                kind_B = torch.full((len(given),), MASK_KINDS.index("pattern"))
            seen_BN2, seen_mask_BN = hide(x_BN2, hidden_BN, self.facts.normalization)
        predicted = self._predicted(seen_BN2, seen_mask_BN)
        npho, time = denormalize(x_BN2.cpu().numpy(), self.facts.normalization)
        truth = {"npho": npho.astype(np.float32), "time": time.astype(np.float32)}
        return Hidden(hidden_BN.cpu().numpy(), kind_B.cpu().numpy(), {c: truth[c] for c in predicted}, predicted)

    def _mask_input(self, events: Events, x_BN2: Tensor, npho_valid_BN: Tensor, time_valid_BN: Tensor) -> MaskInput:
        columns = events.columns
        for needed in ("run", "event"):
            if needed not in columns:
                raise ConfigError(f"masks are drawn from {needed!r}, which the data do not have")

        def tensor(*names: str) -> Tensor:
            return torch.from_numpy(np.stack([columns[n] for n in names], axis=1)).to(x_BN2.device)

        uvw_B3 = tensor("u", "v", "w") if all(c in columns for c in "uvw") else None
        run_B, event_B = tensor("run", "event").long().unbind(dim=1)
        return MaskInput(x_BN2, npho_valid_BN, time_valid_BN, run_B, event_B, uvw_B3)

    def _input(self, events: Events) -> tuple[Tensor, Tensor]:
        """Model input and mask of a batch."""
        norm = self.facts.normalization
        if isinstance(events.sensors, Stored):
            storage, sensors_BN2 = events.sensors.normalization, events.sensors.sensors.to(self.compute.device)
        else:
            raw = events.sensors
            npho, time = (torch.from_numpy(np.require(a, np.float32, ["C", "W"])) for a in (raw.npho, raw.time))
            dead = None if raw.dead is None else torch.from_numpy(np.require(raw.dead, None, ["C", "W"]))
            storage, sensors_BN2 = norm, normalize(npho, time, norm, dead).sensors.to(self.compute.device)
        with torch.inference_mode():
            return InputRules(storage, norm, self.facts.npho_threshold).apply(sensors_BN2)

    def _predicted(self, x_BN2: Tensor, mask_BN: Tensor) -> dict[str, Floats]:
        """Every sensor's prediction by channel, physical units."""
        norm = self.facts.normalization
        with torch.inference_mode(), self.compute.autocast():
            value_BNX = self.mode.model(x_BN2, mask_BN).float()
        inverse = {"npho": norm.inverse_npho, "time": norm.inverse_time}
        return {c: inverse[c](value_BNX[..., i]).cpu().numpy() for i, c in enumerate(self.facts.channels)}

    def _batches(self, events: Events) -> list[Events]:
        """Pieces of at most `batch_size` events."""
        pieces = []
        for start in range(0, len(events), self.batch_size):
            part = slice(start, start + self.batch_size)
            columns = {name: values[part] for name, values in events.columns.items()}
            pieces.append(Events(columns, sliced(events.sensors, part)))
        if not pieces:
            raise InputError("no events to predict")
        return pieces


def sliced(sensors: Stored | Raw, part: slice) -> Stored | Raw:
    """The sensors of some of the events."""
    if isinstance(sensors, Stored):
        return Stored(sensors.sensors[part], sensors.normalization)
    return Raw(sensors.npho[part], sensors.time[part], None if sensors.dead is None else sensors.dead[part])


def sensor_mode(state: Mapping[str, Any], path: Path, weights: str = "auto") -> tuple[MaskedSensors, ModelFacts]:
    """The network of an `mae` or `inpaint` checkpoint on the CPU, and what is known about it."""
    config = checked_config(state, path)
    files = config.masking.patterns
    patterns = torch.stack([torch.from_numpy(read_dead(Path(f)).sensors()) for f in files]) if files else None
    norm = Normalization.from_dict(state["normalization"])
    columns = list(state["columns"])
    mode = MaskedSensors(state["mode"], config.model, config.masking, norm, columns, config.train.seed, patterns)
    mode.load_state_dict(dict(chosen_weights(state, path, weights)))
    return mode.eval(), facts_of(state, path, config, channels=mode.channels)


def load_sensor_predictor(
    state: Mapping[str, Any], path: Path, weights: str, compute: Compute, batch_size: int | None
) -> SensorPredictor:
    """The predictor of an `mae` or `inpaint` checkpoint; as of `predictor.load`."""
    mode, facts = sensor_mode(state, path, weights)
    size = batch_size or (GPU_BATCH if compute.device.type == "cuda" else CPU_BATCH)
    logger.info("%s: %s of %s", path, facts.mode, " and ".join(facts.channels))
    return SensorPredictor(mode.to(compute.device), facts, compute, size)


__all__ = ["MASK_KINDS", "Filled", "Filler", "Hidden", "SensorPredictor", "load_sensor_predictor", "sensor_mode"]

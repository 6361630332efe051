"""A trained autoencoder or inpainter as a function: hidden or dead sensors filled, in physical units.

Shape suffixes: B events, N = 4760 sensors, X channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from shards.base import ConfigError, InputError
from shards.identity import IDENTITY
from shards.normalization import Normalization, denormalize, valid
from xectrain.baselines import fill
from xectrain.compute import Compute
from xectrain.inference.events import Events
from xectrain.inference.model import Model, ModelFacts
from xectrain.models.sensors import hide
from xectrain.modes.base import SensorMode
from xectrain.modes.chosen_masks import chosen_masks
from xectrain.modes.masking import MASK_KINDS, Masker, MaskInput

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Filled:
    """Events with their dead sensors filled; arrays (n, 4760)."""

    npho: NDArray[Any]
    """Photons: as given, except at filled sensors."""
    time: NDArray[Any]
    """s; as given, except at filled sensors; NaN there only where a whole neighbourhood is dead."""
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


class SensorPredictor(Model, ABC):
    """A model that predicts sensors from the others."""

    masker: Masker
    """What hides sensors that are alive: those of the validation, until `hide_by`."""
    fills: bool
    """Whether it is for filling dead sensors; else its predictions matter where sensors were hidden."""

    def hide_by(self, masks: str) -> None:
        """Hide other sensors than in the model's validation.

        Args:
            masks: as `chosen_masks` has them.

        Raises:
            ConfigError: they are not understood.
        """
        self.masker = chosen_masks(masks, self.facts.normalization)

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None) -> Filled:
        """Fill the dead sensors of raw events; all others leave exactly as they came.

        Args:
            npho: (n, 4760) or (4760,), photons; NaN, infinite or > 9e9 where a sensor is dead.
            time: same shape, s.
            dead: bool, same shape or (4760,): further dead sensors.
        """
        return self.fill_events(Events.of_raw(npho, time, dead))

    def fill_events(self, events: Events) -> Filled:
        """As `fill`, for a chunk from shards or ROOT; stored sensors come out in photons and seconds."""
        parts = self.side_by_side(self._fill, self._batches(events))
        return Filled(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("npho", "time", "filled")))

    def _fill(self, events: Events) -> Filled:
        x_BN2, mask_BN = self._input(events)
        predicted = self._predicted(events, x_BN2, mask_BN, torch.zeros_like(mask_BN))
        return filled(events, mask_BN.cpu().numpy(), predicted, self.facts.normalization)

    @abstractmethod
    def _predicted(self, events: Events, x_BN2: Tensor, mask_BN: Tensor, hidden_BN: Tensor) -> dict[str, Floats]:
        """Sensors by channel, (B, N) each, in physical units: predicted at least where they are dead or hidden.

        Args:
            events: a batch.
            x_BN2, mask_BN: what a network reads of it.
            hidden_BN: bool: sensors that are not to be seen, dead ones left out.
        """

    def hide_and_predict(self, events: Events, hidden: NDArray[np.bool_] | None = None) -> Hidden:
        """Hide sensors as in validation (the same for every model and epoch) and predict them.

        Args:
            hidden: bool (n, 4760): hide these instead (those among them that have a valid npho).

        Raises:
            ConfigError: the events have no run and event numbers, from which masks are drawn.
        """
        size = self.batch_size
        batches = [
            (batch, None if hidden is None else hidden[i * size : (i + 1) * size])
            for i, batch in enumerate(self._batches(events))
        ]
        parts = self.side_by_side(lambda batch: self._hidden(*batch), batches)

        def joined(name: str) -> dict[str, Floats]:
            return {c: np.concatenate([getattr(p, name)[c] for p in parts]) for c in getattr(parts[0], name)}

        drawn, kind = (np.concatenate([getattr(p, name) for p in parts]) for name in ("hidden", "kind"))
        return Hidden(drawn, kind, joined("truth"), joined("predicted"))

    def _hidden(self, events: Events, given: NDArray[np.bool_] | None) -> Hidden:
        x_BN2, mask_BN = self._input(events)
        _, time_valid_BN = valid(x_BN2, self.facts.normalization)
        with torch.inference_mode():
            if given is None:
                drawn = self.masker.draw(self._mask_input(events, x_BN2, ~mask_BN, time_valid_BN), None)
                hidden_BN, kind_B = drawn.hidden_BN, drawn.kind_B
            else:
                hidden_BN = torch.from_numpy(np.require(given, bool, ["C", "W"])).to(mask_BN.device) & ~mask_BN
                kind_B = torch.full((len(given),), MASK_KINDS.index("pattern"))
        predicted = self._predicted(events, x_BN2, mask_BN, hidden_BN)
        npho, time = denormalize(x_BN2.cpu().numpy(), self.facts.normalization)
        truth = {"npho": npho.astype(np.float32), "time": time.astype(np.float32)}
        return Hidden(hidden_BN.cpu().numpy(), kind_B.cpu().numpy(), {c: truth[c] for c in predicted}, predicted)

    def _mask_input(self, events: Events, x_BN2: Tensor, npho_valid_BN: Tensor, time_valid_BN: Tensor) -> MaskInput:
        columns = events.columns
        for needed in IDENTITY:
            if needed not in columns:
                raise ConfigError(f"masks are drawn from {needed!r}, which the data do not have")

        def tensor(*names: str) -> Tensor:
            together = [columns[n].astype(np.float64) for n in names]  # as in the truth vectors that training sees
            return torch.from_numpy(np.stack(together, axis=1)).to(x_BN2.device)

        uvw_B3 = tensor("u", "v", "w") if all(c in columns for c in "uvw") else None
        run_B, event_B = tensor(*IDENTITY).long().unbind(dim=1)
        return MaskInput(x_BN2, npho_valid_BN, time_valid_BN, run_B, event_B, uvw_B3)

    @torch.inference_mode()
    def _input(self, events: Events) -> tuple[Tensor, Tensor]:
        """Model input and mask of a batch."""
        return events.model_input(self.facts.normalization, self.facts.npho_threshold, self.device)

    def _batches(self, events: Events) -> list[Events]:
        """Pieces of at most `batch_size` events."""
        if not len(events):
            raise InputError("there are no events to predict")
        return events.batches(self.batch_size)


def filled(
    events: Events, dead: NDArray[np.bool_], predicted: Mapping[str, NDArray[Any]], judge: Normalization
) -> Filled:
    """Events with `dead` (n, 4760) sensors filled. A channel that the model does not predict is filled classically: no
    regressor has ever seen a bright sensor without a time.

    Args:
        predicted: (n, 4760) by channel, photons or s.
        judge: normalization that decides what counts as bad in raw sensors.
    """
    given = events.raw()
    npho, time = given.npho.copy(), given.time.copy()
    classical = None if {"npho", "time"} <= predicted.keys() else fill(events.photons(judge), missing=dead)
    for name, values in (("npho", npho), ("time", time)):
        source = predicted[name] if name in predicted else getattr(classical, name)
        values[dead] = source[dead]
    return Filled(npho, time, dead)


class TorchSensorPredictor(SensorPredictor):
    """A checkpoint's network."""

    def __init__(self, mode: SensorMode, facts: ModelFacts, compute: Compute, batch_size: int) -> None:
        self.mode, self.facts, self.compute, self.batch_size = mode, facts, compute, batch_size
        self.device, self.workers = str(compute.device), compute.workers
        self.masker, self.fills = mode.masker, mode.fills

    def _predicted(self, events: Events, x_BN2: Tensor, mask_BN: Tensor, hidden_BN: Tensor) -> dict[str, Floats]:
        norm = self.facts.normalization
        with torch.inference_mode(), self.compute.autocast():
            value_BNX = self.mode.model(*hide(x_BN2, hidden_BN, norm)).float()
        inverse = {"npho": norm.inverse_npho, "time": norm.inverse_time}
        return {c: inverse[c](value_BNX[..., i]).cpu().numpy() for i, c in enumerate(self.facts.channels)}

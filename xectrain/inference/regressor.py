"""A trained model as a function: sensors in, physical quantities out. Evaluation, inference and notebooks all use this.

model = xec.load("runs/energy")
found = model.predict(npho, time)          # (n, 4760) photons and seconds, straight from a ROOT file
found["pred_energy"]                       # (n,) GeV
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from shards.normalization import Normalization
from xectrain.compute import Compute
from xectrain.inference.calibration import CalibratedEnergy
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import IN_RANGE, Model, ModelFacts
from xectrain.models.ranges import Stray
from xectrain.modes.base import EventMode
from xectrain.targets import absolute_time


class Predictor(Model, ABC):
    """A model that predicts numbers of an event."""

    def predict(
        self,
        npho: ArrayLike,
        time: ArrayLike,
        dead: ArrayLike | None = None,
        time_min_used: ArrayLike | None = None,
        run: ArrayLike | None = None,
    ) -> Columns:
        """Predict from raw sensors.

        Args:
            npho: (n, 4760) or (4760,), photons; NaN, infinite or > 9e9 where a sensor is dead.
            time: same shape, s; NaN, infinite or beyond ±9e9 where there is none. Relative or absolute as in the
                training data (`facts.targets.relative_time`).
            dead: bool, same shape or (4760,): further dead sensors.
            time_min_used: (n,), s: earliest time; makes `pred_timing` absolute where the input times are relative.
            run: (n,) or one number: the run, for a calibration that depends on it.

        Returns:
            (n,) arrays by column: `pred_*` and `sigma_*` in canonical units (degree, GeV, ns, cm), float64, and bool
            `in_training_range`.
        """
        events = Events.of_raw(npho, time, dead)
        if run is not None:
            runs = np.broadcast_to(np.asarray(run, dtype=np.float64), (len(events),))
            events = replace(events, columns={"run": runs})
        return self._with_time(events, time_min_used)

    def predict_normalized(
        self, sensors: Tensor | NDArray[Any], storage: Normalization, time_min_used: ArrayLike | None = None
    ) -> Columns:
        """Predict from stored sensors, as a loader or `Dataset.read` gives them.

        Args:
            sensors: float32 (n, 4760, 2), normalized as `storage`, sentinel-marked; on any device.
            storage: normalization of the dataset.
            time_min_used: as of `predict`.
        """
        return self._with_time(Events.stored(sensors, storage), time_min_used)

    def predict_events(self, events: Events) -> Columns:
        """Predict a chunk from shards or ROOT."""
        return self._with_time(events, events.earliest)

    def strays(self, events: Events) -> list[Stray]:
        """What puts most of at most `batch_size` events outside the training range; nothing where that is unknown."""
        del events
        return []

    @abstractmethod
    def _run(self, events: Events) -> Columns:
        """Predictions of at most `batch_size` events; times as the sensors have them."""

    def _with_time(self, events: Events, earliest: ArrayLike | None) -> Columns:
        parts = self.side_by_side(self._run, events.batches(self.batch_size))
        if not parts:
            empty: Columns = {name: np.empty(0) for name in self.facts.columns}
            return {**empty, IN_RANGE: np.empty(0, dtype=bool)}
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if earliest is not None and self.facts.targets.relative_time:
            shift = np.broadcast_to(np.asarray(earliest, dtype=np.float64), (len(events),))
            for name in joined:
                if name.startswith("pred_timing"):
                    joined[name] = absolute_time(joined[name], shift)
        return joined


class TorchPredictor(Predictor):
    """A checkpoint's network."""

    def __init__(self, mode: EventMode, facts: ModelFacts, compute: Compute, batch_size: int) -> None:
        self.mode, self.facts, self.compute, self.batch_size = mode, facts, compute, batch_size
        self.device, self.workers = str(compute.device), compute.workers
        calibration = facts.calibration
        self.calibrated = None if calibration is None else CalibratedEnergy(calibration.factor).to(compute.device)

    def model_input(self, events: Events) -> tuple[Tensor, Tensor]:
        """(x_BN2, mask_BN) of some events, on the model's device."""
        return events.model_input(self.facts.normalization, self.facts.npho_threshold, self.device)

    def _predicted(self, x_BN2: Tensor, mask_BN: Tensor) -> dict[str, Tensor]:
        with self.compute.autocast():
            found = self.mode.predict(x_BN2, mask_BN)
        return {name: values.float() for name, values in found.items()}

    @torch.inference_mode()
    def strays(self, events: Events) -> list[Stray]:
        x_BN2, mask_BN = self.model_input(events)
        return self.mode.strays(x_BN2, mask_BN, self._predicted(x_BN2, mask_BN))

    @torch.inference_mode()
    def _run(self, events: Events) -> Columns:
        x_BN2, mask_BN = self.model_input(events)
        found = self._predicted(x_BN2, mask_BN)
        inside = self.mode.in_training_range(x_BN2, mask_BN, found)
        if self.calibrated is not None:
            run = events.columns.get("run")
            run_B = None if run is None else torch.tensor(run, dtype=torch.float64, device=self.device)
            found = self.calibrated(found, run_B)
        together = torch.stack([*found.values(), inside.float()]).cpu().numpy()
        result: Columns = {name: together[i].astype(np.float64) for i, name in enumerate(found)}
        return {**result, IN_RANGE: together[-1] > 0.5}

"""Rows of the modes that predict sensors: whole events with hidden or filled sensors, or one row per hidden sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.inpainting import FILLS, fill_columns
from xectrain.inference.events import Columns, Events
from xectrain.inference.root_output import OutputBranch
from xectrain.inference.rows import IDENTITY, Carried
from xectrain.inference.sensors import Filler, Hidden, SensorPredictor

SENSORS = OutputBranch("float32", geo.N_SENSORS)
FLAGS = OutputBranch("bool", geo.N_SENSORS)


@dataclass(frozen=True)
class HiddenEventRows:
    """Autoencoder: one row per event, sensors hidden as in validation.

    `mask` (hidden), and per predicted channel `truth_*`, `masked_*` (what the model saw), `pred_*` and `err_*`
    (prediction − truth), (4760,) each, photons or seconds, NaN where there is nothing.
    """

    predictor: SensorPredictor
    carried: Carried
    branches: dict[str, OutputBranch]

    @classmethod
    def of(cls, predictor: SensorPredictor, carried: Carried) -> HiddenEventRows:
        """The branches that this model's channels need."""
        kinds = ("truth", "masked", "pred", "err")
        named = {f"{kind}_{channel}": SENSORS for channel in predictor.facts.channels for kind in kinds}
        return cls(predictor, carried, carried.around({"mask": FLAGS, **named}))

    def make(self, events: Events, part: int, first: int) -> Columns:
        """One row per event."""
        found = self.predictor.hide_and_predict(events)
        rows = {**self.carried.make(events, part), "mask": found.hidden}
        for channel, truth in found.truth.items():
            rows[f"truth_{channel}"] = truth
            rows[f"masked_{channel}"] = np.where(found.hidden, np.float32(np.nan), truth)
            rows[f"pred_{channel}"] = found.predicted[channel]
            rows[f"err_{channel}"] = found.predicted[channel] - truth
        return {name: rows[name] for name in self.branches}

    def outside(self, rows: Columns) -> int:
        """Not judged in this mode."""
        return 0


@dataclass(frozen=True)
class FilledRows:
    """Inpainter on real data: one row per event with the dead sensors filled."""

    predictor: Filler
    carried: Carried
    branches: dict[str, OutputBranch]
    time: str
    """Name of the branch of times: it says what they are relative to."""

    @classmethod
    def of(cls, predictor: Filler, carried: Carried) -> FilledRows:
        """npho and time of every sensor, whichever of them the model predicts; the schema `filled` reads them back."""
        time = "relative_time" if predictor.facts.targets.relative_time else "time"
        return cls(predictor, carried, carried.around({"npho": SENSORS, time: SENSORS, "filled": FLAGS}), time)

    def make(self, events: Events, part: int, first: int) -> Columns:
        """One row per event."""
        found = self.predictor.fill_events(events)
        rows = {**self.carried.make(events, part), "npho": found.npho, self.time: found.time, "filled": found.filled}
        return {name: rows[name] for name in self.branches}

    def outside(self, rows: Columns) -> int:
        """Not judged in this mode."""
        return 0


@dataclass(frozen=True)
class HiddenSensorRows:
    """Inpainter, validation: one row per hidden sensor, with what the classical fillings say of it."""

    predictor: SensorPredictor
    baselines: Sequence[str] = FILLS

    @cached_property
    def branches(self) -> dict[str, OutputBranch]:
        """Where the sensor is, and what every method says of it."""
        integers = {name: OutputBranch("int64") for name in ("event_idx", *IDENTITY)}
        small = {"sensor_id": OutputBranch("int32"), "face": OutputBranch("int32"), "mask_type": OutputBranch("int32")}
        kinds = ("truth", "pred", "error")
        values = {
            f"{kind}_{channel}": OutputBranch("float32") for channel in self.predictor.facts.channels for kind in kinds
        }
        channels = self.predictor.facts.channels
        fills = {
            f"baseline_{name}_{channel}": OutputBranch("float32") for name in self.baselines for channel in channels
        }
        return {**integers, **small, **values, **fills}

    def make(self, events: Events, part: int, first: int) -> Columns:
        """One row per hidden sensor."""
        found = self.predictor.hide_and_predict(events)
        rows = hidden_sensors(found, events)
        rows["event_idx"] = rows["event_idx"] + first
        if self.baselines:
            physical = events.photons(self.predictor.facts.normalization)
            rows.update(fill_columns(physical, found.hidden, self.predictor.facts.channels, self.baselines))
        return {name: rows[name] for name in self.branches}

    def outside(self, rows: Columns) -> int:
        """Not judged in this mode."""
        return 0


def hidden_sensors(found: Hidden, events: Events) -> Columns:
    """One row per hidden sensor: where it is, truth, prediction and error of each channel."""
    event, sensor = np.nonzero(found.hidden)
    rows: dict[str, NDArray[Any]] = {
        "event_idx": event,
        **{name: events.columns[name][event] for name in IDENTITY},
        "sensor_id": sensor,
        "face": geo.nominal_faces()[sensor],
        "mask_type": found.kind[event],
    }
    for channel, truth in found.truth.items():
        predicted = found.predicted[channel][event, sensor]
        rows[f"truth_{channel}"] = truth[event, sensor]
        rows[f"pred_{channel}"] = predicted
        rows[f"error_{channel}"] = predicted - truth[event, sensor]
    return rows

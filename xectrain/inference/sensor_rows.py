"""Rows of the modes that predict sensors: whole events with hidden or filled sensors, or one row per hidden sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from shards.identity import IDENTITY
from xectrain.baselines.inpainting import FILLS, fill_columns
from xectrain.inference.events import Columns, Events
from xectrain.inference.root_output import OutputBranch
from xectrain.inference.rows import Carried, RowMaker
from xectrain.inference.sensors import Hidden, SensorPredictor

SENSORS = OutputBranch("float32", geo.N_SENSORS)
FLAGS = OutputBranch("bool", geo.N_SENSORS)


@dataclass(frozen=True)
class HiddenEventRows(RowMaker):
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

    def rows(self, events: Events, part: int, first: int) -> Columns:
        """One row per event."""
        found = self.predictor.hide_and_predict(events)
        rows = {**self.carried.make(events, part), "mask": found.hidden}
        for channel, truth in found.truth.items():
            rows[f"truth_{channel}"] = truth
            rows[f"masked_{channel}"] = np.where(found.hidden, np.float32(np.nan), truth)
            rows[f"pred_{channel}"] = found.predicted[channel]
            rows[f"err_{channel}"] = found.predicted[channel] - truth
        return rows


@dataclass(frozen=True)
class FilledRows(RowMaker):
    """Inpainter on real data: one row per event with the dead sensors filled."""

    predictor: SensorPredictor
    carried: Carried
    branches: dict[str, OutputBranch]
    time: str
    """Name of the branch of times: it says what they are relative to."""

    @classmethod
    def of(cls, predictor: SensorPredictor, carried: Carried) -> FilledRows:
        """npho and time of every sensor, whichever of them the model predicts; the schema `filled` reads them back."""
        time = "relative_time" if predictor.facts.targets.relative_time else "time"
        return cls(predictor, carried, carried.around({"npho": SENSORS, time: SENSORS, "filled": FLAGS}), time)

    def rows(self, events: Events, part: int, first: int) -> Columns:
        """One row per event."""
        found = self.predictor.fill_events(events)
        return {**self.carried.make(events, part), "npho": found.npho, self.time: found.time, "filled": found.filled}


@dataclass(frozen=True)
class HiddenSensorRows(RowMaker):
    """Inpainter, validation: one row per hidden sensor, with the predictions of the classical fillings."""

    predictor: SensorPredictor
    branches: dict[str, OutputBranch]

    @classmethod
    def of(cls, predictor: SensorPredictor) -> HiddenSensorRows:
        """Where the sensor is, and what every method predicts for it."""
        channels = predictor.facts.channels
        values = [f"{kind}_{channel}" for channel in channels for kind in ("truth", "pred", "error")]
        values += [f"baseline_{name}_{channel}" for name in FILLS for channel in channels]
        integers = {name: OutputBranch("int64") for name in ("event_idx", *IDENTITY)}
        small = {name: OutputBranch("int32") for name in ("sensor_id", "face", "mask_type")}
        return cls(predictor, {**integers, **small, **dict.fromkeys(values, OutputBranch("float32"))})

    def rows(self, events: Events, part: int, first: int) -> Columns:
        """One row per hidden sensor."""
        found = self.predictor.hide_and_predict(events)
        rows = hidden_sensors(found, events)
        rows["event_idx"] = rows["event_idx"] + first
        physical = events.photons(self.predictor.facts.normalization)
        rows.update(fill_columns(physical, found.hidden, self.predictor.facts.channels, FILLS))
        return rows


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

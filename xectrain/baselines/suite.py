"""All classical methods together: calibrated once on the training set, then evaluated beside the network.

They see exactly the events that the network sees, dead sensors included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from shards.base import InputError
from xectrain.baselines.energy import EnergyCalibration
from xectrain.baselines.features import Features, concatenate, extract
from xectrain.baselines.position import PositionCalibration
from xectrain.baselines.raw import RawEvents
from xectrain.baselines.regression import Map
from xectrain.baselines.timing import (
    MAP_DEGREE,
    TimingCalibration,
    WalkSums,
    robust_mean,
    sensor_times,
    timing_place,
)
from xectrain.tasks import MEAN, TASKS

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Predictions = dict[str, dict[str, Array]]
"""Method → canonical column → (n,) prediction in canonical units."""

MIN_EVENTS = 200
"""Fewer training events than this calibrate nothing."""
DESCRIPTIONS: dict[str, str] = {
    MEAN: "mean of the training set, whatever the event",
    "light_weighted": "light-weighted mean of 9×9 inner sensors, at the mean depth",
    "local_fit": "local solid-angle fit to 7×7 inner sensors, uncorrected",
    "local_fit_corrected": "the local fit with a map in (u, v, w) and a shower correction from other windows",
    "photon_sum": "gain-corrected photon sum",
    "coverage_sum": "photon sum weighted by cell area over sensor area",
    "face_weights": "per-face sums with weights depending on the fitted position",
    "mean_time": "weighted mean of sensor times minus light path",
    "light_path": "the same after walk correction, with a position map",
}
STRONG: dict[str, str] = {name: task.strong for name, task in TASKS.items()}
"""The method that a network has to beat, per task."""


@dataclass(frozen=True)
class Baselines:
    """Calibrated classical methods."""

    means: Mapping[str, float]
    """Mean of each target column over the training set, canonical units."""
    position: PositionCalibration | None
    energy: EnergyCalibration | None
    timing: TimingCalibration | None
    """None where the training set has no truth for it."""
    geometry: geo.Geometry = field(default_factory=geo.nominal)
    """Where the sensors were in the training set, and are taken to be."""

    def predict(self, events: RawEvents) -> Predictions:
        """Every method on a batch of events. `timing` is in the frame of the sensor times."""
        count = len(events)
        result: Predictions = {MEAN: {column: np.full(count, value) for column, value in self.means.items()}}
        if self.position is None:
            return result
        features = extract(events, self.geometry)
        fitted = self.position.corrected(features)
        points = {
            "light_weighted": self.position.light_weighted(features),
            "local_fit": features.fits[:, 0],
            "local_fit_corrected": fitted,
        }
        for name, uvw in points.items():
            result[name] = _derived(uvw)
        if self.energy is not None:
            result["photon_sum"] = {"energy": self.energy.photon_sum(features)}
            result["coverage_sum"] = {"energy": self.energy.coverage_sum(features)}
            result["face_weights"] = {"energy": self.energy.face_weights(features, fitted)}
        if self.timing is not None:
            times = sensor_times(events, fitted, self.geometry)
            result["mean_time"] = {"timing": self.timing.simple(robust_mean(times))}
            after_walk = robust_mean(times, np.array(self.timing.walk))
            result["light_path"] = {"timing": self.timing.corrected(after_walk, fitted, features.log_light)}
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file beside the results."""
        parts = {"position": self.position, "energy": self.energy, "timing": self.timing}
        plain = {"means": dict(self.means), **{k: None if v is None else v.to_dict() for k, v in parts.items()}}
        return {**plain, "survey": geo.survey_document(self.geometry)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Baselines:
        """The inverse of `to_dict`."""
        return cls(
            dict(values["means"]),
            None if values["position"] is None else PositionCalibration.from_dict(values["position"]),
            None if values["energy"] is None else EnergyCalibration.from_dict(values["energy"]),
            None if values["timing"] is None else TimingCalibration.from_dict(values["timing"]),
            geo.geometry_of(values.get("survey")),
        )


def calibrate(
    batches: Callable[[], Iterable[RawEvents]], columns: Iterable[str], geometry: geo.Geometry | None = None
) -> Baselines:
    """Learn everything from the training set.

    Args:
        batches: makes a fresh pass over training events; called twice (positions first, then times against them).
            `columns` of the events hold the truth; `timing` in the frame of the sensor times [ns].
        columns: target columns, for the means.
        geometry: nominal if not given.

    Raises:
        InputError: there are no events.
    """
    parts: list[Features] = []
    truths: list[dict[str, Array]] = []
    for events in batches():
        parts.append(extract(events, geometry))
        truths.append({name: np.asarray(values, dtype=np.float64) for name, values in events.columns.items()})
    if not parts:
        raise InputError("there are no training events to calibrate the classical methods with")
    features = concatenate(parts)
    truth = {name: np.concatenate([t[name] for t in truths]) for name in truths[0]}
    means = {c: float(np.nanmean(truth[c])) for c in columns if c in truth and np.isfinite(truth[c]).any()}
    if not _enough(truth, "u", "v", "w"):
        logger.warning("fewer than %d training events have a first interaction: only the mean is compared", MIN_EVENTS)
        return Baselines(means, None, None, None)
    position = PositionCalibration.fit(features, np.column_stack([truth[c] for c in "uvw"]))
    fitted = position.corrected(features)
    energy = EnergyCalibration.fit(features, fitted, truth["energy"]) if _enough(truth, "energy") else None
    timing = _calibrate_timing(batches, features, fitted, geometry) if _enough(truth, "timing") else None
    return Baselines(means, position, energy, timing, geometry or geo.nominal())


def _calibrate_timing(
    batches: Callable[[], Iterable[RawEvents]], features: Features, fitted: Array, geometry: geo.Geometry | None
) -> TimingCalibration:
    """Walk from one pass over the times, offset and map from the means they give."""
    sums, kept, truths, start = WalkSums.empty(), [], [], 0
    for events in batches():
        times = sensor_times(events, fitted[start : start + len(events)], geometry)
        start += len(events)
        truths.append(np.asarray(events.columns["timing"], dtype=np.float64))
        sums.add(times, truths[-1])
        kept.append(times)
    walk, truth = sums.walk(), np.concatenate(truths)
    simple = np.concatenate([robust_mean(t) for t in kept]) - truth
    late = np.concatenate([robust_mean(t, walk) for t in kept]) - truth
    correction = Map.fit(timing_place(fitted, features.log_light), late[:, None], MAP_DEGREE)
    return TimingCalibration(float(np.nanmedian(simple)), tuple(walk.tolist()), correction)


def _enough(truth: Mapping[str, Array], *columns: str) -> bool:
    return all(c in truth and np.count_nonzero(np.isfinite(truth[c])) >= MIN_EVENTS for c in columns)


def _derived(uvw: Array) -> dict[str, Array]:
    """What follows from a fitted point: Cartesian coordinates, and the direction from the target's centre."""
    xyz = geo.xyz_from_uvw(uvw)
    direction = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    theta = np.degrees(np.arccos(np.clip(direction[:, 2], -1, 1)))
    phi = np.degrees(np.arctan2(direction[:, 1], -direction[:, 0]))
    values = (*uvw.T, *xyz.T, *direction.T, theta, phi)
    return dict(zip(("u", "v", "w", "x", "y", "z", "emi_x", "emi_y", "emi_z", "theta", "phi"), values, strict=True))

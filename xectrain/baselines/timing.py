"""Time without a network: sensor times minus the light's path to the fitted point, averaged.

Times stay in the frame of the sensors' (relative or absolute), in ns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.raw import RawEvents
from xectrain.baselines.regression import Map

Array = NDArray[np.float64]

MIN_PHOTONS = 100.0
"""A sensor below this says nothing worth weighting."""
SENSORS = 256
"""Only the brightest sensors are averaged; the others' weights are negligible."""
WALK_EDGES = np.geomspace(MIN_PHOTONS, 1e5, 25)
LATENESS = np.linspace(-10, 20, 601)
"""Bins of a sensor's lateness about the median [ns]."""
CORE_NS = 1.0
MIN_SENSORS = 50
HUBER_NS = 1.5
"""Residual × √photons [ns·√(100 photons)] beyond which a sensor is weighted down: scattered light arrives late."""
MAP_DEGREE = 3


@dataclass(frozen=True)
class SensorTimes:
    """The usable times of a batch: (n, SENSORS), the brightest sensors first, weight 0 where there are fewer."""

    arrival: Array
    """Sensor time minus light path [ns]."""
    photons: Array
    usable: NDArray[np.bool_]


def sensor_times(events: RawEvents, position: Array, geometry: geo.Geometry | None = None) -> SensorTimes:
    """Times of the brightest sensors, moved back along the light's path.

    Args:
        position: (n, 3), fitted u, v, w [cm].
        geometry: nominal if not given.
    """
    light = np.where(np.isnan(events.time) | np.isnan(events.npho), 0, events.npho)
    count = min(SENSORS, light.shape[1])
    channel = np.argpartition(light, light.shape[1] - count, axis=1)[:, -count:]
    photons = np.take_along_axis(light, channel, axis=1).astype(np.float64)
    time = np.take_along_axis(events.time, channel, axis=1).astype(np.float64) * 1e9
    place = (geometry or geo.nominal()).positions[channel]
    path = np.linalg.norm(place - geo.xyz_from_uvw(position)[:, None, :], axis=2)
    usable = photons >= MIN_PHOTONS
    return SensorTimes(np.where(usable, time - path / geo.LIGHT_SPEED_XENON, 0.0), photons, usable)


def robust_mean(times: SensorTimes, walk: Array | None = None) -> Array:
    """Weighted mean arrival (n,) [ns], weights proportional to photons and reduced for outliers; NaN without sensors.

    Args:
        walk: mean lateness per bin of `WALK_EDGES` [ns], taken off first.
    """
    arrival = times.arrival if walk is None else times.arrival - _lateness(times.photons, walk)
    weight = np.where(times.usable, times.photons, 0.0)
    total = weight.sum(axis=1)
    mean = (weight * arrival).sum(axis=1) / np.where(total > 0, total, np.nan)
    for _ in range(8):
        pull = np.abs(arrival - mean[:, None]) * np.sqrt(times.photons / 100.0)
        robust = weight * np.minimum(1.0, HUBER_NS / np.maximum(pull, 1e-12))
        total = robust.sum(axis=1)
        mean = (robust * arrival).sum(axis=1) / np.where(total > 0, total, np.nan)
    return np.asarray(mean)


def _lateness(photons: Array, walk: Array) -> Array:
    """Linear in the logarithm of the photons between the bins' centres."""
    centres = np.log(WALK_EDGES[:-1] * WALK_EDGES[1:]) / 2
    return np.interp(np.log(np.maximum(photons, 1.0)), centres, walk)


@dataclass
class WalkSums:
    """Lateness against light over the training set, as a histogram per bin of `WALK_EDGES`."""

    counts: Array
    """(bins, lateness bins)."""
    reference: float | None = None
    """Lateness [ns] about which the histograms are taken: the median of the first batch."""

    @classmethod
    def empty(cls) -> WalkSums:
        """Nothing counted yet."""
        return cls(np.zeros((WALK_EDGES.size - 1, LATENESS.size - 1)))

    def add(self, times: SensorTimes, truth: Array) -> None:
        """Add a batch with true times (n,) [ns]."""
        late = times.arrival - truth[:, None]
        use = times.usable & np.isfinite(late)
        if not use.any():
            return
        if self.reference is None:
            self.reference = float(np.median(late[use]))
        light = np.clip(np.searchsorted(WALK_EDGES, times.photons[use]) - 1, 0, len(self.counts) - 1)
        place = np.searchsorted(LATENESS, late[use] - self.reference) - 1
        inside = (place >= 0) & (place < self.counts.shape[1])
        flat = np.bincount(light[inside] * self.counts.shape[1] + place[inside], minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def walk(self) -> Array:
        """Lateness of direct light per bin [ns]: the mean about the peak, since scattered light comes any time later.

        Bins that nobody fell into take the nearest one's.
        """
        centres = (LATENESS[:-1] + LATENESS[1:]) / 2
        walk = np.full(len(self.counts), np.nan)
        for row, counts in enumerate(self.counts):
            if counts.sum() < MIN_SENSORS:
                continue
            smooth = np.convolve(counts, np.ones(5), mode="same")
            core = np.abs(centres - centres[np.argmax(smooth)]) < CORE_NS
            walk[row] = np.average(centres[core], weights=np.maximum(counts[core], 1e-12))
        filled = np.flatnonzero(np.isfinite(walk))
        if not filled.size:
            return np.zeros_like(walk)
        return np.asarray(np.interp(np.arange(walk.size), filled, walk[filled]) + (self.reference or 0.0))


@dataclass(frozen=True)
class TimingCalibration:
    """What the timing methods learn on the training set."""

    offset: float
    """Median of mean arrival − truth without walk correction [ns]: of the simple method."""
    walk: tuple[float, ...]
    """Mean lateness per bin of `WALK_EDGES` [ns]."""
    correction: Map
    """What is left, against the fitted position and the light [ns]."""

    def simple(self, arrival: Array) -> Array:
        """Weighted mean without walk or map: (n,) [ns]."""
        return arrival - self.offset

    def corrected(self, arrival: Array, position: Array, log_light: Array) -> Array:
        """Weighted mean after walk, minus the map of position and light: (n,) [ns]."""
        return np.asarray(arrival - self.correction(timing_place(position, log_light))[:, 0])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"offset": self.offset, "walk": list(self.walk), "correction": self.correction.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TimingCalibration:
        """The inverse of `to_dict`."""
        return cls(values["offset"], tuple(values["walk"]), Map.from_dict(values["correction"]))


def timing_place(position: Array, log_light: Array) -> Array:
    """Features of the map: (n, 4), the point, its depth on a compressing scale, and the logarithm of the light."""
    return np.column_stack([position[:, :2], np.log(np.maximum(position[:, 2], 0.0) + 1.0), log_light])

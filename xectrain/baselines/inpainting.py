"""Classical fillings of dead sensors, photons and times: means of neighbours, solid-angle weighting, the local fit.

Times are medians of the neighbours' arrivals weighted with their photons; fillings that know where the light is move
them along its path first. Medians, because arrivals have a tail of late ones, and a regressor expects the usual ones:
with 3 % of the sensors filled its times were 7 ps late by means, and are 3 by medians. Every filling gives both: a
bright sensor without a time is something that no network has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.light import light_centre
from xectrain.baselines.localfit import FIT_HALF, local_fit
from xectrain.baselines.raw import RawEvents

Array = NDArray[np.float64]

NEAR_CM = 20.0
FILLS = ("ring_mean", "ring_solid_angle", "near_mean", "near_solid_angle", "local_fit")
"""Nearest ring and all within 20 cm on the face: their mean, and Σ n_k·ω_m / Σ ω_k with solid angles ω from the fitted
light centre (not the first interaction, far in front of the light); and the local fit: its amplitude times ω_m plus the
ring's mean excess over its own such values, which is the scattered light there. Where that would be less than none the
fit does not hold (the brightest sensors are hidden, say), and the ring's solid angles tell the amplitude."""
STRONG_FILL = "ring_solid_angle"
"""The one a network has to beat."""
PAIRS_AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class FilledSensors:
    """What one method puts at (m,) sensors, ordered as `np.nonzero` of what was asked; NaN where it cannot tell."""

    npho: Array
    """Photons."""
    time: Array
    """s, in the frame of the events' times."""


@dataclass(frozen=True, eq=False)
class _Light:
    """A point source fitted to each event: seen from it, (n, 4760) each."""

    omega: Array
    """Solid angle of each sensor [sr]."""
    photons: Array
    """What it would give to each sensor."""
    path: Array
    """How long its light travels to each sensor [s]."""


def fill_baselines(
    events: RawEvents, hidden: NDArray[np.bool_], names: Sequence[str] = FILLS
) -> dict[str, FilledSensors]:
    """What each method puts at hidden sensors.

    Args:
        events: whole events; values of hidden sensors are not used.
        hidden: bool (n, 4760).
        names: out of `FILLS`.
    """
    npho = np.where(hidden, np.nan, events.npho).astype(np.float64)
    time = np.where(hidden | np.isnan(npho), np.nan, events.time).astype(np.float64)
    where = np.nonzero(hidden)
    light = _fitted(npho) if any(not name.endswith("_mean") for name in names) else None
    return {name: _filled(name, npho, time, light, where) for name in names}


def fill_columns(
    events: RawEvents, hidden: NDArray[np.bool_], channels: Sequence[str], names: Sequence[str] = FILLS
) -> dict[str, Array]:
    """`fill_baselines` as columns of a table, `baseline_NAME_CHANNEL`, for channels out of npho and time."""
    found = fill_baselines(events, hidden, names)
    return {f"baseline_{name}_{channel}": getattr(found[name], channel) for name in names for channel in channels}


def fill(events: RawEvents, name: str = STRONG_FILL, missing: NDArray[np.bool_] | None = None) -> RawEvents:
    """Events whose dead sensors have photons and times again; all others are as they were.

    Where the method has no valid neighbour, the mean of the 24 nearest sensors of the face is used; where all of
    those are dead, too, the face counts as dark there (0 photons, no time).

    Args:
        name: out of `FILLS`.
        missing: bool (n, 4760): what to fill; by default the sensors without photons (NaN).
    """
    dead = np.isnan(events.npho) if missing is None else missing | np.isnan(events.npho)
    if not dead.any():
        return events
    found = fill_baselines(events, dead, (name,))[name]
    alone = np.isnan(found.npho)
    if alone.any():
        event, sensor = (index[alone] for index in np.nonzero(dead))
        near = geo.nearest(24)[sensor]
        npho = np.where(dead, np.nan, events.npho).astype(np.float64)
        found.npho[alone] = np.nan_to_num(_mean(npho, np.ones_like(npho), event, near))
        found.time[alone] = _median(np.where(dead, np.nan, events.time).astype(np.float64), npho, event, near)
    npho, time = events.npho.copy(), events.time.copy()
    npho[dead], time[dead] = found.npho, found.time
    return RawEvents(npho, time, events.columns)


def _fitted(npho: Array) -> _Light:
    fit = local_fit(npho, light_centre(npho), FIT_HALF)
    points = geo.xyz_from_uvw(np.stack([fit.u, fit.v, fit.w], axis=1))
    omega = np.asarray(geo.solid_angle(points, sipm="square"))
    path = np.linalg.norm(points[:, None, :] - geo.nominal_positions()[None], axis=2)
    return _Light(omega, fit.amplitude[:, None] * omega, path / geo.LIGHT_SPEED_XENON * 1e-9)


def light_of(npho: Array) -> Array:
    """Solid angle of each sensor (n, 4760) [sr] from the point source fitted to each event (n, 4760) [photons]."""
    return _fitted(npho).omega


def _filled(
    name: str, npho: Array, time: Array, light: _Light | None, where: tuple[NDArray[np.int64], ...]
) -> FilledSensors:
    event, sensor = where
    neighbourhood, _, weighting = name.partition("_")
    table = neighbour_table("near" if neighbourhood == "near" else "ring")[sensor]
    photons = np.where(np.isnan(time), np.nan, np.maximum(npho, 1.0))
    ones = np.ones_like(npho)
    if weighting == "mean":
        return FilledSensors(_mean(npho, ones, event, table), _median(time, photons, event, table))
    assert light is not None
    arrival = _median(time - light.path, photons, event, table) + light.path[where]
    # Σ n_k·ω_m / Σ ω_k is the ω-weighted mean of n_k / ω_k; without light in sight the plain mean is all there is
    seen = np.where(light.omega > 0, npho / np.where(light.omega > 0, light.omega, 1.0), np.nan)
    weighted = _mean(seen, light.omega, event, table) * light.omega[where]
    shared = np.where(np.isnan(weighted), _mean(npho, ones, event, table), weighted)
    if name == "local_fit":
        excess = _mean(npho - light.photons, ones, event, table)
        fitted = np.where(excess >= 0, light.photons[where] + excess, shared)
        return FilledSensors(np.maximum(fitted, 0.0), arrival)
    return FilledSensors(shared, arrival)


def _mean(values: Array, weights: Array, event: NDArray[np.int64], neighbours: NDArray[np.int32]) -> Array:
    """Weighted mean over the neighbours (m, k), −1 for none, that have a value and a weight; NaN without any."""
    usable = ~(np.isnan(values) | np.isnan(weights))
    weight, product = _padded(weights, usable, 0.0), _padded(values * weights, usable, 0.0)
    result = np.full(len(event), np.nan)
    for part in _pieces(len(event), neighbours.shape[1]):
        k, e = neighbours[part], event[part, None]
        total = weight[e, k].sum(axis=1)
        result[part] = np.where(total > 0, product[e, k].sum(axis=1) / np.where(total > 0, total, 1.0), np.nan)
    return result


def _median(values: Array, weights: Array, event: NDArray[np.int64], neighbours: NDArray[np.int32]) -> Array:
    """Weighted median over the neighbours (m, k), as `_mean` has it: the first value to reach half of the weight."""
    usable = ~(np.isnan(values) | np.isnan(weights))
    padded, weight = _padded(values, usable, np.inf), _padded(weights, usable, 0.0)
    result = np.full(len(event), np.nan)
    for part in _pieces(len(event), neighbours.shape[1]):
        k, e = neighbours[part], event[part, None]
        order = np.argsort(padded[e, k], axis=1)
        reached = np.cumsum(np.take_along_axis(weight[e, k], order, axis=1), axis=1)
        middle = np.argmax(reached >= reached[:, -1:] / 2, axis=1)[:, None]
        found = np.take_along_axis(np.take_along_axis(padded[e, k], order, axis=1), middle, axis=1)[:, 0]
        result[part] = np.where(np.isfinite(found), found, np.nan)
    return result


def _padded(values: Array, usable: NDArray[np.bool_], other: float) -> Array:
    """Values (n, 4760) where usable, `other` elsewhere and in a last column, which stands for "no neighbour"."""
    padded = np.full((len(values), values.shape[1] + 1), other)
    padded[:, :-1] = np.where(usable, values, other)
    return padded


def _pieces(count: int, width: int) -> Iterator[slice]:
    """Slices small enough that the gathered neighbours stay in the cache or near it."""
    step = max(1, PAIRS_AT_ONCE // width)
    for start in range(0, count, step):
        yield slice(start, start + step)


@lru_cache
def neighbour_table(where: str) -> NDArray[np.int32]:
    """Neighbours of each channel on its face, (4760, longest), −1 after the shorter lists.

    Args:
        where: `ring` (the nearest ones around it), or `near` (within 20 cm).
    """
    lists = geo.ring() if where == "ring" else geo.within(NEAR_CM)
    lengths = np.diff(lists.start)
    table = np.full((geo.N_SENSORS, int(lengths.max())), -1, dtype=np.int32)
    rows = np.repeat(np.arange(geo.N_SENSORS), lengths)
    columns = np.arange(len(lists.channels)) - np.repeat(lists.start[:-1], lengths)
    table[rows, columns] = lists.channels
    table.setflags(write=False)
    return table

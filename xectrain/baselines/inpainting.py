"""Classical fillings of a dead sensor: means of its neighbours, solid-angle weighting, and the local fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.light import light_centre
from xectrain.baselines.localfit import FIT_HALF, LocalFit, local_fit
from xectrain.baselines.raw import Floats

Array = NDArray[np.float64]

NEAR_CM = 20.0
FILLS = ("ring_mean", "ring_solid_angle", "near_mean", "near_solid_angle", "local_fit")
"""Nearest ring and all within 20 cm on the face: their mean, and Σ n_k·ω_m / Σ ω_k with solid angles ω from the fitted
light centre (not the first interaction, far in front of the light); and the local fit's amplitude times ω_m."""
STRONG_FILL = "ring_solid_angle"
"""The one a network has to beat."""
PAIRS_AT_ONCE = 1 << 21


def fill_baselines(npho: Floats, hidden: NDArray[np.bool_], names: Sequence[str] = FILLS) -> dict[str, Array]:
    """What each method puts at hidden sensors.

    Args:
        npho: (n, 4760), photons of the whole event, NaN at dead sensors; hidden ones are not looked at.
        hidden: bool (n, 4760).
        names: out of `FILLS`.

    Returns:
        By name, (m,) photons at the hidden sensors, ordered as `np.nonzero(hidden)`; NaN without a valid neighbour.
    """
    visible = np.where(hidden, np.nan, npho).astype(np.float64)
    event, sensor = np.nonzero(hidden)
    need_fit = any(name not in ("ring_mean", "near_mean") for name in names)
    fit = local_fit(visible, light_centre(visible), FIT_HALF) if need_fit else None
    omega = None if fit is None else _solid_angles(fit)
    found: dict[str, Array] = {}
    for name in names:
        where, _, weighting = name.partition("_")
        if name == "local_fit":
            assert fit is not None
            assert omega is not None
            inner = sensor < geo.N_SIPM
            found[name] = fit.amplitude[event] * omega[event, sensor] + np.where(inner, fit.background[event], 0.0)
        else:
            neighbours = _table(where)
            weight = omega if weighting == "solid_angle" else None
            found[name] = _weighted(visible, weight, event, sensor, neighbours)
    return found


def _solid_angles(fit: LocalFit) -> Array:
    """Solid angles of all sensors from the fitted light centres: (n, 4760)."""
    points = geo.xyz_from_uvw(np.stack([fit.u, fit.v, fit.w], axis=1))
    return np.asarray(geo.solid_angle(points, sipm="square"))


def _weighted(
    visible: Array, omega: Array | None, event: NDArray[np.int64], sensor: NDArray[np.int64], table: NDArray[np.int32]
) -> Array:
    """Σ n_k·ω_m / Σ ω_k over the valid neighbours k of each hidden sensor m (all ω 1 without `omega`)."""
    result = np.full(len(event), np.nan)
    for part in _pieces(len(event), table.shape[1]):
        e, m = event[part, None], sensor[part]
        k = table[m]
        values = np.where(k >= 0, visible[e, k], np.nan)
        good = ~np.isnan(values)
        weight = good.astype(np.float64) if omega is None else np.where(good, omega[e, k], 0.0)
        total = weight.sum(axis=1)
        own = np.ones(len(m)) if omega is None else omega[event[part], m]
        numerator = np.where(good, values, 0.0).sum(axis=1)
        if omega is None:
            usable = total > 0
        else:  # without light in sight of the neighbours the plain mean is all there is
            blind = (total <= 0) & good.any(axis=1)
            total, own = np.where(blind, good.sum(axis=1), total), np.where(blind, 1.0, own)
            usable = total > 0
        result[part] = np.where(usable, numerator * own / np.where(usable, total, 1.0), np.nan)
    return result


def _pieces(count: int, width: int) -> Iterator[slice]:
    """Slices small enough that the gathered neighbours stay in the cache or near it."""
    step = max(1, PAIRS_AT_ONCE // width)
    for start in range(0, count, step):
        yield slice(start, start + step)


@lru_cache
def _table(where: str) -> NDArray[np.int32]:
    """Neighbours of each channel in one array (4760, longest), −1 behind the shorter lists."""
    lists = geo.ring() if where == "ring" else geo.within(NEAR_CM)
    lengths = np.diff(lists.start)
    table = np.full((geo.N_SENSORS, int(lengths.max())), -1, dtype=np.int32)
    rows = np.repeat(np.arange(geo.N_SENSORS), lengths)
    columns = np.arange(len(lists.channels)) - np.repeat(lists.start[:-1], lengths)
    table[rows, columns] = lists.channels
    table.setflags(write=False)
    return table

"""Where the light is on the inner face: windows around the brightest sensor and their light-weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.raw import Floats

LIGHT_HALF = 4
"""The light-weighted mean is taken over 9×9 sensors."""


@lru_cache
def window_table(half: int) -> NDArray[np.int32]:
    """Channels of the (2·half+1)² sensors around each inner sensor: int32 (4092, (2·half+1)²), −1 outside the face."""
    grid = np.pad(geo.face_grid("inner"), half, constant_values=-1)
    side = 2 * half + 1
    windows = np.lib.stride_tricks.sliding_window_view(grid, (side, side)).reshape(-1, side * side)
    table = np.empty((geo.N_SIPM, side * side), dtype=np.int32)
    table[geo.face_grid("inner").ravel()] = windows
    table.setflags(write=False)
    return table


@lru_cache
def border(half: int) -> NDArray[np.bool_]:
    """Which of a window's sensors are its outermost ring: bool ((2·half+1)²,)."""
    side = 2 * half + 1
    inner = np.zeros((side, side), dtype=bool)
    inner[1:-1, 1:-1] = True
    return ~inner.ravel()


@lru_cache
def inner_uv() -> NDArray[np.float64]:
    """u and v of the inner sensors: float64 (4092, 2), cm."""
    return geo.uvw_from_xyz(geo.nominal_positions()[: geo.N_SIPM])[:, :2]


@dataclass(frozen=True)
class LightCentre:
    """The spot of light on the inner face, each array (n,)."""

    channel: NDArray[np.int64]
    """Brightest inner sensor."""
    u: NDArray[np.float64]
    v: NDArray[np.float64]
    """Background-subtracted light-weighted mean over 9×9 sensors around it [cm]; its own place if nothing is left."""
    light: NDArray[np.float64]
    """Photons of the window above the background."""


def window_photons(npho: Floats, channel: NDArray[np.int64], half: int) -> Floats:
    """Photons in the window around a sensor.

    Args:
        npho: (n, 4760), photons, NaN at dead sensors.
        channel: (n,) inner channels.

    Returns:
        (n, (2·half+1)²); NaN at dead sensors and outside the face.
    """
    table = window_table(half)[channel]
    return np.where(table >= 0, np.take_along_axis(npho, np.maximum(table, 0), axis=1), np.nan)


def light_centre(npho: Floats, half: int = LIGHT_HALF) -> LightCentre:
    """Background-subtracted light-weighted mean around the brightest inner sensor.

    The background is the median of the window's outermost ring; sensors below it count nothing.

    Args:
        npho: (n, 4760), photons, NaN at dead sensors.
    """
    inner = npho[:, : geo.N_SIPM]
    channel = np.argmax(np.where(np.isnan(inner), -np.inf, inner), axis=1).astype(np.int64)
    window = window_photons(npho, channel, half).astype(np.float64)
    rim = np.where(np.isnan(window[:, border(half)]), np.nan, window[:, border(half)])
    has_rim = ~np.isnan(rim).all(axis=1)
    background = np.zeros(len(npho))
    background[has_rim] = np.nanmedian(rim[has_rim], axis=1)
    weight = np.maximum(np.nan_to_num(window - background[:, None]), 0.0)
    light = weight.sum(axis=1)
    table = np.maximum(window_table(half)[channel], 0)
    place = inner_uv()
    centre = [
        np.where(light > 0, (weight * place[table, k]).sum(axis=1) / np.where(light > 0, light, 1), place[channel, k])
        for k in (0, 1)
    ]
    return LightCentre(channel, centre[0], centre[1], light)

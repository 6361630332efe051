"""Events as the classical methods see them: photons and seconds, NaN where a sensor gave none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from shards.normalization import Normalization, denormalize

Floats = NDArray[Any]


@dataclass(frozen=True)
class RawEvents:
    """A batch of events in physical units."""

    npho: Floats
    """float32 (n, 4760), photons; NaN at dead sensors."""
    time: Floats
    """float32 (n, 4760), s; NaN where there is none."""
    columns: Mapping[str, NDArray[np.float64]]
    """Truth and carried columns, each (n,), canonical units."""

    def __len__(self) -> int:
        return len(self.npho)

    @classmethod
    def from_sensors(
        cls, sensors: Floats, norm: Normalization, columns: Mapping[str, NDArray[np.float64]]
    ) -> RawEvents:
        """From normalized, sentinel-marked sensors (n, 4760, 2)."""
        npho, time = denormalize(sensors, norm)
        return cls(npho.astype(np.float32), time.astype(np.float32), columns)


def fill_from_neighbours(npho: Floats) -> Floats:
    """Photons with every dead (NaN) sensor replaced by the mean of its valid neighbours.

    Neighbours are the ring around the sensor on its face; where the whole ring is dead, the 24 nearest on the face;
    where those are dead too, the face counts as dark there (0).

    Args:
        npho: (n, 4760), photons, NaN where unknown.

    Returns:
        float32 (n, 4760) without NaN; the input itself when nothing is missing.
    """
    event, channel = np.nonzero(np.isnan(npho))
    if not event.size:
        return npho
    filled = npho.copy()
    value = _mean_of(npho, event, _ring_table()[channel])
    alone = np.isnan(value)
    if alone.any():
        value[alone] = np.nan_to_num(_mean_of(npho, event[alone], geo.nearest(24)[channel[alone]]))
    filled[event, channel] = value
    return filled


def _mean_of(npho: Floats, event: NDArray[np.intp], neighbours: NDArray[np.int32]) -> NDArray[np.float32]:
    """Mean over the valid neighbours (m, k), −1 for none; NaN where none is valid."""
    values = np.where(neighbours >= 0, npho[event[:, None], neighbours], np.nan)
    count = np.count_nonzero(~np.isnan(values), axis=1)
    total = np.nansum(values, axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


@lru_cache
def _ring_table() -> NDArray[np.int32]:
    """The ring of each channel in one array (4760, longest), −1 behind the shorter ones."""
    ring = geo.ring()
    lists = [ring.of(channel) for channel in range(geo.N_SENSORS)]
    table = np.full((geo.N_SENSORS, max(map(len, lists))), -1, dtype=np.int32)
    for channel, neighbours in enumerate(lists):
        table[channel, : len(neighbours)] = neighbours
    return table

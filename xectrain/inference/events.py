"""A chunk of events on its way into a model: stored sensors from shards, or raw ones from ROOT, with their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.normalization import Normalization, classify

if TYPE_CHECKING:
    from torch import Tensor

    from xectrain.baselines import RawEvents


@dataclass(frozen=True, eq=False)
class Stored:
    """Sensors as a dataset holds them."""

    sensors: Tensor
    """float32 (n, 4760, 2), normalized, sentinel-marked, on the device they were read to."""
    normalization: Normalization


@dataclass(frozen=True, eq=False)
class Raw:
    """Sensors as a ROOT file holds them."""

    npho: NDArray[Any]
    """(n, 4760), photons."""
    time: NDArray[Any]
    """(n, 4760), s."""
    dead: NDArray[np.bool_] | None
    """(n, 4760): sensors that count as dead whatever their values are."""


@dataclass(frozen=True, eq=False)
class Events:
    """Some consecutive events of a part."""

    columns: dict[str, NDArray[np.float64]]
    """Truth, identity and carried columns (and `entry` from ROOT), (n,) each, canonical units."""
    sensors: Stored | Raw

    def __len__(self) -> int:
        values = self.sensors.sensors if isinstance(self.sensors, Stored) else self.sensors.npho
        return len(values)

    @property
    def earliest(self) -> NDArray[np.float64] | None:
        """`time_min_used` [s], where the data have it."""
        return self.columns.get("time_min_used")

    def physical(self, norm: Normalization) -> RawEvents:
        """Photons and seconds, NaN where a sensor gave none.

        Args:
            norm: decides what counts as bad in raw sensors (stored ones have been judged when they were converted).
        """
        from xectrain.baselines import RawEvents

        if isinstance(self.sensors, Stored):
            stored = self.sensors.sensors.cpu().numpy()
            return RawEvents.from_sensors(stored, self.sensors.normalization, self.columns)
        npho, time, dead = self.sensors.npho, self.sensors.time, self.sensors.dead
        classes = classify(npho, time, norm, dead)
        photons = np.where(classes.dead, np.nan, npho).astype(np.float32)
        return RawEvents(photons, np.where(classes.time_invalid, np.nan, time).astype(np.float32), self.columns)

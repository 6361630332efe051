"""Events as the classical methods see them: photons and seconds, NaN where a sensor gave none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

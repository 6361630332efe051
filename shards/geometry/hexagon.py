"""The hexagonal sensor lattice of the top and bottom faces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.base import ConfigError
from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.grids import face_channels
from shards.geometry.positions import nominal_cylindrical

DIRECTIONS = ("+z", "+z+r", "-z+r", "-z", "-z-r", "+z-r")
"""The six directions, counter-clockwise in the (z, r) plane: the same physical direction on both faces.
Direction d and (d + 3) % 6 are opposite."""


@dataclass(frozen=True, eq=False)
class HexGraph:
    """Sensors of the top or bottom face and who is next to whom."""

    nodes: NDArray[np.int32]
    """int32 (73,): channels, row by row from the inner face outwards, z rising in a row."""
    neighbours: NDArray[np.int32]
    """int32 (73, 6): index into `nodes` of the neighbour in each of `DIRECTIONS`, −1 where there is none."""
    plane: NDArray[np.float64]
    """float64 (73, 2): z and r of each node, cm."""

    @property
    def edges(self) -> NDArray[np.int32]:
        """int32 (366, 2): directed edges (from, to) as indices into `nodes`, sorted by node, then direction."""
        source, direction = np.nonzero(self.neighbours >= 0)
        return np.stack([source, self.neighbours[source, direction]], axis=1).astype(np.int32)


@lru_cache
def hexagon(face: str) -> HexGraph:
    """The lattice of one face, its neighbours found from the positions.

    Rows are centred and of unequal length, so the index offset between rows follows no parity rule.

    Args:
        face: "top" or "bottom".

    Raises:
        ConfigError: another face.
    """
    if face not in ("top", "bottom"):
        raise ConfigError("is not a hexagonal face", item=face, remedy="use 'top' or 'bottom'")
    nodes = face_channels(face)
    r, _, z = nominal_cylindrical()
    plane = np.stack([z[nodes], r[nodes]], axis=1)
    half = c.HEXAGON_Z_PITCH / 2
    rise = c.HEXAGON_R_PITCH
    steps = np.array([(2 * half, 0), (half, rise), (-half, rise), (-2 * half, 0), (-half, -rise), (half, -rise)])
    there = np.abs(plane[:, None, None] + steps[:, None] - plane).max(axis=-1) < 1e-6  # (node, direction, node)
    neighbours = np.where(there.any(axis=2), there.argmax(axis=2), -1)
    return HexGraph(frozen(nodes), frozen(neighbours.astype(np.int32)), frozen(plane))

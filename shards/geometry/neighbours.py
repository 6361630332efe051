"""Which sensors are near which: k nearest, all within a radius, and the ring of adjacent sensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.base import ConfigError
from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.grids import face_channels, face_grid, outer_fine_grid
from shards.geometry.hexagon import hexagon
from shards.geometry.positions import nominal_faces, nominal_positions

_SPARE = 16  # more sensors than are ever at one distance, so that a tie never straddles the end of a list


@dataclass(frozen=True, eq=False)
class NeighbourLists:
    """A list of channels for each channel, of any length."""

    start: NDArray[np.int32]
    """int32 (4761,), read-only: channel i's list is `channels[start[i]:start[i + 1]]`."""
    channels: NDArray[np.int32]
    """int32 (n,), read-only."""

    def of(self, channel: int) -> NDArray[np.int32]:
        """The list of one channel: int32 (n,)."""
        return self.channels[self.start[channel] : self.start[channel + 1]]


@lru_cache
def nearest(k: int, across_faces: bool = False) -> NDArray[np.int32]:
    """The k sensors nearest to each sensor, by straight distance, the nearest first and itself excluded.

    Equal distances are ordered by channel, so the lists are the same everywhere.

    Args:
        k: at most 72 on a face (top and bottom have 73 sensors), 4759 across faces.
        across_faces: whether sensors of other faces count.

    Returns:
        int32 (4760, k), read-only.

    Raises:
        ConfigError: a face does not have that many other sensors.
    """
    from scipy.spatial import KDTree

    groups = _groups(across_faces)
    most = min(len(group) for group in groups) - 1
    if not 1 <= k <= most:
        raise ConfigError("there are not that many nearest sensors", item="k", found=k, expected=f"1…{most}")
    result = np.empty((c.N_SENSORS, k), dtype=np.int32)
    for group in groups:
        points = nominal_positions()[group]
        distance, index = KDTree(points).query(points, k=min(k + 1 + _SPARE, len(group)))
        neighbours = group[index]
        itself = neighbours == group[:, None]
        order = np.lexsort((neighbours, np.where(itself, -1.0, np.round(distance, 6))), axis=1)
        result[group] = np.take_along_axis(neighbours, order, axis=1)[:, 1 : k + 1]
    return frozen(result)


@lru_cache(maxsize=8)
def within(radius: float, across_faces: bool = False) -> NeighbourLists:
    """All sensors within a straight distance of each sensor, in ascending order of channel, itself excluded.

    Args:
        radius: cm, inclusive.
        across_faces: whether sensors of other faces count.
    """
    from scipy.spatial import KDTree

    pairs = []
    for group in _groups(across_faces):
        index = KDTree(nominal_positions()[group]).query_pairs(radius + 1e-9, output_type="ndarray")
        pairs += [group[index], group[index[:, ::-1]]]
    return _lists(np.concatenate(pairs))


@lru_cache
def ring() -> NeighbourLists:
    """The sensors that surround each sensor on its face, in ascending order of channel.

    Eight on the rectangular grids (five or three on the border), six on the hexagonal faces; on the outer face all that
    touch it, also at a corner, which at the border of the central patch is a varying number.
    """
    grids = [face_grid("inner"), outer_fine_grid(), face_grid("upstream"), face_grid("downstream")]
    pairs = [_touching(grid) for grid in grids]
    for face in ("top", "bottom"):
        graph = hexagon(face)
        pairs.append(graph.nodes[graph.edges])
    return _lists(np.concatenate(pairs))


@lru_cache
def face_centres() -> NDArray[np.float64]:
    """Mean position of the sensors of each face: float64 (6, 3), cm, by face code. Read-only."""
    return frozen(np.stack([nominal_positions()[nominal_faces() == code].mean(axis=0) for code in range(6)]))


def _groups(across_faces: bool) -> list[NDArray[np.int32]]:
    if across_faces:
        return [np.arange(c.N_SENSORS, dtype=np.int32)]
    return [face_channels(name) for name in c.FACE_NAMES]


def _touching(grid: NDArray[np.int32]) -> NDArray[np.int32]:
    """Directed pairs of different channels in cells that share a side or a corner: int32 (n, 2)."""
    pairs = []
    for one, other in (
        (grid[1:], grid[:-1]),
        (grid[:, 1:], grid[:, :-1]),
        (grid[1:, 1:], grid[:-1, :-1]),
        (grid[1:, :-1], grid[:-1, 1:]),
    ):
        a, b = one.ravel(), other.ravel()
        pairs += [np.stack([a, b], axis=1), np.stack([b, a], axis=1)]
    together = np.concatenate(pairs)
    return np.unique(together[together[:, 0] != together[:, 1]], axis=0)


def _lists(pairs: NDArray[np.int32]) -> NeighbourLists:
    """Collect (channel, neighbour) pairs into lists."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    counts = np.bincount(pairs[:, 0], minlength=c.N_SENSORS)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return NeighbourLists(frozen(start), frozen(pairs[order, 1].astype(np.int32)))

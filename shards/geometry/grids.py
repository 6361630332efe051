"""Face grids: the channels of a face as a two-dimensional array, φ' falling along rows, z (or r) rising along columns.

All grids are derived from the nominal positions and checked as they are built, so a grid that does not fit the
positions cannot be had.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.base import ConfigError, nearest
from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.positions import centre_patch, nominal_cylindrical, nominal_faces

GRID_NAMES = ("inner", "outer_coarse", "outer_centre", "upstream", "downstream", "outer_fine")

FINE_PHI_PITCH = c.PHI_RANGE / c.OUTER_FINE_SHAPE[0]
FINE_Z_PITCH = c.OUTER_Z_PITCH / 5
"""Size of a cell of the outer fine grid [rad, cm]: a coarse sensor owns 3×5 cells, one of the patch 2×3."""


@lru_cache
def face_grid(name: str) -> NDArray[np.int32]:
    """Channels of a face on its grid.

    `outer_coarse` goes by channel number: its twelve channels of rows 10…13, columns 3…5 sit in the central patch, not
    at their grid place. Use `outer_fine` where places matter.

    Args:
        name: "inner" (93, 44), "outer_coarse" (24, 9), "outer_centre" (6, 5), "upstream" or "downstream" (24, 6),
            "outer_fine" (72, 45).

    Returns:
        int32 (rows, columns), read-only.

    Raises:
        ConfigError: there is no such grid (top and bottom are hexagonal, see `hexagon`).
    """
    if name == "inner":
        return _sorted_grid(np.arange(c.N_SIPM), c.INNER_SHAPE, 2)
    if name == "outer_coarse":
        return frozen(np.arange(c.FIRST_OUTER_COARSE, c.FIRST_UPSTREAM, dtype=np.int32).reshape(c.OUTER_COARSE_SHAPE))
    if name == "outer_centre":
        return _sorted_grid(centre_patch().ravel(), c.OUTER_CENTRE_SHAPE, 2)
    if name == "upstream":
        return _sorted_grid(np.arange(c.FIRST_UPSTREAM, c.FIRST_DOWNSTREAM), c.END_SHAPE, 0)
    if name == "downstream":
        return _sorted_grid(np.arange(c.FIRST_DOWNSTREAM, c.FIRST_TOP), c.END_SHAPE, 0)
    if name == "outer_fine":
        return outer_fine_grid()
    raise ConfigError("is not a face grid", item=name, remedy=nearest(name, GRID_NAMES))


@lru_cache
def face_channels(name: str) -> NDArray[np.int32]:
    """Channels of a face in ascending order: int32 (n,), read-only. The outer face has 234, of all three ranges.

    Raises:
        ConfigError: there is no such face.
    """
    if name not in c.FACE_NAMES:
        raise ConfigError("is not a face", item=name, remedy=nearest(name, c.FACE_NAMES))
    return frozen(np.flatnonzero(nominal_faces() == c.FACE_NAMES.index(name)).astype(np.int32))


@lru_cache
def outer_fine_grid() -> NDArray[np.int32]:
    """The outer face as one regular grid: the channel that owns each cell.

    Coarse sensors own 3×5 cells (φ'×z), those of the central patch 2×3; every cell has exactly one owner.

    Returns:
        int32 (72, 45), φ' falling along rows, z rising along columns. Read-only.
    """
    _, phi, z = nominal_cylindrical()
    channels = face_channels("outer")
    rows, columns = c.OUTER_FINE_SHAPE
    cell_row = (rows - 1) / 2 - phi[channels] / FINE_PHI_PITCH
    cell_column = (columns - 1) / 2 + z[channels] / FINE_Z_PITCH
    in_patch = np.isin(channels, centre_patch())
    grid = np.full(c.OUTER_FINE_SHAPE, -1, dtype=np.int32)
    for channel, row, column, small in zip(channels, cell_row, cell_column, in_patch, strict=True):
        height, width = (2, 3) if small else (3, 5)
        top, left = round(row - (height - 1) / 2), round(column - (width - 1) / 2)
        area = grid[top : top + height, left : left + width]
        if area.shape != (height, width) or (area >= 0).any():
            raise AssertionError(f"outer fine grid: the cells of channel {channel} are not free")
        area[:] = channel
    if (grid < 0).any():
        raise AssertionError("outer fine grid: cells without a sensor")
    return frozen(grid)


@lru_cache
def outer_fine_cells() -> NDArray[np.int32]:
    """Number of cells of the outer fine grid that each channel owns: int32 (4760,), 0 off the outer face. Read-only."""
    return frozen(np.bincount(outer_fine_grid().ravel(), minlength=c.N_SENSORS).astype(np.int32))


def _sorted_grid(channels: NDArray[np.integer], shape: tuple[int, int], column_axis: int) -> NDArray[np.int32]:
    """Channels by position: φ' falling along rows, r (`column_axis` 0) or z (2) rising along columns."""
    coordinates = nominal_cylindrical()
    phi = coordinates[1][channels].round(6)  # equal φ' must compare equal
    along = coordinates[column_axis][channels]
    grid = channels[np.lexsort((along, -phi))].reshape(shape).astype(np.int32)
    if np.ptp(coordinates[1][grid], axis=1).max() > 1e-9:
        raise AssertionError("a row of a face grid holds sensors of different azimuth")
    return frozen(grid)

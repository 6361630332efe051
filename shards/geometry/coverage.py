"""Sensitive area of each sensor and the area of the face that it stands for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.grids import FINE_PHI_PITCH, FINE_Z_PITCH, outer_fine_cells
from shards.geometry.positions import nominal_cylindrical, nominal_faces


@lru_cache
def sensor_area() -> NDArray[np.float64]:
    """Sensitive area: four chips of a SiPM, photocathode of a PMT. float64 (4760,), cm². Read-only."""
    area = np.full(c.N_SENSORS, np.pi * c.PMT_RADIUS**2)
    area[: c.N_SIPM] = 4 * c.SIPM_CHIP_SIDE**2
    return frozen(area)


@lru_cache
def cell_area() -> NDArray[np.float64]:
    """Area of the face that belongs to each sensor: float64 (4760,), cm². Read-only.

    Pitch times pitch on the regular grids (at the sensor's own radius on the conical ends), the sensor's cells of the
    fine grid on the outer face, the cell of the lattice on top and bottom. `cell_area / sensor_area` is the weight of a
    coverage-weighted photon sum.
    """
    r, _, _ = nominal_cylindrical()
    face = nominal_faces()
    by_face = {
        c.INNER: np.full(c.N_SENSORS, c.R_INNER * c.INNER_PHI_PITCH * c.INNER_Z_PITCH),
        c.OUTER: outer_fine_cells() * (c.R_OUTER * FINE_PHI_PITCH * FINE_Z_PITCH),
        c.UPSTREAM: r * (c.COARSE_PHI_PITCH * c.END_R_PITCH * np.hypot(1, c.TAN_TILT)),
        c.DOWNSTREAM: r * (c.COARSE_PHI_PITCH * c.END_R_PITCH * np.hypot(1, c.TAN_TILT)),
        c.TOP: np.full(c.N_SENSORS, c.HEXAGON_Z_PITCH * c.HEXAGON_R_PITCH),
        c.BOTTOM: np.full(c.N_SENSORS, c.HEXAGON_Z_PITCH * c.HEXAGON_R_PITCH),
    }
    return frozen(np.choose(face, [by_face[code] for code in range(len(c.FACE_NAMES))]))

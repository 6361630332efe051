"""The detector unrolled into a plane, for the event display.

Seen from outside, from behind the outer face: z (u) runs to the right, φ' (v) upwards. The inner face is in the middle
with its neighbours folded away from it: upstream left, downstream right, top above, bottom below, depth growing
outwards. The outer face stands at the right, in the same orientation as the inner. All in cm at true scale; on the end
faces φ' is drawn at the radius of the inner face, so that their rows continue its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.coordinates import uvw_from_xyz
from shards.geometry.detector import Geometry, nominal

Floats = NDArray[np.float64]

UNROLLED_GAP = 5.0
"""Space between the inner face and the faces folded away from it [cm]."""
_OUTER_GAP = 12.0

_SLANT = np.hypot(1, c.TAN_TILT)
_HALF_WIDTH = c.Z_LENGTH_INNER / 2
_END_WIDTH = (c.R_OUTER - c.R_INNER) * _SLANT
_OUTER_SHIFT = _HALF_WIDTH + UNROLLED_GAP + _END_WIDTH + _OUTER_GAP + c.Z_LENGTH_OUTER / 2


@dataclass(frozen=True, eq=False)
class Panel:
    """One face in the unrolled plane."""

    name: str
    outline: Floats
    """float64 (n, 2): corners of the face, counter-clockwise, cm."""


@dataclass(frozen=True, eq=False)
class Unrolled:
    """All sensors in the unrolled plane."""

    positions: Floats
    """float64 (4760, 2), cm, read-only."""
    panels: tuple[Panel, ...]
    """The six faces, by face code."""


@lru_cache(maxsize=4)
def unrolled(geometry: Geometry | None = None) -> Unrolled:
    """Sensor positions (nominal if no geometry is given) and nominal face outlines in the unrolled plane."""
    geometry = nominal() if geometry is None else geometry
    positions = np.empty((c.N_SENSORS, 2))
    uvw = uvw_from_xyz(geometry.positions)
    for code in range(len(c.FACE_NAMES)):
        on_face = geometry.face == code
        positions[on_face] = project(uvw[on_face], code)
    return Unrolled(frozen(positions), tuple(Panel(name, _outline(code)) for code, name in enumerate(c.FACE_NAMES)))


def project(uvw: ArrayLike, face: int) -> Floats:
    """Where points appear on a face of the unrolled plane: at their foot on it, the coordinates along the face kept.

    Args:
        uvw: (..., 3), cm.
        face: face code.

    Returns:
        float64 (..., 2), cm.
    """
    points = np.asarray(uvw, dtype=np.float64)
    u, v, w = points[..., 0], points[..., 1], points[..., 2]
    if face == c.INNER:
        x, y = u, v
    elif face == c.OUTER:
        x, y = u + _OUTER_SHIFT, v * (c.R_OUTER / c.R_INNER)
    elif face in (c.UPSTREAM, c.DOWNSTREAM):
        side = -1 if face == c.UPSTREAM else 1
        x, y = side * (_HALF_WIDTH + UNROLLED_GAP + w * _SLANT), v
    elif face in (c.TOP, c.BOTTOM):
        side = 1 if face == c.TOP else -1
        x, y = u, side * (c.V_MAX + UNROLLED_GAP + w)
    else:
        raise ValueError(f"face code {face}, expected 0…{len(c.FACE_NAMES) - 1}")
    return np.stack([x, y], axis=-1)


def _outline(face: int) -> Floats:
    z_inner = _HALF_WIDTH + (c.R_INNER - c.R_STRUCTURE) * c.TAN_TILT
    z_outer, v, w = c.Z_LENGTH_OUTER / 2, c.V_MAX, c.W_MAX
    corners: dict[int, list[tuple[float, float, float]]] = {
        c.INNER: [(-z_inner, -v, 0), (z_inner, -v, 0), (z_inner, v, 0), (-z_inner, v, 0)],
        c.OUTER: [(-z_outer, -v, w), (z_outer, -v, w), (z_outer, v, w), (-z_outer, v, w)],
        c.UPSTREAM: [(0, -v, w), (0, -v, 0), (0, v, 0), (0, v, w)],
        c.DOWNSTREAM: [(0, -v, 0), (0, -v, w), (0, v, w), (0, v, 0)],
        c.TOP: [(-z_inner, v, 0), (z_inner, v, 0), (z_outer, v, w), (-z_outer, v, w)],
        c.BOTTOM: [(-z_outer, -v, w), (z_outer, -v, w), (z_inner, -v, 0), (-z_inner, -v, 0)],
    }
    return frozen(project(corners[face], face))

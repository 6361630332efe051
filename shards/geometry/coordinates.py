"""Detector coordinates: u = z, v = R·φ', w = r − R with R = 64.97 cm, the radius of the SiPM surface.

w is the depth from the inner face; the outer wall is at w = 41.30, top and bottom at v = ±71.17.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.geometry import constants as c


def uvw_from_xyz(xyz: ArrayLike) -> NDArray[Any]:
    """Detector coordinates of Cartesian points.

    On the z axis (r = 0) the azimuth is undefined and v comes out as 0 or ±πR. NaN stays NaN.

    Args:
        xyz: (..., 3), cm.

    Returns:
        u, v, w: (..., 3), cm, of the same floating type (float64 for integers).
    """
    points = _points(xyz)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([z, c.R_INNER * np.arctan2(y, -x), np.hypot(x, y) - c.R_INNER], axis=-1)


def xyz_from_uvw(uvw: ArrayLike) -> NDArray[Any]:
    """Cartesian coordinates of points in detector coordinates, the inverse of `uvw_from_xyz`.

    Args:
        uvw: (..., 3), cm.

    Returns:
        x, y, z: (..., 3), cm, of the same floating type (float64 for integers).
    """
    points = _points(uvw)
    u, phi, r = points[..., 0], points[..., 1] / c.R_INNER, points[..., 2] + c.R_INNER
    return np.stack([-r * np.cos(phi), r * np.sin(phi), u], axis=-1)


def inside(xyz: ArrayLike) -> NDArray[np.bool_]:
    """Whether points lie in the active volume: between the six sensor surfaces, borders included.

    Args:
        xyz: (..., 3), cm.

    Returns:
        bool (...).
    """
    uvw = uvw_from_xyz(xyz)
    u, v, w = uvw[..., 0], uvw[..., 1], uvw[..., 2]
    half_length = c.Z_LENGTH_INNER / 2 + (w + (c.R_INNER - c.R_STRUCTURE)) * c.TAN_TILT
    in_depth = (w >= 0) & (w <= c.W_MAX)
    return np.asarray(in_depth & (np.abs(v) <= c.V_MAX) & (np.abs(u) <= half_length))


def in_fiducial(uvw: ArrayLike) -> NDArray[np.bool_]:
    """Whether points lie in the usual fiducial volume, |u| < 23.9, |v| < 67.9, w ≥ 0.

    Args:
        uvw: (..., 3), cm.

    Returns:
        bool (...).
    """
    points = _points(uvw)
    u, v, w = points[..., 0], points[..., 1], points[..., 2]
    return np.asarray((np.abs(u) < c.FIDUCIAL_U) & (np.abs(v) < c.FIDUCIAL_V) & (w >= 0))


def _points(values: ArrayLike) -> NDArray[Any]:
    points = np.asarray(values)
    if points.ndim == 0 or points.shape[-1] != 3:
        raise ValueError(f"points need a last axis of 3, got shape {points.shape}")
    return points if np.issubdtype(points.dtype, np.floating) else points.astype(np.float64)

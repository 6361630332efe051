"""Which share of each PMT the inner cylinder leaves visible from a point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo

Floats = NDArray[np.float32]


class Shadow:
    """A point at radius r sees another at r' past the cylinder of radius R if their azimuths differ by less than
    arccos(R/r) + arccos(R/r'). The edge of the shadow crosses the photocathode as a straight line; the share of a disc
    on one side of a line is taken as the smooth step ½ + ¾x − ¼x³ (within 0.01).
    """

    def __init__(self, geometry: geo.Geometry) -> None:
        position = geometry.positions[geo.N_SIPM :]
        normal = geometry.normals[geo.N_SIPM :]
        radius = np.hypot(position[:, 0], position[:, 1])
        tangent = np.sqrt(radius**2 - geo.R_INNER**2)
        radial = position * [1, 1, 0] / radius[:, None]
        around = np.stack([-radial[:, 1], radial[:, 0], np.zeros_like(radius)], axis=1)
        slope = (geo.R_INNER / (radius * tangent))[:, None] * radial
        widths = []
        for sign in (1, -1):
            gradient = slope + sign * around / radius[:, None]
            gradient -= np.einsum("ij,ij->i", gradient, normal)[:, None] * normal
            widths.append(np.linalg.norm(gradient, axis=1))
        self._per_width = (1 / (geo.PMT_RADIUS * np.mean(widths, axis=0))).astype(np.float32)
        self._azimuth = np.arctan2(position[:, 1], -position[:, 0]).astype(np.float32)
        self._reach = np.arccos(geo.R_INNER / radius).astype(np.float32)

    def visible(self, points: Floats) -> Floats:
        """Visible share of each PMT.

        Args:
            points: float32 (D, 3), cm.

        Returns:
            float32 (D, 668), 0…1.
        """
        azimuth = np.arctan2(points[:, 1], -points[:, 0])
        radius = np.maximum(np.hypot(points[:, 0], points[:, 1]), np.float32(geo.R_INNER))
        reach = np.arccos(np.float32(geo.R_INNER) / radius)
        x = np.subtract(azimuth[:, None], self._azimuth)
        np.abs(x, out=x)
        np.subtract(reach[:, None], x, out=x)
        x += self._reach
        x *= self._per_width
        np.clip(x, np.float32(-1), np.float32(1), out=x)
        cubic = x * x
        cubic -= np.float32(3)
        x *= cubic
        x *= np.float32(-0.25)
        x += np.float32(0.5)
        return x

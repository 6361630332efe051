"""Direct light: what reaches the sensors from point sources without a scattering.

Everything runs in float32 on arrays (points, sensors) small enough for the second-level cache, in buffers made once.
The solid angle is the exact one close by and an expansion of second order far away: integrating h/r³, which is
harmonic, over a small plane figure gives its area times h/r³·(1 + s²·(9 − 15c²)/r²), with c = h/r the cosine of
incidence and 2s² the mean of x² over the figure: s² = a²/6 for a square of half-side a, ρ²/8 for a disc of radius ρ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.fresnel import quartz, silicon_polynomial
from ingest.toymc.near import NearField, NearPairs
from ingest.toymc.shadow import Shadow
from shards import geometry as geo

Floats = NDArray[np.float32]

CENTRE = np.array([-85.0, 0.0, 0.0])
"""Origin of the float32 coordinates, in the middle of the xenon: distances then lose no digits that matter."""
_TILE = 1023
"""Sensors at a time: few enough for the cache, and for BLAS to use one thread (8 rows below 9216 elements), so that
results do not depend on the number of cores."""
_PMTS = slice(geo.N_SIPM, geo.N_SENSORS)


@dataclass(frozen=True)
class Share:
    """What `points` give to the sensors of one tile."""

    sensors: slice
    """Channels, S of them."""
    light: Floats
    """float32 (D, S): share of a point's photons that enters the sensor. Overwritten by the next tile."""
    distance: Floats
    """float32 (D, S), cm. Overwritten by the next tile."""
    cosine: Floats
    """float32 (D, S), of incidence at the centre, 0 behind the sensor. Overwritten by the next tile."""


class DirectLight:
    """Direct light of `points` point sources at all sensors of a geometry."""

    def __init__(self, geometry: geo.Geometry, points: int) -> None:
        self.geometry, self.n_points = geometry, points
        tiles = [slice(i, min(i + _TILE, geo.N_SIPM)) for i in range(0, geo.N_SIPM, _TILE)]
        self._tiles = [_Tile(geometry, sensors) for sensors in [*tiles, _PMTS]]
        self._near = NearField(geometry, np.array([tile.sensors.start for tile in self._tiles]))
        self._buffers = np.empty((5, points * _TILE), dtype=np.float32)
        self._shadow = Shadow(geometry)

    def near_pairs(self, points: NDArray[np.floating]) -> NearPairs:
        """Close pairs of the points (N, 3) of several events, to be handed to `shares`."""
        return self._near.pairs(np.asarray(points, dtype=np.float64), self.n_points)

    def shares(self, points: Floats, near: NearPairs | None = None, group: int = 0) -> Iterator[Share]:
        """The share of every point at every sensor, tile by tile.

        Args:
            points: float32 (D, 3), cm; D as given to the constructor.
            near: close pairs of many events, if they are known already.
            group: which of those events this is.
        """
        near = self.near_pairs(points) if near is None else near
        local = points - CENTRE.astype(np.float32)
        first = np.empty((len(points), 5), dtype=np.float32)
        first[:, :3], first[:, 3] = local, 1
        np.einsum("ij,ij->i", local, local, out=first[:, 4])
        for number, tile in enumerate(self._tiles):
            shape = (len(points), tile.size)
            distance, inverse2, cosine, share, free = (b[: shape[0] * shape[1]].reshape(shape) for b in self._buffers)
            np.matmul(first, tile.quadratic, out=inverse2)
            np.abs(inverse2, out=inverse2)  # rounding may make a touching one negative or 0; it is replaced below
            inverse2 += np.float32(1e-6)
            np.sqrt(inverse2, out=distance)
            np.reciprocal(inverse2, out=inverse2)
            np.matmul(first[:, :4], tile.plane, out=cosine)
            np.abs(cosine, out=free)
            cosine += free  # twice the height, 0 behind the sensor
            cosine /= distance
            tile.expansion(inverse2, cosine, share, free)
            if tile.is_pmt:
                share *= quartz(cosine, out=free)
            else:
                _into_silicon(cosine, share, free)
            begin, end = near.edges[group * len(self._tiles) + number :][:2]
            close = near.point[begin:end], near.sensor[begin:end]
            share[close], distance[close] = near.share[begin:end], near.distance[begin:end]
            cosine[close] = near.cosine[begin:end]
            if tile.is_pmt:
                share *= self._shadow.visible(points)
            np.multiply(distance, np.float32(-1 / c.EXTINCTION_LENGTH), out=free)
            np.exp(free, out=free)
            share *= free
            yield Share(tile.sensors, share, distance, cosine)


class _Tile:
    """Sensors of one kind, with the matrices that turn (x, y, z, 1, r²) of a point into squared distance and twice the
    height above the sensor plane."""

    def __init__(self, geometry: geo.Geometry, sensors: slice) -> None:
        self.sensors = sensors
        self.is_pmt = sensors == _PMTS
        position, normal = geometry.positions[sensors] - CENTRE, geometry.normals[sensors]
        self.size = len(position)
        ones = np.ones(self.size)
        self.quadratic = np.vstack([-2 * position.T, (position**2).sum(axis=1), ones]).astype(np.float32)
        self.plane = np.vstack([normal.T, -(normal * position).sum(axis=1)]).astype(np.float32)
        square, radius = (2 * geo.SIPM_SQUARE_HALF_SIDE) ** 2, geo.PMT_RADIUS
        self.size2 = radius**2 / 8 if self.is_pmt else square / 24
        self.share = radius**2 / 4 if self.is_pmt else square / (4 * np.pi)

    def expansion(self, inverse2: Floats, cosine: Floats, share: Floats, free: Floats) -> None:
        """Share of the sphere by the expansion, from twice the cosine; leaves the cosine itself behind."""
        cosine *= np.float32(0.5)
        np.multiply(inverse2, np.float32(self.share), out=free)
        free *= cosine
        np.multiply(cosine, cosine, out=share)
        share *= np.float32(-15 * self.size2)
        share += np.float32(9 * self.size2)
        share *= inverse2
        share += np.float32(1)
        share *= free


def _into_silicon(cosine: Floats, share: Floats, free: Floats) -> None:
    """Multiply by Fresnel's transmission, as a polynomial without constant term."""
    coefficients = silicon_polynomial()
    np.multiply(cosine, np.float32(coefficients[-1]), out=free)
    for coefficient in coefficients[-2::-1]:
        free += np.float32(coefficient)
        free *= cosine
    share *= free

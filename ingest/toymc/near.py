"""Sensors close to a light source: the exact solid angle, times Fresnel's transmission averaged over the surface.

Close to a sensor the direction to its centre says little about how light falls on it. The average is a quadrature over
the surface, weighted by the solid angle of each node. Pairs of points and sensors that are close are found for many
events at once, with k-d trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ingest.toymc.fresnel import quartz, silicon_polynomial
from shards import geometry as geo

Floats = NDArray[np.float64]

NEAR_SIPM, NEAR_PMT = 3.0, 10.0
"""What counts as close, cm. Beyond, the expansion of `direct` is within 0.2 % (SiPM) and 0.5 % (PMT) of the solid
angle, and the transmission at the centre within 0.5 % of the average."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of points and sensors, ordered by group of points and tile of sensors."""

    edges: NDArray[np.int64]
    """(groups·tiles + 1,): where each group's pairs with each tile begin."""
    point: NDArray[np.int64]
    """Index of the point in its group."""
    sensor: NDArray[np.int64]
    """Index of the sensor in its tile."""
    share: Floats
    """Share of the point's photons that would enter the sensor without extinction."""
    distance: Floats
    """cm."""
    cosine: Floats
    """Of incidence at the sensor's centre, 0 behind it."""


class NearField:
    """Finds and evaluates the close pairs in one geometry."""

    def __init__(self, geometry: geo.Geometry, first_channels: NDArray[np.int64]) -> None:
        self._first = first_channels
        """First channel of each tile of sensors."""
        self._position = geometry.positions
        self._frame = np.stack([*geometry.tangents, geometry.normals], axis=1)
        self._sipm = cKDTree(geometry.positions[: geo.N_SIPM])
        self._pmt = cKDTree(geometry.positions[geo.N_SIPM :])

    def pairs(self, points: Floats, group: int) -> NearPairs:
        """All close pairs.

        Args:
            points: (N, 3), cm; `group` consecutive ones are used together.
            group: points in a group.
        """
        tree = cKDTree(points)
        found = []
        for sensors, limit, offset in ((self._sipm, NEAR_SIPM, 0), (self._pmt, NEAR_PMT, geo.N_SIPM)):
            near = tree.sparse_distance_matrix(sensors, limit, output_type="ndarray")
            found.append((near["i"], near["j"] + offset))
        point, channel = (np.concatenate(x).astype(np.int64) for x in zip(*found, strict=True))
        tile = np.searchsorted(self._first, channel, side="right") - 1
        n_tiles = len(self._first)
        key = point // group * n_tiles + tile
        order = np.lexsort((channel, point, key))
        point, channel, tile, key = point[order], channel[order], tile[order], key[order]
        share, distance, cosine = self._evaluate(points[point], channel)
        edges = np.searchsorted(key, np.arange(len(points) // group * n_tiles + 1))
        return NearPairs(edges, point % group, channel - self._first[tile], share, distance, cosine)

    def _evaluate(self, points: Floats, channel: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        x, y, height = np.einsum("ikj,ij->ki", self._frame[channel], points - self._position[channel])
        taken, sipm = np.empty(len(channel)), channel < geo.N_SIPM
        taken[sipm] = square(x[sipm], y[sipm], height[sipm])
        taken[~sipm] = disc(x[~sipm], y[~sipm], height[~sipm])
        distance = np.sqrt(x * x + y * y + height * height)
        return taken / (4 * np.pi), distance, np.maximum(height, 0) / np.maximum(distance, 1e-6)


def square(x: Floats, y: Floats, height: Floats) -> Floats:
    """What a SiPM's equivalent square takes in: solid angle [sr] times transmission relative to normal incidence.

    Args:
        x, y, height: of the source in the sensor's frame, (n,), cm.

    Returns:
        float64 (n,), 0 behind the sensor.
    """
    weight, cosine = _weights(x, y, height, _square_nodes(), 0.15)
    transmission = np.polynomial.polynomial.polyval(cosine, (0.0, *silicon_polynomial()))
    return np.asarray(geo.square(x, y, height) * (weight * transmission).sum(axis=1) / weight.sum(axis=1))


def disc(x: Floats, y: Floats, height: Floats) -> Floats:
    """The same for the photocathode of a PMT."""
    weight, cosine = _weights(x, y, height, _disc_nodes(), 0.5)
    omega = geo.disc(np.hypot(x, y), height)
    return np.asarray(omega * (weight * quartz(cosine)).sum(axis=1) / weight.sum(axis=1))


def _weights(
    x: Floats, y: Floats, height: Floats, nodes: tuple[Floats, Floats, Floats], least: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Solid angle (up to a factor) and cosine of each node, (n, nodes), from `least` above the sensor: nearer sources
    would see single nodes."""
    at_x, at_y, area = (n.astype(np.float32) for n in nodes)
    h = np.maximum(height, least).astype(np.float32)[:, None]
    away2 = (x.astype(np.float32)[:, None] - at_x) ** 2 + (y.astype(np.float32)[:, None] - at_y) ** 2 + h * h
    cosine = h / np.sqrt(away2)
    return area * cosine / away2, cosine


@lru_cache
def _square_nodes() -> tuple[Floats, Floats, Floats]:
    """Gauss and Legendre's, 6×6."""
    at, weight = np.polynomial.legendre.leggauss(6)
    x, y = np.meshgrid(at * geo.SIPM_SQUARE_HALF_SIDE, at * geo.SIPM_SQUARE_HALF_SIDE)
    return x.ravel(), y.ravel(), np.outer(weight, weight).ravel()


@lru_cache
def _disc_nodes() -> tuple[Floats, Floats, Floats]:
    """Gauss and Legendre's along the squared radius, equal steps around, 6×16."""
    at, weight = np.polynomial.legendre.leggauss(6)
    radius, azimuth = np.meshgrid(geo.PMT_RADIUS * np.sqrt((at + 1) / 2), (np.arange(16) + 0.5) * np.pi / 8)
    return (radius * np.cos(azimuth)).ravel(), (radius * np.sin(azimuth)).ravel(), np.tile(weight, 16)

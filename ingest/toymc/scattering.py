"""Makes the table of scattered light: traces photons from sources all over the volume and fits the smooth function.

A scattering sends its light to all sensors at once: the formulas of direct light, weighted with Rayleigh's angular
distribution, give the expected share of each, which is far less noisy than to count photons that arrive. The fit
takes the logarithm as linear in the coefficients and the relative fluctuation as the same everywhere (a generalized
linear model with gamma errors and logarithmic link), so every step of Fisher's scoring is a product of fixed matrices.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ingest.toymc import tracing
from ingest.toymc.direct import CENTRE, DirectLight
from ingest.toymc.scattered import SOURCE_DEGREES, exponents, sensor_basis, shape, source_basis
from shards import geometry as geo
from shards.base import progress, published

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

N_SOURCES, PHOTONS = 10000, 600
_BATCH = 200
_AT_ONCE = 64
_LIMITS = (1.5, 3.0, 5.0, 8.0, 20.0, 100.0, 1e3, np.inf, np.inf, np.inf, np.inf, np.inf)
"""Largest relative residual taken at face value in each step; without a limit in the last ones."""
_LARGEST = 20.0
"""Bound of the logarithm of the smooth function while the fit is on its way."""


def make_table(seed: int = 1, sources: int = N_SOURCES, photons: int = PHOTONS) -> Floats:
    """Trace and fit: the coefficients of `scattered`, float64 (K, L). About 35 ms for each source of 600 photons."""
    rng = np.random.default_rng(seed)
    points = draw_sources(rng, sources)
    shares = np.empty((sources, geo.N_SENSORS), dtype=np.float32)
    with progress("scattered light", sources, "sources") as bar:
        for start in range(0, sources, _BATCH):
            batch = points[start : start + _BATCH]
            _, vertices = tracing.trace(rng, batch, photons)
            shares[start : start + _BATCH] = scattered_shares(vertices, len(batch)) / photons
            bar.advance(len(batch))
    return fit(points, shares)


def write_table(path: Path, coefficients: Floats) -> None:
    """Publish the table, rounded to 10⁻⁴ (ln S is then within 10⁻³), without negative zeros."""
    with published(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, coefficients=np.round(coefficients, 4).astype(np.float32) + np.float32(0))


def draw_sources(rng: np.random.Generator, n: int) -> Floats:
    """Points inside the volume, float64 (n, 3), cm: denser towards the walls, where polynomials must be held, and near
    the inner face, where most light is made."""
    found: list[Floats] = []
    while sum(len(f) for f in found) < n:
        phase = rng.uniform(-np.pi / 2, np.pi / 2, (n, 2))
        depth = np.where(rng.random(n) < 0.6, rng.exponential(9.0, n), rng.uniform(0, geo.W_MAX, n))
        half_length = geo.Z_LENGTH_INNER / 2 + depth * geo.TAN_TILT
        uvw = np.stack([half_length * np.sin(phase[:, 0]), geo.V_MAX * np.sin(phase[:, 1]), depth], axis=1)
        xyz = geo.xyz_from_uvw(uvw)
        found.append(xyz[geo.inside(xyz)])
    return np.concatenate(found)[:n]


def scattered_shares(vertices: tracing.Vertices, sources: int) -> Floats:
    """Expected photons entering each sensor from given scatterings, (sources, 4760)."""
    direct = DirectLight(geo.nominal(), _AT_ONCE)
    sensors = (geo.nominal().positions - CENTRE).astype(np.float32)
    total = np.zeros((sources, geo.N_SENSORS))
    order = np.argsort(vertices.source, kind="stable")
    for start in range(0, len(order), _AT_ONCE):
        chosen = order[start : start + _AT_ONCE]
        weight = np.zeros(_AT_ONCE)
        weight[: len(chosen)] = vertices.weight[chosen]
        chosen = np.pad(chosen, (0, _AT_ONCE - len(chosen)), mode="edge")
        position = vertices.position[chosen].astype(np.float32)
        direction = vertices.direction[chosen].astype(np.float32)
        along = np.einsum("ij,ij->i", direction, position - CENTRE.astype(np.float32))[:, None]
        source, inverse = np.unique(vertices.source[chosen], return_inverse=True)
        sums = np.zeros((len(source), _AT_ONCE), dtype=np.float32)
        sums[inverse, np.arange(_AT_ONCE)] = weight
        for share in direct.shares(position):
            cosine = (direction @ sensors[share.sensors].T - along) / share.distance
            total[source, share.sensors] += sums @ (np.float32(0.75) * (1 + cosine * cosine) * share.light)
    return total


def fit(points: Floats, shares: NDArray[np.float32]) -> Floats:
    """Coefficients (K, L) from shares (N, 4760) at points (N, 3), symmetric under z → −z and φ' → −φ'."""
    basis, sensors = source_basis(points), sensor_basis()
    onto_sources, onto_sensors = np.linalg.pinv(basis), np.linalg.pinv(sensors)
    formula = light_formula(points)
    parity = (-1.0) ** np.array(exponents(SOURCE_DEGREES))
    mirrors = [(parity[:, axis, None], mirrored(axis)) for axis in (0, 1)]
    coefficients = np.zeros((basis.shape[1], len(sensors)))
    for limit in _LIMITS:
        smooth = np.exp(np.clip(basis @ coefficients @ sensors, -_LARGEST, _LARGEST))
        residual = np.clip(shares / (formula * smooth) - 1, -1, limit)
        step = onto_sources @ residual
        for sign, mirror in mirrors:
            step = (step + sign * step[:, mirror]) / 2
        coefficients += step @ onto_sensors
        logger.debug("step %.3g", np.sqrt(np.mean((step @ onto_sensors @ sensors) ** 2)))
    return coefficients


def mirrored(axis: int) -> NDArray[np.int64]:
    """Channel (4760,) that each nominal channel becomes under z → −z (axis 0) or φ' → −φ' (axis 1)."""
    positions = geo.nominal().positions
    flip = np.array([1, 1, -1]) if axis == 0 else np.array([1, -1, 1])
    return np.asarray(cKDTree(positions).query(positions * flip)[1])


def light_formula(points: Floats) -> NDArray[np.float32]:
    """What the formula says of scattered light from points (n, 3): (n, 4760), the shares before any correction."""
    result = np.empty((len(points), geo.N_SENSORS), dtype=np.float32)
    for start in range(0, len(points), _BATCH):
        x, y, height = geo.local_coordinates(points[start : start + _BATCH])
        distance = np.sqrt(x * x + y * y + height * height)
        result[start : start + _BATCH] = shape(distance, np.maximum(height, 0) / distance)
    return result

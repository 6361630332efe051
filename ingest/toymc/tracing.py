"""Photon tracing in the xenon: Rayleigh scattering, absorption, black walls, sensors that let light in by Fresnel.

Slow and simple: used once to make the table of scattered light, and by the tests as the independent account of what
the fast formulas give. Absorption is a weight, so that no photon is lost to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ingest.toymc import constants as c
from ingest.toymc.fresnel import into_quartz, into_silicon
from shards import geometry as geo
from shards.geometry import constants as gc

Floats = NDArray[np.float64]

_FAINT = 1e-3
"""Photons of less weight than this are dropped (one in 10⁶ of the light)."""


@dataclass(frozen=True)
class Vertices:
    """Scatterings: n of them."""

    source: NDArray[np.int64]
    """Index of the source the photon came from."""
    position: Floats
    """(n, 3), cm."""
    direction: Floats
    """(n, 3), of the photon before it is scattered."""
    weight: Floats
    """(n,), survival of absorption up to here."""


@dataclass(frozen=True)
class Hits:
    """Photons that entered sensors: n of them."""

    source: NDArray[np.int64]
    channel: NDArray[np.int64]
    weight: Floats
    """Survival of absorption times Fresnel's transmission."""
    scatterings: NDArray[np.int64]
    path: Floats
    """Length of the photon's way, cm."""


def isotropic(rng: np.random.Generator, n: int) -> Floats:
    """Unit vectors, (n, 3)."""
    cosine, azimuth = rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=1)


def trace(rng: np.random.Generator, points: Floats, photons: int) -> tuple[Hits, Vertices]:
    """Follow photons from isotropic point sources to the walls.

    Args:
        rng: generator.
        points: (N, 3), cm, inside the volume.
        photons: number emitted by each source.

    Returns:
        The photons that entered sensors of the nominal geometry, and every scattering on the way.
    """
    source = np.repeat(np.arange(len(points)), photons)
    position, direction = points[source], isotropic(rng, len(source))
    weight, path, scatterings = np.ones(len(source)), np.zeros(len(source)), np.zeros(len(source), dtype=np.int64)
    hits, vertices = [], []
    while len(source):
        free = rng.exponential(c.RAYLEIGH_LENGTH, len(source))
        wall = wall_distance(position, direction)
        length = np.minimum(free, wall)
        position = position + length[:, None] * direction
        weight, path = weight * np.exp(-length / c.ABSORPTION_LENGTH), path + length
        out = wall <= free
        channel, entering = enter(position[out], direction[out])
        seen = channel >= 0
        hits.append(
            Hits(
                source[out][seen],
                channel[seen],
                (weight[out] * entering)[seen],
                scatterings[out][seen],
                path[out][seen],
            )
        )
        keep = ~out & (weight > _FAINT)
        source, position, direction = source[keep], position[keep], direction[keep]
        weight, path, scatterings = weight[keep], path[keep], scatterings[keep] + 1
        vertices.append(Vertices(source, position, direction, weight))
        direction = rayleigh(rng, direction)
    all_hits = Hits(*(np.concatenate([getattr(h, f) for h in hits]) for f in Hits.__dataclass_fields__))
    return all_hits, Vertices(
        *(np.concatenate([getattr(v, f) for v in vertices]) for f in Vertices.__dataclass_fields__)
    )


def rayleigh(rng: np.random.Generator, direction: Floats) -> Floats:
    """Directions after a Rayleigh scattering of unpolarized light, ∝ 1 + cos²θ (the root of Cardano's equation)."""
    u = 4 * rng.random(len(direction)) - 2
    root = np.cbrt(u + np.sqrt(u * u + 1))
    cosine = np.clip(root - 1 / root, -1, 1)
    helper = np.where(np.abs(direction[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    azimuth = rng.uniform(0, 2 * np.pi, len(direction))
    sine = np.sqrt(1 - cosine**2)
    turned = cosine[:, None] * direction + (sine * np.cos(azimuth))[:, None] * first
    turned += (sine * np.sin(azimuth))[:, None] * second
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))


def wall_distance(position: Floats, direction: Floats) -> Floats:
    """Way to the nearest of the six walls, cm, for points inside: cylinders, planes and cones, (n,)."""
    x, y, z = position.T
    dx, dy, dz = direction.T
    a, b, r2 = dx**2 + dy**2, x * dx + y * dy, x**2 + y**2
    with np.errstate(divide="ignore", invalid="ignore"):
        inner2 = b * b - a * (r2 - geo.R_INNER**2)
        inner = np.where((inner2 > 0) & (b < 0), (-b - np.sqrt(np.maximum(inner2, 0))) / a, np.inf)
        outer = (-b + np.sqrt(np.maximum(b * b - a * (r2 - geo.R_OUTER**2), 0))) / a
        nearest = np.minimum(np.where(inner > 0, inner, np.inf), outer)
        for phi in (geo.PHI_RANGE / 2, -geo.PHI_RANGE / 2):
            normal = np.sign(phi) * np.array([np.sin(phi), np.cos(phi)])
            plane = -(x * normal[0] + y * normal[1]) / (dx * normal[0] + dy * normal[1])
            nearest = np.minimum(nearest, np.where(plane > 1e-9, plane, np.inf))
        offset = geo.Z_LENGTH_INNER / 2 - gc.R_STRUCTURE * geo.TAN_TILT
        for side in (1, -1):
            e, f = side * z - offset, side * dz
            qa, qb, qc = f * f - geo.TAN_TILT**2 * a, e * f - geo.TAN_TILT**2 * b, e * e - geo.TAN_TILT**2 * r2
            discriminant = qb * qb - qa * qc
            root = np.sqrt(np.maximum(discriminant, 0))
            for t in ((-qb - root) / qa, (-qb + root) / qa):
                real = (discriminant >= 0) & (t > 1e-9) & (e + t * f > 0)
                nearest = np.minimum(nearest, np.where(real, t, np.inf))
    return np.asarray(nearest)


def enter(position: Floats, direction: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Which sensor photons on the walls enter, and with what probability.

    Args:
        position: (n, 3), cm, on the walls.
        direction: (n, 3), of flight.

    Returns:
        Channel (n,), −1 between sensors, and Fresnel's transmission (n,).
    """
    uvw = geo.uvw_from_xyz(position)
    channel = np.full(len(position), -1)
    inner = uvw[:, 2] < 1e-6
    rows, columns = gc.INNER_SHAPE
    half, middle = geo.SIPM_SQUARE_HALF_SIDE, (rows - 1) / 2
    v_pitch = gc.INNER_PHI_PITCH * geo.R_INNER
    row = np.clip(np.rint(middle - uvw[inner, 1] / v_pitch), 0, rows - 1)
    column = np.clip(np.rint(uvw[inner, 0] / gc.INNER_Z_PITCH + (columns - 1) / 2), 0, columns - 1)
    on_v = np.abs(uvw[inner, 1] - (middle - row) * v_pitch) < half
    on_u = np.abs(uvw[inner, 0] - (column - (columns - 1) / 2) * gc.INNER_Z_PITCH) < half
    channel[inner] = np.where(on_v & on_u, row * columns + column, -1)
    away, pmt = _pmt_tree().query(position[~inner], distance_upper_bound=geo.PMT_RADIUS)
    channel[~inner] = np.where(np.isfinite(away), pmt + geo.N_SIPM, -1)
    normal = geo.nominal().normals[np.maximum(channel, 0)]
    cosine = np.maximum(-np.einsum("ij,ij->i", direction, normal), 0)
    entering = np.where(channel < geo.N_SIPM, into_silicon(cosine), into_quartz(cosine))
    return channel, np.where(channel >= 0, entering, 0.0)


def _pmt_tree() -> cKDTree:
    return cKDTree(geo.nominal().positions[geo.N_SIPM :])

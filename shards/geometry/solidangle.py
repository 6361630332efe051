"""Solid angles of the sensors, seen from a point source.

`rectangle` and `disc` are the two primitives, in a sensor's own frame; `solid_angle` applies them to every sensor of a
geometry. All are zero for a source in or behind the sensor plane, which the bare formulas are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.detector import Geometry, nominal

Floats = NDArray[np.float64]

PAIRS_AT_ONCE = 1 << 17  # a chunk of temporaries stays in the cache of one core
_FAR = 3.6
_FAR_NODES = 8
_FAR_COSINES: list[float] = np.cos((np.arange(_FAR_NODES) + 0.5) * np.pi / _FAR_NODES).tolist()


def rectangle(x: ArrayLike, y: ArrayLike, height: ArrayLike, a: float, b: float) -> NDArray[Any]:
    """Solid angle of a rectangle, exact.

    Ω = Σ ± atan((±a − x)(±b − y) / (h·√((±a − x)² + (±b − y)² + h²))) over the four corners.
    Far away the four terms nearly cancel: in float64 the error stays below 1e-14 sr, in float32 below 1e-6 sr.

    Args:
        x, y: position of the source along the sides of half-length a and b, from the centre [cm]; broadcast together.
        height: height of the source above the plane on the sensitive side [cm].
        a, b: half-sides [cm].

    Returns:
        Solid angle [sr], in the floating type of the inputs; 0 where height ≤ 0, NaN where an input is NaN.
    """
    return _product_of_strips(x, y, height, (-a, a), (-b, b))


def chips(x: ArrayLike, y: ArrayLike, height: ArrayLike) -> NDArray[Any]:
    """Solid angle of the four chips of one SiPM (2×2, side 0.59 cm, gaps of 0.05 cm), exact.

    Args, Returns: as `rectangle`.
    """
    inner, outer = c.SIPM_CHIP_GAP / 2, c.SIPM_CHIP_GAP / 2 + c.SIPM_CHIP_SIDE
    edges = (-outer, -inner, inner, outer)
    return _product_of_strips(x, y, height, edges, edges)


def square(x: ArrayLike, y: ArrayLike, height: ArrayLike) -> NDArray[Any]:
    """Solid angle of the square that has the area of the four chips (half-side 0.59 cm).

    Faster than `chips`, for sources that are not close. Args, Returns: as `rectangle`.
    """
    return rectangle(x, y, height, c.SIPM_SQUARE_HALF_SIDE, c.SIPM_SQUARE_HALF_SIDE)


def disc(distance: ArrayLike, height: ArrayLike, radius: float = c.PMT_RADIUS) -> Floats:
    """Solid angle of a disc, exact.

    Far from the rim by the boundary integral Ω = 2∫₀^π (R² − Rρ·cos α) / (q(q + h)) dα with
    q² = h² + R² + ρ² − 2Rρ·cos α, which has no singularity at the rim and whose smooth periodic integrand needs eight
    midpoints. Near the rim, where it is peaked, by the same integral in complete elliptic integrals (Paxton,
    Rev. Sci. Instrum. 30 (1959) 254), in Carlson's forms.

    Args:
        distance: lateral distance of the source from the axis [cm]; broadcast with `height`.
        height: height of the source above the plane on the sensitive side [cm].
        radius: of the disc [cm].

    Returns:
        Solid angle [sr], float64; 0 where height ≤ 0, NaN where an input is NaN.
    """
    rho, h = np.broadcast_arrays(np.abs(np.asarray(distance, dtype=np.float64)), np.asarray(height, dtype=np.float64))
    omega = np.where(np.isnan(rho) | np.isnan(h), np.nan, 0.0)
    rho_unit, h_unit = rho / radius, h / radius
    front = (h > 0) & ~np.isnan(rho)
    # a = cosh η, where exp(−2η) is the factor that the midpoint rule gains with each node on the half circle
    far = rho_unit**2 + h_unit**2 + 1 > 2 * _FAR * rho_unit
    for part, method in ((front & far, _disc_quadrature), (front & ~far, _disc_elliptic)):
        omega[part] = method(rho_unit[part], h_unit[part])
    return omega


def local_coordinates(
    points: ArrayLike, geometry: Geometry | None = None, sensors: slice | ArrayLike = slice(None)
) -> tuple[Floats, Floats, Floats]:
    """Points in the frame of each sensor.

    Args:
        points: (N, 3), cm, Cartesian.
        geometry: nominal if not given.
        sensors: channels, as a slice or an index array of n.

    Returns:
        x, y (along `Geometry.tangents`) and height along the normal, from the sensor's centre; each float64 (N, n), cm.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: shape {points.shape}, expected (N, 3)")
    geometry = nominal() if geometry is None else geometry
    chosen = sensors if isinstance(sensors, slice) else np.asarray(sensors)
    axes, offsets = _frames(geometry)
    x, y, height = (_dot(points, axis[:, chosen]) - offset[chosen] for axis, offset in zip(axes, offsets, strict=True))
    return x, y, height


def solid_angle(
    points: ArrayLike,
    geometry: Geometry | None = None,
    sensors: slice | ArrayLike = slice(None),
    *,
    sipm: Literal["chips", "square"] = "chips",
    pmt_radius: float = c.PMT_RADIUS,
) -> Floats:
    """Solid angle of sensors from point sources. Nothing shadows: a PMT behind another face is seen all the same.

    Args:
        points: (N, 3), cm, Cartesian.
        geometry: nominal if not given.
        sensors: channels, as a slice or an index array of n.
        sipm: shape of a SiPM: its four chips, or the square of equal area (faster).
        pmt_radius: photocathode radius [cm].

    Returns:
        float64 (N, n), sr; 0 for sources behind a sensor.
    """
    points = np.asarray(points, dtype=np.float64)
    channels = np.arange(c.N_SENSORS)[sensors if isinstance(sensors, slice) else np.asarray(sensors)]
    is_sipm = channels < c.N_SIPM
    shape: Callable[..., NDArray[Any]] = {"chips": chips, "square": square}[sipm]
    omega = np.empty((len(points), len(channels)))
    step = max(1, PAIRS_AT_ONCE // max(1, len(channels)))
    for start in range(0, len(points), step):
        block = slice(start, start + step)
        if is_sipm.any():
            omega[block, is_sipm] = shape(*local_coordinates(points[block], geometry, channels[is_sipm]))
        if not is_sipm.all():
            x, y, height = local_coordinates(points[block], geometry, channels[~is_sipm])
            omega[block, ~is_sipm] = disc(np.hypot(x, y), height, pmt_radius)
    return omega


@lru_cache(maxsize=4)
def _frames(geometry: Geometry) -> tuple[tuple[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Axes of the sensor frames, each (3, 4760), and the sensors' own coordinates along them, each (4760,)."""
    first, second = geometry.tangents
    axes = (first, second, geometry.normals)
    offsets = [np.einsum("ij,ij->i", geometry.positions, axis) for axis in axes]
    x, y, n = (frozen(axis.T) for axis in axes)
    return (x, y, n), (frozen(offsets[0]), frozen(offsets[1]), frozen(offsets[2]))


def _dot(points: Floats, axes: Floats) -> Floats:
    """(N, 3) · (3, n), term by term: a BLAS product would round differently with the number of points."""
    product: Floats = points[:, 0:1] * axes[0] + points[:, 1:2] * axes[1] + points[:, 2:3] * axes[2]
    return product


def _product_of_strips(
    x: ArrayLike, y: ArrayLike, height: ArrayLike, x_edges: tuple[float, ...], y_edges: tuple[float, ...]
) -> NDArray[Any]:
    """Solid angle of the rectangles between edges 0–1, 2–3 … along x and along y."""
    x, y, h = np.broadcast_arrays(np.asarray(x), np.asarray(y), np.asarray(height))
    behind = h <= 0
    h = np.where(behind, 1, h)
    h2 = h * h
    omega: Any = 0.0
    for i, x_edge in enumerate(x_edges):
        dx = x_edge - x
        dx2h2 = dx * dx + h2
        for j, y_edge in enumerate(y_edges):
            dy = y_edge - y
            term = np.arctan2(dx * dy, h * np.sqrt(dx2h2 + dy * dy))
            omega = omega + term if (i + j) % 2 == 0 else omega - term
    return np.where(behind, 0, np.maximum(omega, 0))


def _disc_quadrature(rho: Floats, h: Floats) -> Floats:
    """Boundary integral over a disc of radius 1 by the midpoint rule."""
    total = np.zeros_like(rho)
    base, twice = rho * rho + h * h + 1, 2 * rho
    for cosine in _FAR_COSINES:
        q = np.sqrt(base - twice * cosine)
        total += (1 - rho * cosine) / (q * (q + h))
    return np.maximum(total * (2 * np.pi / _FAR_NODES), 0)


def _disc_elliptic(rho: Floats, h: Floats) -> Floats:
    """Disc of radius 1: step − (2h/q₁)·(K(m) + (1 − ρ)/(1 + ρ)·Π(n, m)), with 1 − m and 1 − n free of cancellation."""
    from scipy.special import ellipkm1, elliprf, elliprj

    q1_squared = h**2 + (1 + rho) ** 2
    m_complement = (h**2 + (1 - rho) ** 2) / q1_squared
    ratio = (1 - rho) / (1 + rho)
    step = np.pi * (1 + np.sign(1 - rho))
    on_rim = ratio == 0
    n_complement = np.where(on_rim, 1.0, ratio**2)
    third_kind = elliprf(0.0, m_complement, 1.0) + (1 - ratio**2) / 3 * elliprj(0.0, m_complement, 1.0, n_complement)
    third = np.where(on_rim, 0.0, ratio * third_kind)
    omega: Floats = step - 2 * h / np.sqrt(q1_squared) * (ellipkm1(m_complement) + third)
    return np.maximum(omega, 0)

"""Position from the shape of the light on the inner face: a point source fitted to the sensors around the maximum.

Model: photons of sensor k = A·Ω_k(u, v, w) + B, with Ω the solid angle of a square SiPM. A (the light) and B (scattered
light, locally constant) are profiled analytically (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10
(1973) 413, with Kaufman's Jacobian), so three parameters are left for a damped Gauss-Newton iteration that runs on all
events of a batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.light import LightCentre, window_photons, window_table
from xectrain.baselines.raw import Floats

Array = NDArray[np.float64]

FIT_HALF = 3
"""The fit uses 7×7 sensors."""
STATISTICS = 11.0
"""Variance of a sensor's photon number per photon: excess-noise factor over detection efficiency."""
NOISE = 70.0
"""Variance without light [photons²]: one photoelectron of noise over the efficiency, squared."""
CALIBRATION = 0.03
"""Relative uncertainty of a channel's efficiency."""
START_DEPTHS = (0.4, 0.8, 1.5, 2.5, 4.0, 6.5, 10.0, 16.0, 26.0)
DEPTH_RANGE = (0.02, 41.0)
ITERATIONS = 20
CONVERGED = 1e-3
"""Step [cm] below which an event is done: a hundredth of what the fit resolves."""


@dataclass(frozen=True)
class LocalFit:
    """Result of the fit, each array (n,)."""

    u: Array
    v: Array
    w: Array
    """Fitted point [cm]. Without a correction its depth is biased by centimetres: a shower is not a point."""
    amplitude: Array
    """A [photons/sr]."""
    background: Array
    """B [photons]."""
    chi2: Array
    """Per degree of freedom; NaN where fewer than 6 sensors were usable and the point is the light-weighted start."""


@dataclass
class _Window:
    """The sensors of a window, for a subset of events: positions and axes (n, k, 3), photons and weights (n, k)."""

    position: Array
    along: Array
    across: Array
    normal: Array
    photons: Array
    used: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> _Window:
        return _Window(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def local_fit(
    npho: Floats,
    centre: LightCentre,
    half: int = FIT_HALF,
    start: Array | None = None,
    geometry: geo.Geometry | None = None,
) -> LocalFit:
    """Fit a point source to the window around the brightest inner sensor.

    Args:
        npho: (n, 4760), photons, NaN at dead sensors (which are left out).
        centre: of the same events.
        half: the window is (2·half+1)² sensors.
        start: (n, 3) starting points [cm]; by default the light-weighted u, v and the best of a few depths.
        geometry: nominal if not given.
    """
    window = _window(npho, centre.channel, half, geometry or geo.nominal())
    if start is None:
        start = _best_depth(window, centre)
    point = np.array(start, dtype=np.float64)
    point[:, 2] = np.clip(point[:, 2], *DEPTH_RANGE)
    enough = np.count_nonzero(window.used, axis=1) >= 6
    _iterate(window, point, np.flatnonzero(enough))
    omega = _solid_angle(window, point)[0]
    weight = _weights(window, omega)
    amplitude, background, residual = _profile(window.photons, omega, weight)
    freedom = np.count_nonzero(window.used, axis=1) - 5
    chi2 = np.where(enough, (weight * residual**2).sum(axis=1) / np.maximum(freedom, 1), np.nan)
    return LocalFit(point[:, 0], point[:, 1], point[:, 2], amplitude, background, chi2)


def _window(npho: Floats, channel: NDArray[np.int64], half: int, geometry: geo.Geometry) -> _Window:
    table = np.maximum(window_table(half)[channel], 0)
    photons = window_photons(npho, channel, half).astype(np.float64)
    used = ~np.isnan(photons)
    along, across = geometry.tangents
    position, along, across, normal = (a[table] for a in (geometry.positions, along, across, geometry.normals))
    return _Window(position, along, across, normal, np.nan_to_num(photons), used)


def _best_depth(window: _Window, centre: LightCentre) -> Array:
    """The light-weighted point at the depth of smallest χ²."""
    best = np.full(len(centre.u), np.inf)
    point = np.stack([centre.u, centre.v, np.full_like(centre.u, START_DEPTHS[0])], axis=1)
    weight = window.used / (STATISTICS * np.maximum(window.photons, 0) + NOISE + (CALIBRATION * window.photons) ** 2)
    for depth in START_DEPTHS:
        trial = np.stack([centre.u, centre.v, np.full_like(centre.u, depth)], axis=1)
        amplitude, _, residual = _profile(window.photons, _solid_angle(window, trial)[0], weight)
        chi2 = np.where(amplitude > 0, (weight * residual**2).sum(axis=1), np.inf)
        better = chi2 < best
        best[better], point[better] = chi2[better], trial[better]
    return point


def _iterate(window: _Window, point: Array, active: NDArray[np.int64]) -> None:
    """Levenberg-Marquardt on the rows `active` of `point`, in place; weights follow the model."""
    damping = np.full(len(point), 1e-2)
    for _ in range(ITERATIONS):
        if not active.size:
            return
        part, here, lam = window.of(active), point[active], damping[active]
        omega, gradient = _solid_angle(part, here, with_gradient=True)
        weight = _weights(part, omega)
        amplitude, _, residual = _profile(part.photons, omega, weight)
        step = _step(omega, gradient * amplitude[:, None, None], residual, weight, lam)
        trial = here + np.clip(step, -3.0, 3.0)
        trial[:, 2] = np.clip(trial[:, 2], here[:, 2] / 3, here[:, 2] * 3 + 0.05)
        trial[:, 2] = np.clip(trial[:, 2], *DEPTH_RANGE)
        after = _profile(part.photons, _solid_angle(part, trial)[0], weight)[2]
        better = (weight * after**2).sum(axis=1) <= (weight * residual**2).sum(axis=1)
        point[active[better]] = trial[better]
        damping[active] = np.where(better, lam / 5, lam * 8)
        moved = np.abs(trial - here).max(axis=1)
        active = active[~((moved < CONVERGED) | (damping[active] > 1e6))]


def _weights(window: _Window, omega: Array) -> Array:
    """Inverse variances from the model's photons (from the data's they would favour downward fluctuations)."""
    first = window.used / (STATISTICS * np.maximum(window.photons, 0) + NOISE + (CALIBRATION * window.photons) ** 2)
    amplitude, background, _ = _profile(window.photons, omega, first)
    model = np.maximum(amplitude[:, None] * omega + background[:, None], 0)
    return np.asarray(window.used / (STATISTICS * model + NOISE + (CALIBRATION * model) ** 2))


def _profile(photons: Array, omega: Array, weight: Array) -> tuple[Array, Array, Array]:
    """The best A and B (n,) for given solid angles (n, k), and the residuals photons − model (n, k)."""
    total = np.maximum(weight.sum(axis=1), 1e-300)
    mean_n, mean_o = (weight * photons).sum(axis=1) / total, (weight * omega).sum(axis=1) / total
    dn, do = photons - mean_n[:, None], omega - mean_o[:, None]
    amplitude = (weight * do * dn).sum(axis=1) / np.maximum((weight * do * do).sum(axis=1), 1e-300)
    return amplitude, mean_n - amplitude * mean_o, dn - amplitude[:, None] * do


def _step(omega: Array, jacobian: Array, residual: Array, weight: Array, damping: Array) -> Array:
    """Gauss-Newton step (n, 3), the Jacobian (n, k, 3) taken orthogonal to the profiled A and B."""
    total = np.maximum(weight.sum(axis=1), 1e-300)
    do = omega - ((weight * omega).sum(axis=1) / total)[:, None]
    norm = np.maximum((weight * do * do).sum(axis=1), 1e-300)
    centred = jacobian - np.einsum("nk,nkj->nj", weight, jacobian)[:, None, :] / total[:, None, None]
    along = np.einsum("nk,nkj->nj", weight * do, centred) / norm[:, None]
    centred = centred - do[:, :, None] * along[:, None, :]
    weighted = centred * weight[:, :, None]
    normal = np.einsum("nki,nkj->nij", weighted, centred)
    diagonal = np.einsum("nii->ni", normal)
    diagonal += damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-30
    gradient = np.einsum("nkj,nk->nj", weighted, residual)
    return np.asarray(np.linalg.solve(normal, gradient[..., None])[..., 0])


def _solid_angle(window: _Window, uvw: Array, with_gradient: bool = False) -> tuple[Array, Array]:
    """Solid angles (n, k) of the window's sensors from the points (n, 3), and ∂Ω/∂(u, v, w) (n, k, 3) on request."""
    r, phi = uvw[:, 2] + geo.R_INNER, uvw[:, 1] / geo.R_INNER
    cosine, sine = np.cos(phi), np.sin(phi)
    source = np.stack([-r * cosine, r * sine, uvw[:, 0]], axis=1)
    offset = source[:, None, :] - window.position
    x, y, h = (np.einsum("nki,nki->nk", offset, axis) for axis in (window.along, window.across, window.normal))
    h = np.maximum(h, 1e-3)
    side = geo.SIPM_SQUARE_HALF_SIDE
    omega = np.zeros_like(h)
    slopes = np.zeros((3, *h.shape)) if with_gradient else None
    for sign_p, p in ((1, side - x), (-1, -side - x)):
        for sign_q, q in ((1, side - y), (-1, -side - y)):
            sign = sign_p * sign_q
            p2, q2, h2 = p * p, q * q, h * h
            root = np.sqrt(p2 + q2 + h2)
            omega += sign * np.arctan2(p * q, h * root)
            if slopes is not None:
                ph, qh = p2 + h2, q2 + h2
                slopes[0] -= sign * q * h / (ph * root)
                slopes[1] -= sign * p * h / (qh * root)
                slopes[2] -= sign * p * q * (ph + qh) / (ph * qh * root)
    if slopes is None:
        return omega, omega
    cartesian = sum(
        slope[:, :, None] * axis
        for slope, axis in zip(slopes, (window.along, window.across, window.normal), strict=True)
    )
    zero = np.zeros_like(r)
    moves = np.stack(
        [
            np.stack([zero, zero, zero + 1], axis=1),
            np.stack([sine, cosine, zero], axis=1) * (r / geo.R_INNER)[:, None],
            np.stack([-cosine, sine, zero], axis=1),
        ],
        axis=2,
    )
    return omega, np.einsum("nki,nij->nkj", cartesian, moves)

"""Position from the shape of the light on the inner face: a point source fitted to the sensors around the maximum.

The model and the iteration are those of `xectrain.localfit`, which the networks use as well; here the fit starts from
the best of many depths and goes on until every event has come to rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.light import LightCentre, window_photons, window_table
from xectrain.baselines.raw import Floats
from xectrain.localfit import fit_point, profile, variance
from xectrain.patch import Patch, sensor_frames, solid_angle
from xectrain.workers import single_threaded

Array = NDArray[np.float64]

FIT_HALF = 3
"""The fit uses 7×7 sensors."""
START_DEPTHS = (0.4, 0.8, 1.5, 2.5, 4.0, 6.5, 10.0, 16.0, 26.0)
STEPS, ROUNDS = 5, 4
"""Steps at a time, and how many times for events that have not come to rest."""
CONVERGED = 1e-3
"""Step [cm] below which an event is done: a hundredth of what the fit resolves."""
ENOUGH_SENSORS = 6


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


@single_threaded()
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
    patch = _patch(npho, centre.channel, half, geometry or geo.nominal())
    point_B3 = _best_depth(patch, centre) if start is None else torch.from_numpy(np.array(start, dtype=np.float64))
    enough_B = patch.used_BS.sum(dim=1) >= ENOUGH_SENSORS
    rows = torch.nonzero(enough_B)[:, 0]
    for _ in range(ROUNDS):
        fit = fit_point(patch.of(rows), point_B3[rows], STEPS)
        point_B3[rows] = fit.uvw_B3
        rows = rows[fit.moved_B > CONVERGED]
    fit = fit_point(patch, point_B3, steps=0)
    u, v, w = fit.uvw_B3.numpy().T
    chi2 = np.where(enough_B.numpy(), fit.chi2_B.numpy(), np.nan)
    return LocalFit(u, v, w, fit.amplitude_B.numpy(), fit.background_B.numpy(), chi2)


def _patch(npho: Floats, channel: NDArray[np.int64], half: int, geometry: geo.Geometry) -> Patch:
    table = np.maximum(window_table(half)[channel], 0)
    photons = window_photons(npho, channel, half).astype(np.float64)
    used = ~np.isnan(photons)
    position, frame = geometry.positions.T[:, table], sensor_frames(geometry)[:, :, table]
    return Patch(*(torch.from_numpy(a) for a in (position, frame, np.nan_to_num(photons), used.astype(np.float64))))


def _best_depth(patch: Patch, centre: LightCentre) -> torch.Tensor:
    """The light-weighted point at the depth of smallest χ², (n, 3)."""
    best_B = torch.full((len(centre.u),), torch.inf, dtype=torch.float64)
    start_B3 = torch.from_numpy(np.stack([centre.u, centre.v, np.full_like(centre.u, START_DEPTHS[0])], axis=1))
    point_B3 = start_B3.clone()
    root_BS = variance(patch.photons_BS, patch.used_BS).rsqrt()
    for depth in START_DEPTHS:
        start_B3[:, 2] = depth
        amplitude_B1, _, residual_BS = profile(patch.photons_BS, solid_angle(patch, start_B3), root_BS)
        chi2_B = residual_BS.square().sum(dim=1).where(amplitude_B1[:, 0] > 0, torch.inf)
        better_B = chi2_B < best_B
        best_B[better_B], point_B3[better_B] = chi2_B[better_B], start_B3[better_B]
    return point_B3

"""From deposits to light: expected photons at every sensor, and when the first of them arrive."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.direct import DirectLight
from ingest.toymc.library import N_DEPOSITS
from ingest.toymc.near import NearPairs
from ingest.toymc.scattered import ScatteredLight, source_basis
from ingest.toymc.shower import Deposits
from shards import geometry as geo

Floats = NDArray[np.float32]


class LightModel:
    """Direct and scattered light in one geometry."""

    def __init__(self, geometry: geo.Geometry, points: int = N_DEPOSITS) -> None:
        self.geometry = geometry
        self._direct = DirectLight(geometry, points)
        self._scattered = ScatteredLight()

    def light(self, deposits: Deposits, photons_per_mev: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Expected photons entering each sensor, and the mean arrival of the unscattered ones.

        Args:
            deposits: of n gammas.
            photons_per_mev: (n,), photons emitted per MeV.

        Returns:
            Photons float32 (n, 4760), and arrival float32 (n, 4760) in ns after the first interaction. Where nothing
            arrives without a scattering, the arrival is that along the straight line.
        """
        n = len(deposits.energy)
        photons = deposits.energy * photons_per_mev[:, None].astype(np.float32)
        basis = source_basis(deposits.points).astype(np.float32)
        light = np.empty((n, geo.N_SENSORS), dtype=np.float32)
        arrival = np.empty_like(light)
        near = self._direct.near_pairs(deposits.points.reshape(-1, 3))
        for event in range(n):
            points, delay = deposits.points[event], deposits.delay[event]
            self._one(near, event, points, photons[event], delay, basis[event], light[event], arrival[event])
        return light, arrival

    def _one(
        self,
        near: NearPairs,
        event: int,
        points: Floats,
        photons: Floats,
        delay: Floats,
        basis: Floats,
        light: Floats,
        arrival: Floats,
    ) -> None:
        """Fill `light` and `arrival`, float32 (4760,), for one event."""
        weights = np.stack([photons, photons * delay, photons * np.float32(c.N_GROUP / c.LIGHT_SPEED)])
        faint = np.float32(FAINT)
        for share in self._direct.shares(points, near, event):
            here = share.sensors
            share.light[...] += faint
            first, moment = np.dot(weights[:2], share.light)
            np.subtract(first, faint * weights[0].sum(), out=light[here])
            share.light[...] *= share.distance
            moment += np.dot(weights[2], share.light)
            np.divide(moment, np.maximum(first, np.float32(1e-20)), out=arrival[here])
            self._scattered.add(share, basis, photons, light)


FAINT = 1e-9
"""Share of the sphere added to every direct one in the mean of arrival times only, so that it exists everywhere."""


@lru_cache(maxsize=2)
def light_model(geometry: str | None) -> LightModel:
    """The light model of a geometry file (nominal if None); built once per process."""
    return LightModel(geo.nominal() if geometry is None else geo.load(Path(geometry)))

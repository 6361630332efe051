"""Expected signals for given parameters: the likelihood of the toy, for limits, oracles and fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingest.toymc import constants as c
from ingest.toymc.library import N_DEPOSITS, read_showers
from ingest.toymc.light import light_model
from ingest.toymc.response import EFFICIENCY, EXCESS, NOISE2, TIME_NOISE2, Response
from ingest.toymc.shower import Deposits, place
from ingest.toymc.source import Gammas
from shards import geometry as geo


@dataclass(frozen=True)
class Signals:
    """Expected signals of n events; arrays (n, 4760), float64."""

    mean: NDArray[np.float64]
    """Photoelectrons μ."""
    time: NDArray[np.float64]
    """Mean time after the first interaction, ns: arrival of the light and emission of the k-th photoelectron."""

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of the charge: F·μ + noise², photoelectrons²."""
        return np.asarray((1 + EXCESS) * self.mean + NOISE2)

    @property
    def time_variance(self) -> NDArray[np.float64]:
        """Of the time, ns²: emission, electronics, noise, and the channel's unknown offset."""
        return time_variance(self.mean)


def expectation(
    uvw: ArrayLike,
    energy: ArrayLike,
    *,
    direction: ArrayLike | None = None,
    shower: ArrayLike | None = None,
    response: Response | None = None,
    geometry: str | None = None,
) -> NDArray[np.float32]:
    """Expected photoelectrons μ of every sensor.

    Args:
        uvw: (N, 3), cm: the first interaction, or the place of all light if no shower is given.
        energy: (N,) or a number, MeV: incident, of which the part outside the volume makes no light.
        direction: (N, 3) of flight; from the target centre to the first interaction if not given.
        shower: (N,) or one index into the shower library; all light at one point if not given.
        response: true efficiencies of a run; the nominal 0.12 and 0.16 if not given.
        geometry: a table of surveyed positions; nominal if not given.

    Returns:
        float32 (N, 4760).
    """
    return signals(uvw, energy, direction=direction, shower=shower, response=response, geometry=geometry).mean.astype(
        np.float32
    )


def signals(
    uvw: ArrayLike,
    energy: ArrayLike,
    *,
    direction: ArrayLike | None = None,
    shower: ArrayLike | None = None,
    turn: ArrayLike = 0.0,
    response: Response | None = None,
    geometry: str | None = None,
) -> Signals:
    """Expected charges and times; arguments as of `expectation`, and `turn` (N,) [rad], which rotates the showers
    about the flight."""
    first = geo.xyz_from_uvw(np.atleast_2d(np.asarray(uvw, dtype=np.float64)))
    n = len(first)
    energies = np.broadcast_to(np.asarray(energy, dtype=np.float64), n)
    along = first if direction is None else np.broadcast_to(np.asarray(direction, dtype=np.float64), (n, 3))
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    gammas = Gammas(np.zeros((n, 3)), along, first, energies)
    deposits = _point(first, energies) if shower is None else _showers(gammas, np.asarray(shower), np.asarray(turn))
    light, arrival = light_model(geometry).light(deposits, np.full(n, c.PHOTONS_PER_MEV))
    mean = light.astype(np.float64) * (EFFICIENCY if response is None else response.efficiency)
    return Signals(mean, arrival + emission_time(mean))


def emission_time(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean emission of the k-th of `mean` photoelectrons, k = max(1, 0.045·N), ns."""
    return np.asarray(np.maximum(c.TRIGGER_FRACTION, 1 / np.maximum(mean, 1)) * c.DECAY_TIME)


def time_variance(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of a sensor's time with `mean` photoelectrons (..., 4760), ns²."""
    n = np.maximum(mean, 1)
    emission = np.maximum(c.TRIGGER_FRACTION * n, 1) * (c.DECAY_TIME / n) ** 2
    return np.asarray(emission + TIME_NOISE2 / n**2 + c.TIME_JITTER**2 + c.TIME_OFFSET_SPREAD**2)


def _point(first: NDArray[np.float64], energy: NDArray[np.float64]) -> Deposits:
    points = np.repeat(first[:, None, :], N_DEPOSITS, axis=1).astype(np.float32)
    shares = np.zeros((len(first), N_DEPOSITS), dtype=np.float32)
    shares[:, 0] = np.where(geo.inside(first), energy, 0)
    return Deposits(points, shares, np.zeros_like(shares))


def _showers(gammas: Gammas, shower: NDArray[np.int64], turn: NDArray[np.float64]) -> Deposits:
    n, library = len(gammas.energy), read_showers()
    shower, turn = np.broadcast_to(shower, n), np.broadcast_to(turn, n)
    x, y, z = np.moveaxis(library.points[shower], 2, 0)
    cosine, sine = np.cos(turn)[:, None], np.sin(turn)[:, None]
    local = np.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=2)
    energy = library.shares[shower] * gammas.energy[:, None]
    return place(gammas, local.astype(np.float64), energy, library.delay[shower])

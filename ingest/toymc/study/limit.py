"""How well the parameters of an event can be known: Cramér–Rao bounds from the toy's own likelihood.

Charges are nearly Gaussian with variance F·μ + noise², times with that of their order statistic, so the information on
parameters θ is Σ (∂μ_i)(∂μ_j)/(F·μ + noise²) + Σ (∂t_i)(∂t_j)/σ_t²; derivatives are numerical. Three cases differ in
what is known of the shower:

`point`    all light comes from one point, whose position is meant: photon statistics alone;
`known`    a shower of the library, of which only place, energy and time are unknown: photon statistics alone again, for
           light that is spread;
`unknown`  the shower varies from event to event. Its fluctuations enter as a covariance of the signals; the number is
           what the best linear estimator attains on showers that it was not made from (width of the central 68 %).
           This holds what limits real reconstructions: fluctuating depth and leakage. The estimator is told where to
           expand, that is, nearly the truth.

Calibration errors, dead channels and pile-up are in none of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from ingest.toymc import constants as c
from ingest.toymc.library import FOLDER, read_showers
from ingest.toymc.likelihood import Signals, signals
from ingest.toymc.options import ToyOptions
from ingest.toymc.source import draw_gammas
from shards import geometry as geo
from shards.base import ConfigError, nearest, publish_json

Floats = NDArray[np.float64]

CASES = ("point", "known", "unknown")
STEP = 0.05
"""Of the derivatives by position, cm, to both sides."""
LEAST_CHARGE = 5.0
"""Sensors with fewer expected photoelectrons give no time here: theirs is not Gaussian."""
KNOWN_SHOWERS, UNKNOWN_SHOWERS, SLOPE_SHOWERS = 24, 3000, 400
TRIMMED = 0.05
"""Share of the showers, at either end, that a sensor's mean derivative leaves out. A shower that ends next to a sensor
has derivatives there that are hundreds of times the usual; one in some hundred would decide the mean, and "unbiased on
average" would be an estimator that moves with such showers only."""

KEPT = FOLDER / "limits.json"
"""Limits of case `unknown`, kept because one of them takes seconds. `python -m ingest.toymc.study.limit` remakes it."""
KEPT_GAMMAS, KEPT_DEPTHS = (20.0, 52.83), (1.0, 3.0, 8.0, 20.0)
"""MeV and cm."""
DISTANCE_DEPTHS = 10
"""Depths at which `signal_distance` stands for all: the middles of as many equal parts of the signal's."""


@dataclass(frozen=True)
class KeptLimit:
    """One entry of `KEPT`: standard deviations as of `Limit`."""

    gamma: float
    """Energy of the gamma, MeV."""
    depth: float
    u: float
    v: float
    w: float
    energy: float
    time: float


@lru_cache
def kept_limits() -> tuple[KeptLimit, ...]:
    """Limits of case `unknown` on a grid of gamma energies and depths."""
    return tuple(KeptLimit(**entry) for entry in json.loads(KEPT.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Limit:
    """Standard deviations that no unbiased estimator can beat (`unknown`: that the best linear one attains)."""

    case: str
    """One of `CASES`."""
    depth: float
    """w of the first interaction (`point`: of the light), cm."""
    u: float
    """cm."""
    v: float
    """cm."""
    w: float
    """cm."""
    energy: float
    """Relative."""
    time: float
    """At the first interaction, ns."""


def signal_distance() -> float:
    """68 % distance [cm] from the first interaction to the best linear estimator's (case `unknown`), for signal gammas.

    At the depths of the toy's signal gammas in the fiducial volume, all of them at u = v = 0.
    """
    rng = np.random.default_rng(20)
    uvw = geo.uvw_from_xyz(draw_gammas(rng, np.full(6000, c.SIGNAL_ENERGY), ToyOptions()).first)
    inside = geo.in_fiducial(uvw)
    distances = []
    for depth in np.quantile(uvw[inside, 2], (np.arange(DISTANCE_DEPTHS) + 0.5) / DISTANCE_DEPTHS):
        place = unknown_errors(rng, np.array([0.0, 0.0, depth]), c.SIGNAL_ENERGY)[:, :3]
        distances.append(np.linalg.norm(place - np.median(place, axis=0), axis=1))
    return float(np.quantile(distances, 0.68))


def fisher(derivatives: Floats, variance: Floats) -> Floats:
    """Information matrix of independent Gaussian measurements.

    Args:
        derivatives: (P, S), of the mean of each measurement by each parameter.
        variance: (S,).

    Returns:
        (P, P).
    """
    return np.asarray((derivatives / variance) @ derivatives.T)


def bounds(information: Floats) -> Floats:
    """Cramér–Rao bounds, (P,): square roots of the diagonal of the inverse."""
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(information))))


def limits(
    depths: Sequence[float], *, case: str = "known", energy: float = c.SIGNAL_ENERGY, u: float = 0.0, v: float = 0.0
) -> list[Limit]:
    """Bounds at the given depths [cm] for gammas of `energy` [MeV] that come from the target centre through (u, v).

    Raises:
        ConfigError: no such case.
    """
    if case not in CASES:
        raise ConfigError("is not known", item="case", found=repr(case), remedy=nearest(case, CASES))
    rng = np.random.default_rng(20)
    results = []
    for depth in depths:
        uvw = np.array([u, v, depth])
        if case == "unknown":
            values = _unknown_shower(rng, uvw, energy)
        else:
            values = _known_shower(rng, uvw, energy, KNOWN_SHOWERS if case == "known" else 0)
        results.append(Limit(case, depth, *(float(x) for x in values)))
    return results


def measurements(event: Signals, row: int, timed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Charges of all sensors and times of some as one vector, and its variances, each (4760 + timed,)."""
    mean = np.concatenate([event.mean[row], event.time[row, timed]])
    return mean, np.concatenate([event.variance[row], event.time_variance[row, timed]])


def derivatives(difference: Floats, charge: Floats, timed: NDArray[np.bool_]) -> Floats:
    """Derivatives (5, S) from differences (3, S) of measurements at ± `STEP` in u, v, w, and the charges (4760,)."""
    by_place = difference / (2 * STEP)
    by_energy = np.concatenate([charge, np.zeros(timed.sum())])
    by_time = np.concatenate([np.zeros(len(charge)), np.ones(timed.sum())])
    return np.vstack([by_place, by_energy, by_time])


def _known_shower(rng: np.random.Generator, uvw: Floats, energy: float, showers: int) -> Floats:
    """Median of the bounds over some showers (0: a point), (5,)."""
    picks = _near(rng, energy, showers) if showers else [None]
    found = []
    for shower in picks:
        event, timed, table = _around(uvw, energy, np.array([shower]) if shower is not None else None, np.zeros(1))
        _, variance = measurements(event, 0, timed)
        found.append(bounds(fisher(derivatives(table[:3, 0] - table[3:, 0], event.mean[0], timed), variance)))
    return np.asarray(np.median(found, axis=0))


def _unknown_shower(rng: np.random.Generator, uvw: Floats, energy: float) -> Floats:
    low, high = np.quantile(unknown_errors(rng, uvw, energy), [0.15865, 0.84135], axis=0)
    return np.asarray((high - low) / 2)


def unknown_errors(rng: np.random.Generator, uvw: Floats, energy: float) -> Floats:
    """Errors (M, 5) of the best linear estimator, made from one half of the showers and tried on the other.

    u, v, w [cm], energy (relative), time [ns]."""
    picks, turns = _near(rng, energy, UNKNOWN_SHOWERS), rng.uniform(0, 2 * np.pi, UNKNOWN_SHOWERS)
    half = UNKNOWN_SHOWERS // 2
    event = signals(np.tile(uvw, (len(picks), 1)), energy, shower=picks, turn=turns)
    average = event.mean[:half].mean(axis=0)
    timed = average > LEAST_CHARGE
    vectors = np.concatenate([event.mean, event.time[:, timed]], axis=1)
    few = slice(0, SLOPE_SHOWERS)
    _, _, table = _around(uvw, energy, picks[few], turns[few], timed)
    slopes = derivatives(np.asarray(trim_mean(table[:3] - table[3:], TRIMMED, axis=1)), average, timed)
    mean_event = Signals(average[None], event.time[:half].mean(axis=0)[None])
    _, noise = measurements(mean_event, 0, timed)
    weights = _best_linear(slopes, noise, vectors[:half])
    tried = (vectors[half:] - vectors[:half].mean(axis=0)) @ weights.T
    tried += rng.standard_normal(tried.shape) @ np.linalg.cholesky((weights * noise) @ weights.T).T
    return np.asarray(tried)


def _best_linear(slopes: Floats, noise: Floats, sample: Floats) -> Floats:
    """Weights (P, S) of the best linear unbiased estimator when signals fluctuate by `noise` (S,) independently and
    together as in the sample (M, S): (DᵀV⁻¹D)⁻¹DᵀV⁻¹ with V⁻¹ by Woodbury's identity."""
    together = (sample - sample.mean(axis=0)) / np.sqrt(len(sample) - 1)
    scaled = together / noise
    inner = np.eye(len(sample)) + scaled @ together.T
    plain = slopes / noise
    weighted = plain - (np.linalg.solve(inner, together @ plain.T).T @ scaled)
    return np.asarray(np.linalg.solve(weighted @ slopes.T, weighted))


def _around(
    uvw: Floats,
    energy: float,
    picks: NDArray[np.int64] | None,
    turns: Floats,
    timed: NDArray[np.bool_] | None = None,
) -> tuple[Signals, NDArray[np.bool_], Floats]:
    """Signals at a point for some showers, and the measurements (6, showers, S) at + and − `STEP` in u, v, w.

    The direction stays that of the central point."""
    n = 1 if picks is None else len(picks)
    shifts = np.concatenate([np.zeros((1, 3)), STEP * np.eye(3), -STEP * np.eye(3)])
    places = np.repeat(uvw + shifts, n, axis=0)
    direction = geo.xyz_from_uvw(uvw)
    shower = None if picks is None else np.tile(picks, 7)
    event = signals(places, energy, direction=direction, shower=shower, turn=np.tile(turns, 7))
    if timed is None:
        timed = event.mean[0] > LEAST_CHARGE
    vectors = np.concatenate([event.mean, event.time[:, timed]], axis=1).reshape(7, n, -1)
    return event, timed, vectors[1:]


def _near(rng: np.random.Generator, energy: float, count: int) -> NDArray[np.int64]:
    """Showers of about this energy: `count` different ones among the nearest 2·count (at least 1000)."""
    distance = np.abs(np.log(read_showers().energy / energy))
    return np.asarray(rng.choice(np.argsort(distance)[: max(1000, 2 * count)], count, replace=False))


def keep() -> None:
    """Remake `KEPT` (two minutes)."""
    entries = []
    for gamma in KEPT_GAMMAS:
        for depth in KEPT_DEPTHS:
            (one,) = limits([depth], case="unknown", energy=gamma)
            values = {name: round(value, 5) for name, value in asdict(one).items() if name not in ("case", "depth")}
            entries.append(asdict(KeptLimit(gamma=gamma, depth=depth, **values)))
    publish_json(KEPT, entries)


if __name__ == "__main__":
    keep()

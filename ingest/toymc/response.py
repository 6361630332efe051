"""Sensors and electronics: from the expected light to charge and time, with a response that is fixed within a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.counts import poisson
from ingest.toymc.options import ToyOptions
from shards import geometry as geo

Floats = NDArray[np.float32]

_IS_SIPM = np.arange(geo.N_SENSORS) < geo.N_SIPM


def per_kind(sipm: float, pmt: float) -> Floats:
    """float32 (4760,) with one value for SiPMs and one for PMTs."""
    return np.where(_IS_SIPM, sipm, pmt).astype(np.float32)


EFFICIENCY = per_kind(c.PDE_SIPM, c.QE_PMT)
EXCESS = per_kind(c.EXCESS_SIPM - 1, c.EXCESS_PMT - 1)
NOISE2 = per_kind(c.NOISE_SIPM**2, c.NOISE_PMT**2)
TIME_NOISE2 = np.float32(c.TIME_NOISE**2) * NOISE2


@dataclass(frozen=True)
class Response:
    """The channels of one run; arrays (4760,)."""

    efficiency: Floats
    """True efficiency: photoelectrons per photon."""
    calibrated: Floats
    """Efficiency as calibrated, by which charges are divided."""
    offset: Floats
    """Residual time offset, ns."""
    dead: NDArray[np.bool_]
    """Channels that give nothing."""


def draw_response(run: int, options: ToyOptions) -> Response:
    """The response of run `run`: a function of (seed, run) alone."""
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([options.seed, run, 0])))
    n = geo.N_SENSORS
    spread = np.clip(1 + options.response_spread * rng.standard_normal(n), 0.3, 1.7)
    known = np.clip(1 + options.calibration_spread * rng.standard_normal(n), 0.5, 1.5)
    offset = c.TIME_OFFSET_SPREAD * rng.standard_normal(n)
    dead = rng.random(n) < options.dead_fraction
    dead[list(options.dead_channels)] = True
    efficiency = EFFICIENCY * spread
    return Response(
        efficiency.astype(np.float32), (efficiency * known).astype(np.float32), offset.astype(np.float32), dead
    )


def detect(
    rng: np.random.Generator, light: Floats, arrival: Floats, response: Response, saturation: bool
) -> tuple[Floats, Floats]:
    """Charge and time of the sensors.

    Args:
        rng: generator.
        light: float32 (n, 4760), expected photons that enter the sensors.
        arrival: float32 (n, 4760), ns, mean arrival of the first light.
        response: of the run.
        saturation: whether SiPM pixels saturate.

    Returns:
        Photoelectrons float32 (n, 4760), and times float32 (n, 4760) in ns, NaN below one photoelectron.
    """
    counts = poisson(rng, light * response.efficiency)
    if saturation:
        sipm = counts[:, : geo.N_SIPM]
        np.multiply(-np.expm1(sipm / np.float32(-c.SIPM_PIXELS)), np.float32(c.SIPM_PIXELS), out=sipm)
    charge = counts * EXCESS
    charge += NOISE2
    np.sqrt(charge, out=charge)
    charge *= rng.standard_normal(light.shape, dtype=np.float32)
    charge += counts
    return charge, _times(rng, counts, charge, arrival, response)


def _times(rng: np.random.Generator, counts: Floats, charge: Floats, arrival: Floats, response: Response) -> Floats:
    """Emission of the k-th photoelectron, electronics, offset; `counts` is used up."""
    np.maximum(counts, np.float32(1), out=counts)
    order = counts * np.float32(c.TRIGGER_FRACTION)
    np.maximum(order, np.float32(1), out=order)
    time = rng.standard_gamma(order, dtype=np.float32)
    np.reciprocal(counts, out=counts)
    time *= counts
    time *= np.float32(c.DECAY_TIME)
    time += arrival
    time += response.offset
    counts *= counts
    counts *= TIME_NOISE2
    counts += np.float32(c.TIME_JITTER**2)
    np.sqrt(counts, out=counts)
    counts *= rng.standard_normal(counts.shape, dtype=np.float32)
    time += counts
    time[charge < c.MINIMUM_CHARGE] = np.nan
    return time

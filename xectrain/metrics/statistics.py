"""Statistics of one sample of residuals, each with its bootstrap uncertainty.

Everything here takes a one-dimensional float64 array and returns plain floats. No result depends on the order of the
events: the sample is sorted first, and the bootstrap resamples the sorted one with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], float]

PERCENT_68 = 68.0
FRACTION_1SIGMA = math.erf(1 / math.sqrt(2))
"""0.6827, the probability content of ±1σ of a Gaussian; the effective σ is half the smallest interval holding it."""
RESAMPLES = 100
CORE_CUT = 1.5
"""The core Gaussian is taken within ±1.5σ, where neither leakage nor pile-up tails contribute noticeably."""


@dataclass(frozen=True)
class Estimate:
    """A number and its statistical uncertainty (one standard deviation), both NaN where there were too few events."""

    value: float
    error: float


def finite(values: ArrayLike) -> Array:
    """The finite values, sorted, as float64."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return np.sort(array[np.isfinite(array)])


def mean(x: Array) -> float:
    """Arithmetic mean (the bias, for residuals)."""
    return float(np.mean(x)) if x.size else math.nan


def median(x: Array) -> float:
    """Median of a sorted sample."""
    return quantile(x, 0.5)


def spread(x: Array) -> float:
    """Standard deviation about the mean: what ROOT prints as RMS."""
    return float(np.std(x)) if x.size else math.nan


def skewness(x: Array) -> float:
    """Third standardized moment; 0 for a sample without spread."""
    if not x.size:
        return math.nan
    centred = x - np.mean(x)
    variance = float(np.mean(centred * centred))
    return float(np.mean(centred * centred * centred)) / variance**1.5 if variance > 0 else 0.0


def quantile(x: Array, q: float) -> float:
    """Quantile of a sorted sample, linear between order statistics (the definition of numpy.quantile)."""
    if not x.size:
        return math.nan
    position = q * (x.size - 1)
    low = int(position)
    high = min(low + 1, x.size - 1)
    return float(x[low] + (position - low) * (x[high] - x[low]))


def percentile_68(x: Array) -> float:
    """68th percentile of a sorted sample; of |residual| this is the resolution that counts every tail."""
    return quantile(x, PERCENT_68 / 100)


def half_width_68(x: Array) -> float:
    """Half the central interval holding 68.27 %: σ for a Gaussian, insensitive to the bias."""
    return (
        (quantile(x, 0.5 + FRACTION_1SIGMA / 2) - quantile(x, 0.5 - FRACTION_1SIGMA / 2)) / 2
        if x.size > 1
        else math.nan
    )


def upper_half_width(x: Array) -> float:
    """From the median up to the point with 15.87 % above: σ for a Gaussian, blind to leakage on the low side."""
    return quantile(x, 0.5 + FRACTION_1SIGMA / 2) - quantile(x, 0.5) if x.size > 1 else math.nan


def effective_sigma(x: Array) -> float:
    """Half the smallest interval holding 68.27 % of a sorted sample: σ for a Gaussian, whatever its position."""
    if x.size < 2:
        return math.nan
    held = min(max(math.ceil(FRACTION_1SIGMA * x.size), 1), x.size)
    return float(np.min(x[held - 1 :] - x[: x.size - held + 1])) / 2


def core_sigma(x: Array, cut: float = CORE_CUT) -> float:
    """σ of the Gaussian core of a sorted sample.

    Mean and spread within ±cut·σ of the mean, corrected for the truncation, repeated until they no longer move; the
    spread of a Gaussian cut at ±k is σ·sqrt(1 − 2k·φ(k)/(2Φ(k) − 1)). No bins and no starting values to choose.
    """
    if x.size < 2:
        return math.nan
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    shrink = math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))
    centre, sigma = median(x), effective_sigma(x)
    for _ in range(100):
        first, last = np.searchsorted(x, (centre - cut * sigma, centre + cut * sigma))
        core = x[first:last]
        if core.size < 2:
            return sigma
        moved = (float(np.mean(core)), float(np.std(core)) / shrink)
        if abs(moved[0] - centre) + abs(moved[1] - sigma) <= 1e-7 * sigma:
            return moved[1]
        centre, sigma = moved
    return sigma


def estimate(sample: ArrayLike, *statistics: Statistic, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """Evaluate statistics on a sample with bootstrap uncertainties (Efron 1979), all on the same resamples.

    Args:
        sample: (n,) values; non-finite ones are left out.
        statistics: functions of a sorted float64 array.
        resamples: bootstrap repetitions; the uncertainty itself is good to 1/√(2·resamples).
        seed: of the bootstrap.
    """
    ordered = finite(sample)
    values = [statistic(ordered) for statistic in statistics]
    if ordered.size < 2 or resamples < 2:
        return [Estimate(value, math.nan) for value in values]
    generator = np.random.default_rng((seed, ordered.size))
    repeated = np.empty((resamples, len(statistics)))
    for k in range(resamples):
        drawn = np.bincount(generator.integers(0, ordered.size, ordered.size), minlength=ordered.size)
        again = np.repeat(ordered, drawn)
        repeated[k] = [statistic(again) for statistic in statistics]
    errors = np.std(repeated, axis=0, ddof=1)
    return [Estimate(value, float(error)) for value, error in zip(values, errors, strict=True)]

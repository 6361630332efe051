"""Are predicted uncertainties right? Pulls, calibration and coverage of σ, coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xectrain.metrics.statistics import RESAMPLES, Estimate, estimate, mean, spread

FRACTION_2SIGMA = 1.959964
"""A Gaussian holds 95 % within this many σ."""


def uncertainty_metrics(
    residual: ArrayLike, sigma: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Judge predicted uncertainties.

    Args:
        residual: (n,) prediction − truth.
        sigma: (n,) predicted uncertainty, same unit.

    Returns:
        `pull_mean`, `pull_width` (0 and 1 when right), `calibration` = mean predicted σ / RMS residual, and
        `coverage_68`, `coverage_95`: the fractions within 1σ (nominal 0.683) and 1.96σ (nominal 0.95).
    """
    r, s = np.asarray(residual, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    usable = np.isfinite(r) & np.isfinite(s) & (s > 0)
    r, s = r[usable], s[usable]
    pull_mean, pull_width = estimate(r / s, mean, spread, resamples=resamples, seed=seed)
    result = {"pull_mean": pull_mean, "pull_width": pull_width}
    squares, mean_sigma = estimate(r * r, mean, resamples=resamples)[0], estimate(s, mean, resamples=resamples)[0]
    ratio = mean_sigma.value / math.sqrt(squares.value) if squares.value > 0 else math.nan
    relative = math.hypot(0.5 * _ratio(squares), _ratio(mean_sigma))
    result["calibration"] = Estimate(ratio, ratio * relative)
    for name, width in (("coverage_68", 1.0), ("coverage_95", FRACTION_2SIGMA)):
        result[name] = fraction(np.abs(r) <= width * s)
    return result


def fraction(inside: NDArray[np.bool_]) -> Estimate:
    """The fraction of true values, with its binomial uncertainty; NaN without any."""
    if not inside.size:
        return Estimate(math.nan, math.nan)
    p = float(np.mean(inside))
    return Estimate(p, math.sqrt(p * (1 - p) / inside.size))


def _ratio(quantity: Estimate) -> float:
    return quantity.error / quantity.value if quantity.value else math.nan

"""Fits of an energy peak: position and width with errors, by unbinned maximum likelihood within a window.

Shapes, all normalized within the window:

- `single`: a Gaussian;
- `expgauss`: a Gaussian that turns into an exponential below μ − τ with continuous value and slope, which is what
  energy leaking out of the xenon looks like;
- `double`: a Gaussian and a wider one below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from iminuit import Minuit
from numpy.typing import ArrayLike, NDArray

from shards.base import ConfigError, nearest

Array = NDArray[np.float64]

WINDOW = (-3.0, 1.5)
"""MeV below and above the peak that a fit uses."""
MIN_EVENTS = 50
SHAPES = ("expgauss", "double", "single")
FLOOR = 1e-300


@dataclass(frozen=True)
class PeakFit:
    """A fitted peak, in the unit of the values."""

    shape: str
    mean: float
    mean_error: float
    sigma: float
    """Of the Gaussian core."""
    sigma_error: float
    parameters: tuple[float, ...]
    """μ, σ, and for `expgauss` τ; for `double` the wider one's fraction, shift and width."""
    window: tuple[float, float]
    events: int
    """Within the window."""
    minus_log_likelihood: float

    def density(self, x: ArrayLike) -> Array:
        """Probability density within the window at x."""
        return density(self.shape, np.asarray(x, dtype=np.float64), self.parameters, self.window)


def fit_peak(
    values: ArrayLike, near: float, shape: str = "expgauss", window: tuple[float, float] = WINDOW
) -> PeakFit | None:
    """Fit the peak near a known energy.

    Args:
        values: (n,), e.g. MeV; NaN are left out.
        near: where the peak is expected.
        shape: out of `SHAPES`.
        window: below and above the peak; it follows the peak found.

    Returns:
        None with fewer than `MIN_EVENTS` values in the window.

    Raises:
        ConfigError: an unknown shape.
    """
    if shape not in SHAPES:
        raise ConfigError("there is no such peak shape", found=shape, remedy=nearest(shape, SHAPES))
    x = np.asarray(values, dtype=np.float64)
    x = np.sort(x[np.isfinite(x)])
    centre = _mode(x, near, window)
    fit: PeakFit | None = None
    for _ in range(4):
        low, high = centre + window[0], centre + window[1]
        inside = x[(x >= low) & (x <= high)]
        if inside.size < MIN_EVENTS:
            return None
        fit = _fit(inside, centre, shape, (low, high))
        if abs(fit.mean - centre) < 0.02 * (window[1] - window[0]):
            return fit
        centre = fit.mean
    return fit


def _mode(x: Array, near: float, window: tuple[float, float]) -> float:
    """Middle of the shortest interval holding a third of the values around `near`."""
    reach = 2 * max(-window[0], window[1])
    around = x[np.abs(x - near) <= reach]
    if around.size < 3:
        return near
    held = max(2, around.size // 3)
    width = around[held - 1 :] - around[: around.size - held + 1]
    first = int(np.argmin(width))
    return float(around[first] + around[first + held - 1]) / 2


def _fit(x: Array, centre: float, shape: str, window: tuple[float, float]) -> PeakFit:
    width = window[1] - window[0]
    sigma = max(min(float(np.subtract(*np.quantile(x, (0.84, 0.5)))), width / 4), width / 100)
    extra = {"single": [], "expgauss": [sigma], "double": [0.2, 1.0 * sigma, 2.5 * sigma]}[shape]
    bounds = [window, (width / 1000, width)]
    bounds += {
        "single": [],
        "expgauss": [(width / 1000, 3 * width)],
        "double": [(0.0, 0.8), (0.0, width), (width / 200, 2 * width)],
    }[shape]

    def loss(p: Array) -> float:
        return float(-np.log(np.maximum(density(shape, x, tuple(p), window), FLOOR)).sum())

    fit = Minuit(loss, np.array([centre, sigma, *extra]))
    fit.errordef, fit.limits = Minuit.LIKELIHOOD, bounds
    fit.migrad()
    fit.hesse()
    mean, width_found = (float(fit.values[k]) for k in (0, 1))
    mean_error, width_error = (float(fit.errors[k]) if fit.accurate else math.nan for k in (0, 1))
    parameters = tuple(float(v) for v in fit.values)
    return PeakFit(shape, mean, mean_error, width_found, width_error, parameters, window, x.size, float(fit.fval))


def density(shape: str, x: Array, p: tuple[float, ...], window: tuple[float, float]) -> Array:
    """Probability density at x of a shape with parameters `p`, normalized within the window."""
    low, high = window
    if shape == "single":
        return _gaussian(x, p[0], p[1]) / max(_gaussian_integral(p[0], p[1], low, high), FLOOR)
    if shape == "double":
        mean, sigma, fraction, shift, wide = p
        first = _gaussian(x, mean, sigma) / max(_gaussian_integral(mean, sigma, low, high), FLOOR)
        second = _gaussian(x, mean - shift, wide) / max(_gaussian_integral(mean - shift, wide, low, high), FLOOR)
        return np.asarray((1 - fraction) * first + fraction * second)
    return _expgauss(x, p[0], p[1], p[2]) / max(_expgauss_integral(p[0], p[1], p[2], low, high), FLOOR)


def _gaussian(x: Array, mean: float, sigma: float) -> Array:
    return np.asarray(np.exp(-0.5 * ((x - mean) / sigma) ** 2))


def _gaussian_integral(mean: float, sigma: float, low: float, high: float) -> float:
    scale = sigma * math.sqrt(2)
    return sigma * math.sqrt(math.pi / 2) * (math.erf((high - mean) / scale) - math.erf((low - mean) / scale))


def _expgauss(x: Array, mean: float, sigma: float, tau: float) -> Array:
    """exp(−(x−μ)²/2σ²) above μ − τ, exp((τ/σ²)·(τ/2 + x − μ)) below."""
    slope = tau / sigma**2
    tail = np.exp(np.minimum(slope * (tau / 2 + x - mean), 0.0))
    return np.where(x > mean - tau, _gaussian(x, mean, sigma), tail)


def _expgauss_integral(mean: float, sigma: float, tau: float, low: float, high: float) -> float:
    joint = min(max(mean - tau, low), high)
    slope = tau / sigma**2
    tail = 0.0
    if joint > low:
        tail = (math.exp(slope * (tau / 2 + joint - mean)) - math.exp(slope * (tau / 2 + low - mean))) / slope
    return tail + _gaussian_integral(mean, sigma, joint, high)

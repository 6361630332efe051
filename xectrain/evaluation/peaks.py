"""Fits of an energy peak: position and width with errors, and how well the shape describes it, by unbinned maximum
likelihood within a window.

Shapes, all normalized within the window:

- `double`: a Gaussian and a wider one at or below it. In the toy half of the events lose nothing, next to none less
  than 0.3 MeV, and the others what an annihilation photon or a part of the shower takes along, which is more: a core,
  and a shoulder that stands apart from it;
- `expgauss`: a Gaussian that turns into an exponential below μ − τ with continuous value and slope: a tail that grows
  out of the core;
- `single`: a Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from iminuit import Minuit
from numpy.typing import ArrayLike, NDArray

from shards.base import ConfigError, InputError, nearest
from xectrain.metrics import effective_sigma

Array = NDArray[np.float64]

WINDOW = (-3.0, 1.5)
"""MeV below and above the peak that a fit uses, up to an effective σ of `SHARP`; beyond, in proportion to it."""
SHARP = 1.5
LOWEST = -0.45
"""Part of the line's energy that the window reaches down at most."""
MIN_EVENTS = 50
SHAPES = ("double", "expgauss", "single")
PER_BIN, MAX_BINS = 5, 50
"""Expected events in a bin of χ² at least, and bins at most."""
GRID = 2001
"""Points of the window at which a shape is drawn for its maximum, width and quantiles."""
FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of width 1."""
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
    width: float
    """Full width of the whole curve at half of its maximum, over 2.355: σ, where the curve is a Gaussian."""
    width_error: float
    chi2: float
    """In bins that expect equal numbers of events."""
    ndf: int
    parameters: tuple[float, ...]
    """μ, σ, and for `expgauss` τ; for `double` the wider one's fraction, how far it is below, and its width over σ."""
    window: tuple[float, float]
    events: int
    """Within the window."""
    minus_log_likelihood: float

    def density(self, x: ArrayLike) -> Array:
        """Probability density within the window at x."""
        return density(self.shape, np.asarray(x, dtype=np.float64), self.parameters, self.window)

    def moved_to(self, mean: float) -> PeakFit:
        """The fit of the same values, all moved by so much that the peak lies at `mean`."""
        by = mean - self.mean
        low, high = self.window
        return replace(self, mean=mean, parameters=(mean, *self.parameters[1:]), window=(low + by, high + by))


def fit_peak(values: ArrayLike, near: float, shape: str = SHAPES[0]) -> PeakFit | None:
    """Fit the peak near a known energy, in a window that follows the peak found.

    Args:
        values: (n,), MeV; NaN are left out.
        near: where the peak is expected, MeV.
        shape: out of `SHAPES`.

    Returns:
        None with fewer than `MIN_EVENTS` values in the window.

    Raises:
        ConfigError: an unknown shape.
    """
    if shape not in SHAPES:
        raise ConfigError("there is no such peak shape", found=shape, remedy=nearest(shape, SHAPES))
    x = np.asarray(values, dtype=np.float64)
    x = np.sort(x[np.abs(x - near) < 0.5 * near])
    if x.size < MIN_EVENTS:
        return None
    window = np.array(WINDOW) * min(max(1.0, effective_sigma(x) / SHARP), LOWEST * near / WINDOW[0])
    centre = _mode(x, near, window)
    fit: PeakFit | None = None
    for _ in range(4):
        low, high = (float(centre + edge) for edge in window)
        inside = x[(x >= low) & (x <= high)]
        if inside.size < MIN_EVENTS:
            return None
        fit = _fit(inside, centre, shape, (low, high))
        if abs(fit.mean - centre) < 0.02 * (window[1] - window[0]):
            return fit
        centre = fit.mean
    return fit


def too_few(energies: Array, line: float) -> InputError:
    """What is said where no peak can be fitted to the energies of a line, MeV."""
    low, middle, high = np.quantile(energies, (0.16, 0.5, 0.84)) if len(energies) else (np.nan,) * 3
    return InputError(
        f"there are too few events near the line at {line:g} MeV",
        found=f"{len(energies)} events at {middle:.1f} MeV, 68 % of them from {low:.1f} to {high:.1f}",
        expected=f"a peak with {MIN_EVENTS} events",
        remedy="give more events, or a model that has learned such energies",
    )


def _mode(x: Array, near: float, window: Array) -> float:
    """Middle of the shortest interval holding a third of the values around `near`."""
    around = x[np.abs(x - near) <= -2 * window[0]]
    if around.size < 3:
        return near
    held = max(2, around.size // 3)
    width = around[held - 1 :] - around[: around.size - held + 1]
    first = int(np.argmin(width))
    return float(around[first] + around[first + held - 1]) / 2


def _fit(x: Array, centre: float, shape: str, window: tuple[float, float]) -> PeakFit:
    width = window[1] - window[0]
    sigma = max(min(float(np.subtract(*np.quantile(x, (0.84, 0.5)))), width / 4), width / 100)
    extra = {"single": [], "expgauss": [sigma], "double": [0.2, 1.0 * sigma, 2.5]}[shape]
    reach = window[1] - centre
    bounds = [(centre - reach, window[1]), (width / 1000, width)]
    bounds += {
        "single": [],
        "expgauss": [(width / 1000, 3 * width)],
        "double": [(0.0, 0.7), (0.0, width), (1.0, 10.0)],
    }[shape]

    def loss(p: Array) -> float:
        return float(-np.log(np.maximum(density(shape, x, tuple(p), window), FLOOR)).sum())

    fit = Minuit(loss, np.array([centre, sigma, *extra]))
    fit.errordef, fit.limits = Minuit.LIKELIHOOD, bounds
    fit.migrad()
    fit.hesse()
    parameters = tuple(float(v) for v in fit.values)
    errors = np.array(fit.errors) if fit.accurate else np.full(len(parameters), math.nan)
    chi2, ndf = _chi2(x, shape, parameters, window)
    width_error = _width_error(shape, parameters, window, np.array(fit.covariance)) if fit.accurate else math.nan
    return PeakFit(
        shape,
        mean=parameters[0],
        mean_error=float(errors[0]),
        sigma=parameters[1],
        sigma_error=float(errors[1]),
        width=_width(shape, parameters, window),
        width_error=width_error,
        chi2=chi2,
        ndf=ndf,
        parameters=parameters,
        window=window,
        events=x.size,
        minus_log_likelihood=float(fit.fval),
    )


def _chi2(x: Array, shape: str, p: tuple[float, ...], window: tuple[float, float]) -> tuple[float, int]:
    """χ² and its degrees of freedom for values (n,), in bins between quantiles of the fitted shape."""
    bins = min(MAX_BINS, x.size // PER_BIN)
    grid = np.linspace(*window, GRID)
    d = density(shape, grid, p, window)
    cumulative = np.concatenate(([0.0], np.cumsum(d[1:] + d[:-1])))
    found, _ = np.histogram(np.interp(x, grid, cumulative / cumulative[-1]), bins, (0.0, 1.0))
    expected = x.size / bins
    return float(((found - expected) ** 2 / expected).sum()), bins - 1 - len(p)


def _width(shape: str, p: tuple[float, ...], window: tuple[float, float]) -> float:
    """Full width at half maximum over 2.355; NaN where the window ends before the curve has fallen to a half."""
    grid = np.linspace(*window, GRID)
    d = density(shape, grid, p, window)
    top = int(np.argmax(d))
    half = d[top] / 2
    if d[0] > half or d[-1] > half:
        return math.nan
    low = np.interp(half, d[: top + 1], grid[: top + 1])
    high = np.interp(half, d[top:][::-1], grid[top:][::-1])
    return float(high - low) / FWHM


def _width_error(shape: str, p: tuple[float, ...], window: tuple[float, float], covariance: Array) -> float:
    """The error of `_width` by its derivatives, from steps of a tenth of each parameter's error."""
    slopes = np.zeros(len(p))
    for k, error in enumerate(np.sqrt(np.diag(covariance))):
        if error > 0:
            up, down = (tuple(v + side * error / 10 * (i == k) for i, v in enumerate(p)) for side in (1, -1))
            slopes[k] = (_width(shape, up, window) - _width(shape, down, window)) / (error / 5)
    return math.sqrt(float(slopes @ covariance @ slopes))


def density(shape: str, x: Array, p: tuple[float, ...], window: tuple[float, float]) -> Array:
    """Probability density at x of a shape with parameters `p`, normalized within the window."""
    low, high = window
    if shape == "single":
        return _gaussian(x, p[0], p[1]) / max(_gaussian_integral(p[0], p[1], low, high), FLOOR)
    if shape == "double":
        mean, sigma, fraction, shift, ratio = p
        core = (1 - fraction) * _gaussian_integral(mean, sigma, low, high)
        wide = fraction / ratio * _gaussian_integral(mean - shift, ratio * sigma, low, high)
        return np.asarray(np.add(*double_parts(x, p)) / max(core + wide, FLOOR))
    return _expgauss(x, p[0], p[1], p[2]) / max(_expgauss_integral(p[0], p[1], p[2], low, high), FLOOR)


def double_parts(x: Array, p: tuple[float, ...]) -> tuple[Array, Array]:
    """The two Gaussians of `double` at x, relative to a core of height 1 without the wider one."""
    mean, sigma, fraction, shift, ratio = p
    return (1 - fraction) * _gaussian(x, mean, sigma), fraction / ratio * _gaussian(x, mean - shift, ratio * sigma)


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

"""Resolution and bias against another quantity, each bin with its bootstrap uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xectrain.metrics.statistics import RESAMPLES, Array, effective_sigma, estimate, mean, percentile_68

MIN_ENTRIES = 20
"""A bin with fewer events has no resolution worth drawing."""


@dataclass(frozen=True)
class Profile:
    """Residuals in bins of a quantity; all arrays have one element per bin, NaN where the bin is too empty."""

    edges: Array
    """(bins + 1,) bin edges in the quantity's unit."""
    centre: Array
    """Mean of the quantity over the bin's events."""
    count: Array
    bias: Array
    bias_error: Array
    sigma: Array
    """Effective σ."""
    sigma_error: Array
    res_68: Array
    """68th percentile of |residual|."""
    res_68_error: Array


def profile(
    quantity: ArrayLike,
    residual: ArrayLike,
    edges: ArrayLike | None = None,
    bins: int = 12,
    resamples: int = RESAMPLES,
    min_entries: int = MIN_ENTRIES,
) -> Profile:
    """Bias, effective σ and 68 % of |residual| in bins.

    Args:
        quantity: (n,) what to bin in; events outside the edges or with a non-finite value are left out.
        residual: (n,) prediction − truth (or any spread to look at).
        edges: (bins + 1,) increasing; by default `default_edges`.
        bins: their number, when there are no edges.
        min_entries: bins with fewer events give NaN.
    """
    x, r = np.asarray(quantity, dtype=np.float64), np.asarray(residual, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(r)
    x, r = x[usable], r[usable]
    bounds = default_edges(x, bins) if edges is None else np.asarray(edges, dtype=np.float64)
    index = np.searchsorted(bounds, x, side="right") - 1
    index[x == bounds[-1]] = bounds.size - 2
    columns = np.full((bounds.size - 1, 8), np.nan)
    columns[:, 1] = 0
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(bounds.size))
    for k in range(bounds.size - 1):
        rows = order[starts[k] : starts[k + 1]]
        columns[k, :2] = np.mean(x[rows]) if rows.size else (bounds[k] + bounds[k + 1]) / 2, rows.size
        if rows.size >= max(min_entries, 2):
            bias, sigma = estimate(r[rows], mean, effective_sigma, resamples=resamples)
            (res_68,) = estimate(np.abs(r[rows]), percentile_68, resamples=resamples)
            columns[k, 2:] = bias.value, bias.error, sigma.value, sigma.error, res_68.value, res_68.error
    return Profile(bounds, *columns.T)


def equal_count_edges(quantity: ArrayLike, bins: int) -> Array:
    """Edges of bins that hold about as many of the finite values each; fewer bins where values are equal."""
    x = np.asarray(quantity, dtype=np.float64)
    return np.unique(np.quantile(x[np.isfinite(x)], np.linspace(0, 1, bins + 1)))


def default_edges(quantity: ArrayLike, bins: int = 12) -> Array:
    """Equal-width edges over the central 99 % of the quantity; one bin when it has no spread.

    Whole numbers (runs, patches) are never cut in two: bins hold one each, or neighbouring ones of about equal number.
    """
    x = np.asarray(quantity, dtype=np.float64)
    x = x[np.isfinite(x)]
    if not x.size:
        return np.array([0.0, 1.0])
    if np.all(x == np.rint(x)):
        values = np.unique(x)
        firsts = values[np.unique(np.linspace(0, len(values), min(bins, len(values)) + 1).astype(np.int64)[:-1])]
        return np.append(firsts, values[-1] + 1.0) - 0.5
    low, high = np.quantile(x, (0.005, 0.995))
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        half = max(abs(low), 1.0) * 0.5
        return np.array([low - half, low + half])
    return np.linspace(low, high, bins + 1)

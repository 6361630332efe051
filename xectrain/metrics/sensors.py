"""How well single sensors are predicted: in photons, per face and against the light they have."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.geometry import FACE_NAMES
from xectrain.metrics.statistics import Array, estimate, mean, median, percentile_68, quantile
from xectrain.metrics.tasks import Metric

RESAMPLES = 30
"""Sensors are many; their bootstrap may be coarse."""
MIN_PHOTONS = 100.0
MIN_ENTRIES = 10
BINS_PER_DECADE = 4
DECADES = (10.0, 100.0, 1e3, 1e4, 1e5)
"""Of true photons."""
UNITS = {"npho": "photons", "time": "ns"}


@dataclass(frozen=True)
class RelativeErrors:
    """Errors relative to a photon number, in logarithmic bins; arrays (bins,), NaN where there are too few sensors."""

    edges: Array
    """(bins + 1,), photons."""
    count: Array
    mae: Array
    """Mean |prediction − truth| / truth."""
    rms: Array
    bias: Array
    """Mean (prediction − truth) / truth: a fill in log space is median-like and biases sums low."""
    mae_error: Array
    bias_error: Array


def sensor_metrics(
    channel: str, truth: ArrayLike, predicted: ArrayLike, face: NDArray[np.integer], resamples: int = RESAMPLES
) -> tuple[Metric, ...]:
    """Bias, median, 68 and 95 %, mean absolute and RMS error, over all hidden sensors and per face.

    Args:
        channel: `npho` (photons) or `time` (s, shown in ns).
        truth, predicted: (m,) of hidden sensors; sensors without a truth or prediction are left out.
        face: (m,) face codes.
    """
    scale = 1e9 if channel == "time" else 1.0
    error = scale * (np.asarray(predicted, dtype=np.float64) - np.asarray(truth, dtype=np.float64))
    good = np.isfinite(error)
    metrics: list[Metric] = []
    for where in ("all", *FACE_NAMES):
        chosen = good if where == "all" else good & (face == FACE_NAMES.index(where))
        if not chosen.any():
            continue
        e = error[chosen]
        bias, middle = estimate(e, mean, median, resamples=resamples)
        mae, res_68, res_95 = estimate(np.abs(e), mean, percentile_68, _percentile_95, resamples=resamples)
        (square,) = estimate(e * e, mean, resamples=resamples)
        rmse = float(np.sqrt(square.value))
        found = {"bias": bias, "median": middle, "mae": mae, "res_68pct": res_68, "res_95pct": res_95}
        metrics += [Metric(f"{n}_{where}_{channel}", v.value, v.error, UNITS[channel]) for n, v in found.items()]
        rmse_error = square.error / (2 * rmse) if rmse > 0 else 0.0
        metrics.append(Metric(f"rmse_{where}_{channel}", rmse, rmse_error, UNITS[channel]))
    return tuple(metrics)


def _percentile_95(x: Array) -> float:
    return quantile(x, 0.95)


def relative_errors(
    against: ArrayLike, truth: ArrayLike, predicted: ArrayLike, low: float = MIN_PHOTONS, high: float = 1e5
) -> RelativeErrors:
    """Relative errors of photon numbers in bins of `against` (the truth, or the prediction).

    Args:
        against: (m,) photons to bin in, from `low` to `high`.
        truth, predicted: (m,) photons; sensors with less than one true photon are left out.
    """
    x, t, p = (np.asarray(a, dtype=np.float64) for a in (against, truth, predicted))
    bins = max(1, round(BINS_PER_DECADE * np.log10(high / low)))
    edges = np.geomspace(low, high, bins + 1)
    good = np.isfinite(x) & np.isfinite(t) & np.isfinite(p) & (t >= 1) & (x >= low) & (x < high)
    index = np.clip(np.searchsorted(edges, x[good], side="right") - 1, 0, bins - 1)
    relative = (p[good] - t[good]) / t[good]
    count = np.bincount(index, minlength=bins).astype(np.float64)
    enough = np.where(count >= MIN_ENTRIES, count, np.nan)
    bias = np.bincount(index, relative, bins) / enough
    mae = np.bincount(index, np.abs(relative), bins) / enough
    square = np.bincount(index, relative * relative, bins) / enough
    bias_error = np.sqrt(np.maximum(square - bias**2, 0) / enough)
    mae_error = np.sqrt(np.maximum(square - mae**2, 0) / enough)
    return RelativeErrors(edges, count, mae, np.sqrt(square), bias, mae_error, bias_error)


@dataclass(frozen=True)
class FilledLight:
    """How much light was filled into hidden sensors, compared with what was there."""

    place: str
    """A face, or a decade of the true light (`10–100`)."""
    ratio: float
    """Sum filled / sum true: below 1, light is lost."""
    bias: float
    """Mean filled − true, photons."""
    count: int
    """Sensors."""


def filled_light(truth: ArrayLike, filled: ArrayLike, face: NDArray[np.integer]) -> list[FilledLight]:
    """Sums of light per face, then per decade of the true light; NaN where there is no sensor.

    Args:
        truth, filled: (m,) photons of hidden sensors; those without a value are left out.
        face: (m,) face codes.
    """
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(filled, dtype=np.float64)
    good = np.isfinite(t) & np.isfinite(p)
    places = [(name, good & (face == code)) for code, name in enumerate(FACE_NAMES)]
    places.append(("< 10", good & (t < DECADES[0])))
    places += [(f"{low:g}–{high:g}", good & (t >= low) & (t < high)) for low, high in itertools.pairwise(DECADES)]
    found = []
    for place, chosen in places:
        count, light = int(np.count_nonzero(chosen)), float(t[chosen].sum())
        ratio = float(p[chosen].sum()) / light if light > 0 else np.nan
        found.append(FilledLight(place, ratio, float(np.mean(p[chosen] - t[chosen])) if count else np.nan, count))
    return found

"""The numbers quoted for each task of the regressor (r = prediction − truth), in the units that people use.

Angles in degree, energies in MeV, times in ps, positions in cm. Columns come in canonical units (degree, GeV, ns, cm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xectrain.metrics.binned import Profile, profile
from xectrain.metrics.energy import EnergyFit, fit_energy_resolution
from xectrain.metrics.statistics import (
    RESAMPLES,
    Array,
    core_sigma,
    effective_sigma,
    estimate,
    half_width_68,
    mean,
    median,
    percentile_68,
    skewness,
    spread,
    upper_half_width,
)
from xectrain.metrics.uncertainty import fraction, uncertainty_metrics
from xectrain.tasks import QUANTITIES, TASKS, find_task

Columns = Mapping[str, ArrayLike]
Intervals = dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""The fraction of true values that an interval should hold → its ends, (n,) each."""


@dataclass(frozen=True)
class Metric:
    """One named number with unit and bootstrap uncertainty."""

    name: str
    value: float
    error: float
    unit: str


@dataclass(frozen=True)
class TaskMetrics:
    """All numbers of one task on one sample."""

    task: str
    events: int
    """Events with a finite truth and prediction in every column of the task."""
    missing_truth: int
    missing_prediction: int
    metrics: tuple[Metric, ...]
    energy_profile: Profile | None = None
    """Relative residual [%] against energy [MeV] (energy task only)."""
    energy_fit: EnergyFit | None = None

    def __getitem__(self, name: str) -> Metric:
        """The metric of this name (KeyError when the task has none)."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(metric.name == name for metric in self.metrics)

    def values(self) -> dict[str, float]:
        """Name → value, for loggers."""
        return {metric.name: metric.value for metric in self.metrics}


def direction_from_angles(theta: ArrayLike, phi: ArrayLike) -> Array:
    """Unit vectors (n, 3) of emission angles [degree]: θ = acos z, φ = atan2(y, −x)."""
    t, p = np.radians(np.asarray(theta, dtype=np.float64)), np.radians(np.asarray(phi, dtype=np.float64))
    return np.stack([-np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], axis=-1)


def opening_angle(first: Array, second: Array) -> Array:
    """Angle [degree] between directions (n, 3) of any length; exact also where arccos of a rounded cosine is not."""
    cross = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.asarray(np.degrees(np.arctan2(cross, np.einsum("...i,...i->...", first, second))))


def residual(column: str, prediction: ArrayLike, truth: ArrayLike) -> Array:
    """Prediction − truth in canonical units; azimuths wrapped into ±180°."""
    difference = np.asarray(prediction, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return np.asarray((difference + 180.0) % 360.0 - 180.0) if column == "phi" else difference


def task_metrics(
    task: str,
    prediction: Columns,
    truth: Columns,
    sigma: Columns | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    intervals: Mapping[str, Intervals] | None = None,
) -> TaskMetrics:
    """Every metric of one regression task.

    Args:
        task: name or alias of a task (`xectrain.tasks`).
        prediction, truth: canonical column → (n,) values in canonical units; events that miss any column of the task
            (NaN truth, NaN prediction) are left out and counted.
        sigma: canonical column → (n,) predicted uncertainty, for the columns that have one.
        resamples: bootstrap repetitions (below 2: no uncertainties, for use inside a training loop).
        seed: of the bootstrap.
        intervals: canonical column → predicted intervals, for the columns that have some.
    """
    columns, task = find_task(task).columns, find_task(task).name
    has_truth = np.all([np.isfinite(np.asarray(truth[c], dtype=np.float64)) for c in columns], axis=0)
    has_prediction = np.all([np.isfinite(np.asarray(prediction[c], dtype=np.float64)) for c in columns], axis=0)
    used = has_truth & has_prediction
    p = {c: np.asarray(prediction[c], dtype=np.float64)[used] for c in columns}
    t = {c: np.asarray(truth[c], dtype=np.float64)[used] for c in columns}
    how = _Bootstrap(resamples, seed)
    metrics: list[Metric] = []
    if task == "n_gamma":
        metrics += _classification(p["n_gamma"], t["n_gamma"])
    else:
        for column in columns:
            spread_sigma = None if sigma is None or column not in sigma else np.asarray(sigma[column])[used]
            metrics += _scalar(column, residual(column, p[column], t[column]), spread_sigma, how)
            for nominal, (low, high) in (intervals or {}).get(column, {}).items():
                share = fraction(covered(column, t[column], np.asarray(low)[used], np.asarray(high)[used]))
                name = f"{QUANTITIES[column].prefix}_coverage_{100 * nominal:.4g}".replace(".", "p")
                metrics.append(Metric(name, share.value, share.error, ""))
    metrics += _joint(task, p, t, how)
    energy_profile, fit = _energy_resolution(p["energy"], t["energy"], how) if task == "energy" else (None, None)
    if fit is not None:
        metrics += [
            Metric(f"energy_fit_{name}", term.value, term.error, unit)
            for name, term, unit in (("a", fit.a, "% √GeV"), ("b", fit.b, "%"), ("c", fit.c, "% GeV"))
        ]
    return TaskMetrics(
        task,
        int(np.count_nonzero(used)),
        int(np.count_nonzero(~has_truth)),
        int(np.count_nonzero(has_truth & ~has_prediction)),
        tuple(metrics),
        energy_profile,
        fit,
    )


def covered(column: str, truth: Array, low: Array, high: Array) -> NDArray[np.bool_]:
    """Whether a column's truth lies in its predicted interval, (n,)."""
    return (residual(column, low, truth) <= 0) & (residual(column, high, truth) >= 0)


@dataclass(frozen=True)
class _Bootstrap:
    resamples: int
    seed: int


def _scalar(column: str, r: Array, sigma: Array | None, how: _Bootstrap) -> list[Metric]:
    """Metrics of one column's residuals (canonical units)."""
    show = QUANTITIES[column]
    scaled = r * show.scale
    signed = {
        "bias": mean,
        "median": median,
        "rms": spread,
        "skew": skewness,
        "effective_sigma": effective_sigma,
        "half_width_68": half_width_68,
        "upper_half_width": upper_half_width,
        "core_sigma": core_sigma,
    }
    named = dict(zip(signed, estimate(scaled, *signed.values(), resamples=how.resamples, seed=how.seed), strict=True))
    absolute = {"res_68pct": scaled, "res_68pct_about_median": scaled - named["median"].value}
    for name, values in absolute.items():
        (named[name],) = estimate(np.abs(values), percentile_68, resamples=how.resamples, seed=how.seed)
    metrics = [
        Metric(f"{show.prefix}_{name}", e.value, e.error, "" if name == "skew" else show.unit)
        for name, e in named.items()
    ]
    if sigma is not None:
        judged = uncertainty_metrics(r, sigma, how.resamples, how.seed)
        metrics += [Metric(f"{show.prefix}_{name}", e.value, e.error, "") for name, e in judged.items()]
    return metrics


def _joint(task: str, p: dict[str, Array], t: dict[str, Array], how: _Bootstrap) -> list[Metric]:
    """Metrics that need all columns of a task together."""
    if task in ("angle", "direction"):
        if task == "angle":
            one, two = direction_from_angles(p["theta"], p["phi"]), direction_from_angles(t["theta"], t["phi"])
        else:
            one, two = (np.stack([side[c] for c in find_task(task).columns], axis=-1) for side in (p, t))
        psi = opening_angle(one, two)
        (opening,) = estimate(psi, percentile_68, resamples=how.resamples, seed=how.seed)
        (loss,) = estimate(1 - np.cos(np.radians(psi)), mean, resamples=how.resamples, seed=how.seed)
        return [
            Metric("angle_resolution_68pct", opening.value, opening.error, "degree"),
            Metric("angle_cosine_loss", loss.value, loss.error, ""),
        ]
    if task in ("uvwFI", "xyzFI"):
        squares = [(p[c] - t[c]) ** 2 for c in find_task(task).columns]
        (distance,) = estimate(np.sqrt(sum(squares)), percentile_68, resamples=how.resamples, seed=how.seed)
        return [Metric(f"{task[:3]}_dist_68pct", distance.value, distance.error, "cm")]
    if task == "energy":
        relative = 100 * (p["energy"] - t["energy"]) / np.where(t["energy"] > 0, t["energy"], math.nan)
        names = ("effective_sigma", "core_sigma", "upper_half_width")
        found = estimate(
            relative, effective_sigma, core_sigma, upper_half_width, resamples=how.resamples, seed=how.seed
        )
        return [Metric(f"energy_relative_{name}", e.value, e.error, "%") for name, e in zip(names, found, strict=True)]
    return []


def _energy_resolution(p: Array, t: Array, how: _Bootstrap) -> tuple[Profile, EnergyFit | None]:
    """σ/E [%] in bins of the true energy [MeV] and the three-term fit."""
    energy = t * 1e3
    relative = 100 * (p - t) / np.where(t > 0, t, math.nan)
    binned = profile(energy, relative, bins=10, resamples=how.resamples)
    return binned, fit_energy_resolution(binned.centre / 1e3, binned.sigma, binned.sigma_error, seed=how.seed)


def _classification(p: Array, t: Array) -> list[Metric]:
    """Accuracy of the number of gammas, with its binomial uncertainty."""
    right = float(np.mean(np.rint(p) == np.rint(t))) if p.size else math.nan
    error = math.sqrt(right * (1 - right) / p.size) if p.size else math.nan
    return [Metric("n_gamma_accuracy", right, error, "")]


def headline(metrics: TaskMetrics) -> list[Metric]:
    """The few numbers of a task that fit into one table."""
    return [metrics[name] for name in TASKS[metrics.task].headline if name in metrics]

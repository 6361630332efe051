"""Numbers and names of metrics as people read them."""

from __future__ import annotations

import numpy as np

from xectrain.evaluation.peaks import PeakFit
from xectrain.inference.model import ModelFacts
from xectrain.metrics import Metric

WORDS: dict[str, str] = {
    "res_68pct": "68 %",
    "relative_effective_sigma": "σ/E, effective",
    "effective_sigma": "effective σ",
    "core_sigma": "core σ",
    "half_width_68": "half-68",
    "upper_half_width": "upper side",
    "dist_68pct": "distance 68 %",
    "resolution_68pct": "opening 68 %",
    "pull_width": "pull width",
    "coverage_68": "coverage of 1σ",
}
PREFIXES = ("uvw_", "xyz_", "angle_", "energy_", "timing_", "n_gamma_")


def headline_label(name: str) -> str:
    """A metric's name in words: `uvw_w_res_68pct` → "w 68 %"."""
    short = name
    for prefix in PREFIXES:
        short = short.removeprefix(prefix)
    for key, word in WORDS.items():
        short = short.replace(key, word)
    return short.replace("_", " ")


def method_label(name: str) -> str:
    """A method's name for people: `face_weights` → "face weights"."""
    return name.replace("_", " ")


def fit_numbers(fit: PeakFit) -> dict[str, float | None]:
    """A fit's numbers [MeV] for a JSON file."""
    names = ("mean", "mean_error", "sigma", "sigma_error", "width", "width_error", "chi2", "ndf", "events")
    return {name: finite(getattr(fit, name)) for name in names}


def fit_quality(fit: PeakFit) -> str:
    """χ² over its degrees of freedom, as tables and legends have it."""
    return f"{fit.chi2:.0f} / {fit.ndf}"


def model_name(facts: ModelFacts) -> str:
    """The run's name, or the file's if it is not in a run folder."""
    return facts.file.parent.name if facts.file.name.startswith("checkpoint_") else facts.file.stem


def finite(value: float) -> float | None:
    """A number for a JSON file: null where there is none."""
    return float(value) if np.isfinite(value) else None


def digits(value: float) -> str:
    """Three significant digits, never in exponents."""
    if not np.isfinite(value) or value == 0:
        return f"{value:.0f}" if np.isfinite(value) else "n/a"
    decimals = int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 6))
    return f"{value:.{decimals}f}"


def plus_minus(value: float, error: float) -> str:
    """A value with its error, both to the error's second significant digit."""
    if not (np.isfinite(value) and np.isfinite(error) and error > 1e-9 * abs(value)):
        return digits(value)
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 6))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def with_unit(metric: Metric) -> str:
    """Value, error and unit."""
    return f"{plus_minus(metric.value, metric.error)} {metric.unit}".strip()


def compact(metric: Metric) -> str:
    """Value with the error's two digits in brackets, as in 2.986(80)."""
    return compact_number(metric.value, metric.error)


def compact_number(number: float, uncertainty: float) -> str:
    """As `compact`."""
    value, _, error = plus_minus(number, uncertainty).partition(" ± ")
    if not error:
        return value
    shown = error.replace(".", "").lstrip("0") if float(error) < 1 else error
    return f"{value}({shown})"

"""Energy resolution against energy: σ/E in bins and the usual three-term description."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xectrain.metrics.statistics import Array, Estimate


@dataclass(frozen=True)
class EnergyFit:
    """σ/E = √((a/√E)² + b² + (c/E)²) with E in GeV and a, b, c in percent."""

    a: Estimate
    """Stochastic term [% √GeV]."""
    b: Estimate
    """Constant term [%]."""
    c: Estimate
    """Noise term [% GeV]."""
    chi2: float
    bins: int

    def __call__(self, energy_gev: ArrayLike) -> Array:
        """σ/E [%] at the energies [GeV]."""
        energy = np.asarray(energy_gev, dtype=np.float64)
        return np.sqrt(self.a.value**2 / energy + self.b.value**2 + self.c.value**2 / energy**2)


def fit_energy_resolution(
    energy_gev: ArrayLike, relative: ArrayLike, error: ArrayLike, resamples: int = 200, seed: int = 0
) -> EnergyFit | None:
    """Fit the three terms to σ/E measured in bins.

    (σ/E)² is linear in a², b², c², none of which may be negative: the fit is a weighted least-squares problem over the
    non-negative octant, solved exactly by trying every subset of the three terms. Uncertainties come from repeating it
    on data scattered by their errors.

    Args:
        energy_gev: (n,) mean energy of the bins [GeV].
        relative: (n,) σ/E [%].
        error: (n,) its uncertainty [%].

    Returns:
        The fit, or None with fewer than two usable bins (one bin cannot tell the terms apart).
    """
    energy, value, sigma = (np.asarray(a, dtype=np.float64) for a in (energy_gev, relative, error))
    usable = np.isfinite(energy) & np.isfinite(value) & np.isfinite(sigma) & (energy > 0) & (value > 0) & (sigma > 0)
    if np.count_nonzero(usable) < 2:
        return None
    energy, value, sigma = energy[usable], value[usable], sigma[usable]
    design = np.stack([1 / energy, np.ones_like(energy), 1 / energy**2], axis=1)
    weight = 1 / (2 * value * sigma)  # the uncertainty of (σ/E)² is 2·(σ/E)·δ(σ/E)
    best, chi2 = _non_negative(design * weight[:, None], value**2 * weight)
    generator = np.random.default_rng(seed)
    terms = np.empty((resamples, 3))
    for k in range(resamples):
        scattered = generator.normal(value, sigma)
        terms[k] = np.sqrt(_non_negative(design * weight[:, None], scattered * np.abs(scattered) * weight)[0])
    a, b, c = (Estimate(math.sqrt(best[i]), float(np.std(terms[:, i]))) for i in range(3))
    return EnergyFit(a, b, c, chi2, int(energy.size))


def _non_negative(design: Array, target: Array) -> tuple[Array, float]:
    """Least squares with non-negative coefficients (n, 3), and its χ²."""
    best, best_chi2 = np.zeros(3), float(target @ target)
    for count in (1, 2, 3):
        for subset in itertools.combinations(range(3), min(count, design.shape[0])):
            columns = design[:, subset]
            scale = np.linalg.norm(columns, axis=0)
            solution = np.linalg.lstsq(columns / scale, target, rcond=None)[0] / scale
            residual = columns @ solution - target
            chi2 = float(residual @ residual)
            if np.all(solution >= 0) and chi2 < best_chi2 * (1 - 1e-12):
                best, best_chi2 = np.zeros(3), chi2
                best[list(subset)] = solution
    return best, best_chi2

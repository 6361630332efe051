"""Poisson counts in float32, three times faster than one by one.

Up to a mean of 12 the uniform number is compared with the cumulative probabilities one after the other, for all sensors
of similar mean at once. Above, the normal number is corrected for skewness and kurtosis (Cornish and Fisher 1937) and
rounded, with 1/12 less variance for what rounding adds: the distribution is then within 5·10⁻⁴ (total variation) of
Poisson's, with its mean and, within 10⁻⁴, its variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GROUPS = ((0.0, 1.0, 10), (1.0, 4.0, 22), (4.0, 12.0, 42))
"""From which mean, up to which, and the largest count: beyond lies less than 10⁻⁷."""
NORMAL_FROM = GROUPS[-1][1]


def poisson(rng: np.random.Generator, mean: Floats) -> Floats:
    """Poisson counts.

    Args:
        rng: generator.
        mean: float32, any shape, not negative.

    Returns:
        float32, same shape.
    """
    flat = mean.ravel()
    counts = np.empty_like(flat)
    for low, high, largest in GROUPS:
        here = np.flatnonzero((flat >= low) & (flat < high))
        counts[here] = _inverted(rng.random(len(here), dtype=np.float32), flat[here], largest)
    here = np.flatnonzero(flat >= NORMAL_FROM)
    counts[here] = _corrected_normal(rng.standard_normal(len(here), dtype=np.float32), flat[here])
    return counts.reshape(mean.shape)


def _inverted(uniform: Floats, mean: Floats, largest: int) -> Floats:
    """Number of cumulative probabilities that the uniform number exceeds."""
    probability = np.exp(-mean)
    uniform -= probability
    counts = np.zeros_like(mean)
    passed = np.empty(mean.shape, dtype=bool)
    for count in range(1, largest + 1):
        np.greater_equal(uniform, np.float32(0), out=passed)
        counts += passed
        probability *= mean
        probability *= np.float32(1 / count)
        uniform -= probability
    return counts


def _corrected_normal(normal: Floats, mean: Floats) -> Floats:
    root = np.sqrt(mean)
    square = normal * normal
    counts = np.float32(1 / 72) - square * np.float32(1 / 72)
    counts *= normal
    counts /= root
    square -= np.float32(1)
    square *= np.float32(1 / 6)
    counts += square
    counts += np.sqrt(mean - np.float32(1 / 12)) * normal
    counts += mean
    counts += np.float32(0.5)
    return np.asarray(np.floor(counts, out=counts))

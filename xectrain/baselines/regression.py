"""Maps learned on the training set: robust linear regression on polynomials of a few features."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

HUBER = 1.0
"""Residuals beyond this many robust σ count linearly instead of quadratically: tails must not bend the map."""
ROUNDS = 6
RIDGE = 1e-6
"""Relative to the mean diagonal of the normal matrix."""


@dataclass(frozen=True)
class Polynomial:
    """Monomials up to a total degree in features scaled to about ±1 and held within the training range."""

    degree: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Per feature, the 0.5 % and 99.5 % quantiles of the training set: what lies outside is moved there, since a
    polynomial is worthless beyond its data."""

    @classmethod
    def spanning(cls, features: Array, degree: int) -> Polynomial:
        """The polynomial for these training features (n, p)."""
        low, high = np.quantile(features, (0.005, 0.995), axis=0)
        return cls(degree, tuple(low.tolist()), tuple(high.tolist()))

    def __call__(self, features: Array) -> Array:
        """All monomials (n, terms), the constant 1 first."""
        low, high = np.array(self.low), np.array(self.high)
        x = np.clip(features, low, high)
        half = np.where(high > low, (high - low) / 2, 1.0)
        x = (x - (low + high) / 2) / half
        terms = [np.ones(len(x))]
        for degree in range(1, self.degree + 1):
            for combination in itertools.combinations_with_replacement(range(x.shape[1]), degree):
                terms.append(np.prod(x[:, combination], axis=1))
        return np.stack(terms, axis=1)


@dataclass(frozen=True)
class Map:
    """A linear combination of polynomial terms for each output."""

    polynomial: Polynomial
    coefficients: tuple[tuple[float, ...], ...]
    """(outputs, terms)."""

    def __call__(self, features: Array) -> Array:
        """Evaluate at features (n, p): (n, outputs)."""
        return np.asarray(self.polynomial(features) @ np.array(self.coefficients).T)

    @classmethod
    def fit(cls, features: Array, targets: Array, degree: int) -> Map:
        """Learn targets (n, outputs) from features (n, p); rows that are not finite are left out."""
        good = np.isfinite(features).all(axis=1) & np.isfinite(targets).all(axis=1)
        polynomial = Polynomial.spanning(features[good], degree)
        design = polynomial(features[good])
        solutions = [robust_least_squares(design, targets[good, k]) for k in range(targets.shape[1])]
        return cls(polynomial, tuple(tuple(s.tolist()) for s in solutions))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "degree": self.polynomial.degree,
            "low": list(self.polynomial.low),
            "high": list(self.polynomial.high),
            "coefficients": [list(row) for row in self.coefficients],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Map:
        """The inverse of `to_dict`."""
        polynomial = Polynomial(values["degree"], tuple(values["low"]), tuple(values["high"]))
        return cls(polynomial, tuple(tuple(row) for row in values["coefficients"]))


def robust_least_squares(design: ArrayLike, target: ArrayLike) -> Array:
    """Huber regression by iteratively reweighted least squares.

    Args:
        design: (n, terms).
        target: (n,).

    Returns:
        (terms,) coefficients; a ridge of 1e-6 keeps terms that the data do not determine at zero.
    """
    x, y = np.asarray(design, dtype=np.float64), np.asarray(target, dtype=np.float64)
    weight = np.ones(len(y))
    solution: Array = np.zeros(x.shape[1])
    for _ in range(ROUNDS):
        weighted = x * weight[:, None]
        normal = weighted.T @ x
        normal += np.eye(len(normal)) * (RIDGE * np.trace(normal) / len(normal) + 1e-300)
        solution = np.asarray(np.linalg.solve(normal, weighted.T @ y))
        residual = y - x @ solution
        scale = 1.4826 * np.median(np.abs(residual)) if len(y) else 0.0
        if scale <= 1e-12 * (np.abs(y).max() if len(y) else 1.0):
            break
        weight = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residual), 1e-300))
    return solution

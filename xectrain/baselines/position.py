"""Position without a network: light-weighted mean, local fit, and the local fit corrected on the training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xectrain.baselines.features import Features
from xectrain.baselines.regression import Map

Array = NDArray[np.float64]
MAP_DEGREE = 3
WORST_QUALITY = 100.0
"""Stands for the χ² of an event that could not be fitted."""


@dataclass(frozen=True)
class PositionCalibration:
    """What the position methods learn on the training set."""

    mean_depth: float
    """Median w of the training set [cm]: the depth of a method that sees none."""
    correction: Map
    """Truth − fit in (u, v, w), from where the fit is and how it changes with the window."""

    @classmethod
    def fit(cls, features: Features, uvw: Array) -> PositionCalibration:
        """Learn from true first interactions (n, 3) [cm]; events without truth are left out."""
        depth = uvw[:, 2]
        correction = Map.fit(_shape(features), uvw - features.fits[:, 0], MAP_DEGREE)
        return cls(float(np.median(depth[np.isfinite(depth)])), correction)

    def light_weighted(self, features: Features) -> Array:
        """Light-weighted u, v at the mean depth: (n, 3) [cm]."""
        return np.column_stack([features.light[:, :2], np.full(len(features), self.mean_depth)])

    def corrected(self, features: Features) -> Array:
        """The local fit with its correction: (n, 3) [cm]."""
        return np.asarray(features.fits[:, 0] + self.correction(_shape(features)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean_depth": self.mean_depth, "correction": self.correction.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PositionCalibration:
        """The inverse of `to_dict`."""
        return cls(values["mean_depth"], Map.from_dict(values["correction"]))


def _shape(features: Features) -> Array:
    """(n, 12): what tells the shower's shape, and the light, since the shower of more energy is longer.

    The fitted point; how far a larger window moves it relative to the depth; how other windows change the depth; the
    fit's χ²; the fitted light, the inner face's and the window's as shares of all light; all light.
    """
    fit = features.fits[:, 0]
    depth = fit[:, 2:3]
    small, large = features.fits[:, 1], features.fits[:, 2]
    light = np.exp(features.log_light)
    shares = np.column_stack([features.amplitudes[:, 0], features.light[:, 2]])
    return np.column_stack(
        [
            fit[:, :2],
            np.log(depth),
            (large - fit)[:, :2] / (depth + 1.0),
            np.log(large[:, 2:] / depth),
            np.log(small[:, 2:] / depth),
            np.log(np.nan_to_num(features.quality, nan=WORST_QUALITY) + 0.1),
            np.log(np.maximum(shares / light[:, None], 1e-3)),
            features.faces[:, 0] / light,
            features.log_light,
        ]
    )

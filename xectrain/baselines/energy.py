"""Energy without a network: photon sums. All are proportional to the light, so a line sample calibrates them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xectrain.baselines.features import Features
from xectrain.baselines.regression import Polynomial, robust_least_squares

Array = NDArray[np.float64]
WEIGHT_DEGREE = 3


@dataclass(frozen=True)
class EnergyCalibration:
    """What the energy methods learn on the training set."""

    per_photon: float
    """GeV per photon of the plain sum."""
    per_covered_photon: float
    """GeV per photon of the coverage-weighted sum."""
    polynomial: Polynomial
    weights: tuple[tuple[float, ...], ...]
    """(6, terms): weight of each face as a polynomial of the fitted position [GeV per photon]."""

    @classmethod
    def fit(cls, features: Features, position: Array, energy: Array) -> EnergyCalibration:
        """Learn from true energies.

        Args:
            position: (n, 3), fitted u, v, w [cm], as they will be in use.
            energy: (n,) [GeV]; events without truth are left out.
        """
        good = np.isfinite(energy) & (energy > 0) & (features.faces.sum(axis=1) > 0) & np.isfinite(position).all(axis=1)
        e, faces, where = energy[good], features.faces[good], _place(position[good])
        polynomial = Polynomial.spanning(where, WEIGHT_DEGREE)
        design = _design(faces, polynomial(where)) / e[:, None]
        scale = np.abs(design).mean(axis=0)
        weights = robust_least_squares(design / scale, np.ones(len(e))) / scale
        return cls(
            float(np.median(e / faces.sum(axis=1))),
            float(np.median(e / features.coverage[good])),
            polynomial,
            tuple(tuple(row) for row in weights.reshape(faces.shape[1], -1).tolist()),
        )

    def photon_sum(self, features: Features) -> Array:
        """Gain-corrected photon sum [GeV]."""
        return np.asarray(self.per_photon * features.faces.sum(axis=1))

    def coverage_sum(self, features: Features) -> Array:
        """Coverage-weighted photon sum [GeV]."""
        return self.per_covered_photon * features.coverage

    def face_weights(self, features: Features, position: Array) -> Array:
        """Per-face sums with weights depending on the fitted position (n, 3) [GeV]."""
        return np.asarray(_design(features.faces, self.polynomial(_place(position))) @ np.array(self.weights).ravel())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "per_photon": self.per_photon,
            "per_covered_photon": self.per_covered_photon,
            "degree": self.polynomial.degree,
            "low": list(self.polynomial.low),
            "high": list(self.polynomial.high),
            "weights": [list(row) for row in self.weights],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyCalibration:
        """The inverse of `to_dict`."""
        polynomial = Polynomial(values["degree"], tuple(values["low"]), tuple(values["high"]))
        weights = tuple(tuple(row) for row in values["weights"])
        return cls(values["per_photon"], values["per_covered_photon"], polynomial, weights)


def _place(position: Array) -> Array:
    """(n, 3): |u| would lose the up-down asymmetry, so u, v as they are, and the depth on a compressing scale."""
    return np.column_stack([position[:, :2], np.log(np.maximum(position[:, 2], 0.0) + 2.0)])


def _design(faces: Array, terms: Array) -> Array:
    """Every face sum times every polynomial term: (n, 6·terms)."""
    return np.asarray((faces[:, :, None] * terms[:, None, :]).reshape(len(faces), -1))

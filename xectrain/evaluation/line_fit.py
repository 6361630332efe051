"""The factor that puts the peaks of lines at their energies, everywhere in the detector and in every run.

The energy of an event of a line is distributed as `peaks` has it by default: a Gaussian, and a wider one of events
that leak. The peak of the first, not the mean, is what a calibration moves. For a given shape the likelihood of the
factor's logarithm is that of a mixture (EM): a few linear regressions, weighted by an event's odds to have leaked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xectrain.evaluation.peaks import FLOOR, density, double_parts, fit_peak, too_few
from xectrain.inference.calibration import (
    CalibratedEnergy,
    EnergyFactor,
    energy_term,
    position_terms,
    powers,
    run_terms,
)

Array = NDArray[np.float64]

EDGES = (0.01, 0.99)
"""Quantiles of the position beyond which the polynomial is not continued."""
ROUNDS, STEPS = 3, 8
"""Fits of the shape, and regressions for each."""
MARGIN = 1.1
"""Factor beyond the lowest and the highest line up to which the slope in the energy continues: peaks have a width."""
PRIOR = 0.03
"""Assumed spread of every coefficient but the constant: what the data do not say stays 0."""


@dataclass(frozen=True, eq=False)
class LineEvents:
    """Events of lines, (n,) each."""

    energy: Array
    """Predicted, MeV."""
    uvw: Array
    """(n, 3), predicted, cm; NaN where the model predicts no position."""
    run: Array
    """NaN where unknown."""
    line: NDArray[np.int64]
    """Index into `lines`."""
    lines: tuple[float, ...]
    """MeV."""

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> LineEvents:
        return LineEvents(self.energy[chosen], self.uvw[chosen], self.run[chosen], self.line[chosen], self.lines)

    @property
    def true(self) -> Array:
        """Energy of each event's line, MeV."""
        return np.asarray(self.lines)[self.line]


@dataclass(frozen=True)
class Form:
    """How much a factor may vary."""

    degree: int = 0
    """Of the polynomial in the position."""
    knots: int = 0
    """Over the runs."""

    @property
    def name(self) -> str:
        """In words."""
        parts = [f"position, degree {self.degree}"] if self.degree else []
        parts += [f"run, {self.knots} knots"] if self.knots else []
        return "constant" + "".join(f" + {part}" for part in parts)


@dataclass(frozen=True)
class LineShape:
    """What the peak of a line looks like, in the logarithm of the energy."""

    core: tuple[float, float, float, float, float]
    """Parameters of the shape `double`, its μ 0."""
    low: float
    high: float
    """The window."""

    def minus_log(self, z: Array) -> Array:
        """−log density at deviations z (n,) within the window."""
        return -np.log(np.maximum(density("double", z, self.core, (self.low, self.high)), FLOOR))

    def slope(self, z: Array) -> tuple[Array, Array]:
        """The derivative of `minus_log`, and the curvature of the parabola that touches it from above; (n,) each."""
        _, sigma, _, shift, ratio = self.core
        wide = ratio * sigma
        parts = double_parts(z, self.core)
        leaked = parts[1] / np.maximum(parts[0] + parts[1], FLOOR)
        return (1 - leaked) * z / sigma**2 + leaked * (z + shift) / wide**2, (1 - leaked) / sigma**2 + leaked / wide**2


def shape_of(energies: Array, line: float) -> LineShape:
    """The shape of a line's peak, whose events may be anywhere near it.

    Raises:
        InputError: too few events.
    """
    fit = fit_peak(energies, line)
    if fit is None:
        raise too_few(energies, line)
    mean, sigma, fraction, shift, ratio = fit.parameters
    low, high = np.log(np.maximum(fit.window, 0.1) / mean)
    return LineShape((0.0, sigma / mean, fraction, shift / mean, ratio), float(low), float(high))


def corrected(events: LineEvents, factor: EnergyFactor) -> Array:
    """Energies after the factor, MeV: what `CalibratedEnergy` makes of the predictions."""
    found = {"pred_energy": torch.from_numpy(events.energy / 1e3)}
    found |= {f"pred_{axis}": torch.from_numpy(events.uvw[:, k]) for k, axis in enumerate("uvw")}
    with torch.no_grad():
        calibrated = CalibratedEnergy(factor)(found, torch.from_numpy(events.run))
    return np.asarray(1e3 * calibrated["pred_energy"].numpy())


def fit_factor(events: LineEvents, form: Form) -> EnergyFactor:
    """The factor of this form that puts the peaks of all lines at their energies.

    Raises:
        InputError: too few events of a line.
    """
    empty = _empty(events, form)
    terms = _terms(events, empty)
    start = [fit_peak(events.energy[events.line == k], line) for k, line in enumerate(events.lines)]
    if not any(start):
        raise too_few(events.energy[events.line == 0], events.lines[0])
    weights: Array = np.zeros(terms.shape[1])
    weights[0] = float(np.mean([np.log(line / f.mean) for f, line in zip(start, events.lines, strict=True) if f]))
    penalty = np.diag([0.0] + [1 / PRIOR**2] * (terms.shape[1] - 1))
    y = np.log(np.maximum(events.energy, 1e-3) / events.true)
    for _ in range(ROUNDS):
        z = y + terms @ weights
        shapes = [shape_of(line * np.exp(z[events.line == k]), line) for k, line in enumerate(events.lines)]
        for _ in range(STEPS):
            weights = weights + _step(y + terms @ weights, terms, penalty, weights, events, shapes)
    return _factor(empty, weights, terms, events)


def _step(
    z: Array, terms: Array, penalty: Array, weights: Array, events: LineEvents, shapes: Sequence[LineShape]
) -> Array:
    """One step towards the largest likelihood, given deviations z of the energy's logarithm from its line's."""
    pull, curvature = np.zeros(len(z)), np.zeros(len(z))
    for k, shape in enumerate(shapes):
        own = (events.line == k) & (z > shape.low) & (z < shape.high)
        if not own.any():  # the steps have led away from a peak that is hardly one
            line = events.lines[k]
            raise too_few(line * np.exp(z[events.line == k]), line)
        slope, curvature[own] = shape.slope(z[own])
        pull[own] = slope - _mean_slope(shape)  # which the window's edges make other than 0
    return -np.asarray(
        np.linalg.solve((terms * curvature[:, None]).T @ terms + penalty, terms.T @ pull + penalty @ weights),
        dtype=np.float64,
    )


def _mean_slope(shape: LineShape) -> float:
    """Mean of the slope of −log density over the window, when the peak is in its place."""
    z = np.linspace(shape.low, shape.high, 2001)
    weight = np.exp(-shape.minus_log(z))
    return float((shape.slope(z)[0] * weight).sum() / weight.sum())


def losses(events: LineEvents, factor: EnergyFactor, shapes: Sequence[LineShape]) -> Array:
    """How badly each event fits its line after the factor: −log density of given shapes, what is beyond the window
    as at its edge."""
    z = np.log(np.maximum(corrected(events, factor), 1e-3) / events.true)
    found = np.empty(len(events))
    for k, shape in enumerate(shapes):
        own = events.line == k
        found[own] = shape.minus_log(np.clip(z[own], shape.low, shape.high))
    return found


def _empty(events: LineEvents, form: Form) -> EnergyFactor:
    """A factor of this form before its coefficients are known."""
    low, high = ((-1.0,) * 3, (1.0,) * 3)
    if form.degree:
        edges = np.nanquantile(events.uvw, EDGES, axis=0)
        low, high = (tuple(map(float, edge)) for edge in edges)  # type: ignore[assignment]
    runs: tuple[float, ...] = ()
    if form.knots:
        known = np.unique(events.run[np.isfinite(events.run)])
        runs = tuple(map(float, known[np.linspace(0, len(known) - 1, form.knots).round().astype(int)]))
    return EnergyFactor(
        degree=form.degree,
        low=low,
        high=high,
        runs=runs,
        energy=float(np.mean(events.lines)) / 1e3,
        energies=(min(events.lines) / MARGIN / 1e3, MARGIN * max(events.lines) / 1e3),
    )


def _terms(events: LineEvents, factor: EnergyFactor) -> Array:
    """What the coefficients multiply: 1, and the terms of the polynomial, the runs and the energy; (n, T)."""
    columns = [torch.ones(len(events), 1, dtype=torch.float64)]
    if factor.degree:
        low, high = (torch.tensor(side, dtype=torch.float64) for side in (factor.low, factor.high))
        columns.append(position_terms(torch.from_numpy(events.uvw), low, high, factor.degree))
    if factor.runs:
        columns.append(run_terms(torch.from_numpy(events.run), torch.tensor(factor.runs, dtype=torch.float64)))
    if len(events.lines) > 1:
        # Of the line, not of the event: else a slope would win by squeezing each peak together.
        columns.append(energy_term(torch.from_numpy(events.true / 1e3), factor)[:, None])
    return np.asarray(torch.cat(columns, dim=1).numpy())


def _factor(empty: EnergyFactor, weights: Array, terms: Array, events: LineEvents) -> EnergyFactor:
    """The coefficients in their places; the mean of the runs' part goes into the constant."""
    count = len(powers(empty.degree)) if empty.degree else 0
    position, rest = weights[1 : 1 + count], weights[1 + count :]
    run, slope = rest[: len(empty.runs)], rest[len(empty.runs) :]
    known = np.isfinite(events.run)
    hats = terms[known, 1 + count : 1 + count + len(run)]
    mean = float((hats @ run).mean()) if len(run) else 0.0
    return empty.model_copy(
        update={
            "constant": float(weights[0] + mean),
            "position": tuple(map(float, position)),
            "run": tuple(float(value - mean) for value in run),
            "slope": float(slope[0]) if len(slope) else 0.0,
        }
    )

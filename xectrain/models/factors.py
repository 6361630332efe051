"""Factors on predicted uncertainties, calibrated after training: functions of the prediction itself.

A network is overconfident on events that it was not trained on, and not everywhere alike: at the end of a spectrum the
upper tail of an energy is short, and just behind the sensors the depth has a hard bound. One factor is then too large
at one end and too small at the other. So each is linear between a few knots of the predicted value and constant beyond
them. Intervals hold their fraction of the calibrating events in all, and nearly so around each knot: a conformalized
quantile regression (Romano, Patterson, Candès, arXiv:1905.03222) with multiplied instead of added margins.

Shape suffixes: B events, K values of a task, R quantiles (1: a σ), P knots, N calibrating events.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[np.float64]

KNOTS = 16
"""Knots that a factor has at most."""
EVENTS_PER_KNOT = 400
"""Calibrating events for each of them: the factor of an 84 % quantile is then known to some 8 %."""
ENOUGH_EVENTS = 100
"""Fewer calibrate nothing: the factor stays 1."""
ROUNDS = 3
"""Between its knots a factor is a mean of two: that each bin holds its fraction takes some iterations."""
CLEAR = 3.0
"""Standard deviations by which the bins must differ more than by chance."""
FARTHEST = 5.0
"""A factor at a knot is within this of the common one, up and down."""


@dataclass(frozen=True, eq=False)
class Factor:
    """What a distance from the median, or a σ, is multiplied by: `scale` × `bend` between `knots`."""

    scale: float = 1.0
    knots: Array = field(default_factory=lambda: np.arange(float(KNOTS)))
    """(P,), rising, standardized values; the last ones may stand for nothing (equal bends)."""
    bend: Array = field(default_factory=lambda: np.ones(KNOTS))
    """(P,), at the knots."""


def bent(value_BK: Tensor, knots_PRK: Tensor, bend_PRK: Tensor) -> Tensor:
    """The bends at standardized values: float32 (B, R, K). Plain arithmetic: it is exported."""
    knots_PRK, bend_PRK = knots_PRK.float(), bend_PRK.float()
    step_PRK = knots_PRK[1:] - knots_PRK[:-1]
    share_BPRK = ((value_BK[:, None, None].float() - knots_PRK[:-1]) / step_PRK).clamp(0, 1)
    return bend_PRK[0] + (share_BPRK * (bend_PRK[1:] - bend_PRK[:-1])).sum(dim=1)


def fit_factor(value_N: Array, ratio_N: Array, fraction: float) -> Factor:
    """The factor below which `fraction` of the ratios are.

    Args:
        value_N: predicted values, standardized.
        ratio_N: true distance over predicted distance; what is not finite is left out.
        fraction: of the events that the scaled distance should reach.

    Returns:
        One with a knot for every `EVENTS_PER_KNOT` events. What the knots differ from each other is reduced by what
        they would by chance (the James–Stein estimator) and dropped where that is most of it: so few events, or a
        network that is equally good everywhere, leave one factor for all.
    """
    good = np.isfinite(value_N) & np.isfinite(ratio_N)
    value_N, ratio_N = value_N[good], ratio_N[good]
    if len(ratio_N) < ENOUGH_EVENTS:
        return Factor()
    common = float(np.quantile(ratio_N, fraction))
    if common <= 0:
        return Factor(0.0)
    knots, bin_N = _knots(value_N)
    bend = _bend(knots, value_N, bin_N, ratio_N / common, fraction) if len(knots) > 1 else np.ones(1)
    at_N = np.interp(value_N, knots, bend)
    spare = KNOTS - len(knots)
    return Factor(
        float(np.quantile(ratio_N / at_N, fraction)),
        np.concatenate([knots, knots[-1] + 1 + np.arange(spare)]),
        np.concatenate([bend, np.full(spare, bend[-1])]),
    )


def _knots(value_N: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Medians of bins of equally many events, and each event's bin; fewer where many values are equal."""
    count = int(np.clip(len(value_N) // EVENTS_PER_KNOT, 1, KNOTS))
    edges = np.unique(np.quantile(value_N, np.arange(1, count) / count))
    bin_N = np.searchsorted(edges, value_N, side="right")
    used, bin_N = np.unique(bin_N, return_inverse=True)
    middle = np.array([np.median(value_N[bin_N == p]) for p in range(len(used))])
    if len(middle) > 1 and (np.diff(middle.astype(np.float32)) <= 0).any():  # as the network computes
        return middle[:1], np.zeros_like(bin_N)
    return middle, bin_N


def _bend(knots: Array, value_N: Array, bin_N: npt.NDArray[np.intp], ratio_N: Array, fraction: float) -> Array:
    """The bends at the knots; ones where the bins differ no more than by chance."""
    bins = [bin_N == p for p in range(len(knots))]
    alone = np.array([np.quantile(ratio_N[some], fraction) for some in bins])
    error = np.array([_error(ratio_N[some], fraction) for some in bins])
    chi2, chance = float(np.square((alone - 1) / error).sum()), len(knots) - 1
    if chi2 < chance + CLEAR * np.sqrt(2 * chance):
        return np.ones(len(knots))
    bend, at_N = np.ones(len(knots)), np.ones(len(value_N))
    for _ in range(ROUNDS):
        bend = bend * [np.quantile((ratio_N / at_N)[some], fraction) for some in bins]
        bend = np.clip(bend, 1 / FARTHEST, FARTHEST)
        at_N = np.interp(value_N, knots, bend)
    return np.asarray(1 + (1 - chance / chi2) * (bend - 1))


def _error(ratio_M: Array, fraction: float) -> float:
    """Statistical uncertainty of a quantile: half the distance of those a binomial σ below and above."""
    sigma = np.sqrt(fraction * (1 - fraction) / len(ratio_M))
    low, high = np.quantile(ratio_M, np.clip((fraction - sigma, fraction + sigma), 0, 1))
    return float(max(high - low, 1e-6)) / 2

"""Views that repeat, thin out or order events: resampling by weight, and curricula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError
from shards.order import hash64, uniform
from shards.plan import EpochOrder, View, epoch_order


def resampled(view: View, weights: npt.NDArray[np.floating], seed: int, epoch: int, events: int | None = None) -> View:
    """A view in which each row comes as often as its weight says, as evenly as whole numbers allow.

    Systematic resampling (Kitagawa, J. Comput. Graph. Stat. 5 (1996) 1): a row of expected multiplicity m comes
    floor(m) or ceil(m) times, another choice each epoch. The rows are shuffled first, so that neighbours do not exclude
    each other.

    Args:
        weights: (len(view.rows),), not negative; only ratios count.
        events: rows in the result; None for as many as the view has.

    Raises:
        ConfigError: weights of the wrong number, negative, not finite or all zero.
    """
    wanted = np.asarray(weights, dtype=np.float64)
    if wanted.shape != view.rows.shape or not np.isfinite(wanted).all() or (wanted < 0).any() or not wanted.sum() > 0:
        raise ConfigError(
            "resampling needs one weight per row, none negative and not all zero",
            file=view.dataset.path,
            found=wanted.shape,
            expected=view.rows.shape,
        )
    wanted = wanted / wanted.max()  # the smallest float64s have no fractions
    n = len(view.rows) if events is None else events
    salt = (int(seed), epoch, view.dataset.fingerprint)
    shuffled = np.argsort(hash64("resampling order", salt, np.arange(len(wanted))), kind="stable")
    edges = np.cumsum(wanted[shuffled])
    points = (np.arange(n) + uniform(hash64("resampling start", salt, 0))) * (edges[-1] / n)
    last = int(np.flatnonzero(wanted[shuffled])[-1])
    chosen = shuffled[np.minimum(np.searchsorted(edges, points, side="right"), last)]
    return View(view.dataset, np.sort(view.rows[chosen]), view.weight)


def curriculum(
    views: Sequence[View], values: Sequence[npt.NDArray[np.floating]], seed: int, epoch: int, stages: int = 8
) -> EpochOrder:
    """An epoch from small to large values of a column: `stages` quantiles one after another, each shuffled in itself.

    Args:
        views: with weights of 1.
        values: the column for each view's rows; NaN comes last.

    Raises:
        ConfigError: values that do not fit the views.
    """
    if [len(v) for v in values] != [len(view.rows) for view in views]:
        raise ConfigError("a curriculum needs one value per row of each view")
    ranks = np.argsort(np.argsort(np.concatenate(values), kind="stable"), kind="stable")
    stage = np.split(ranks * stages // max(len(ranks), 1), np.cumsum([len(v) for v in values])[:-1])
    orders = [
        epoch_order(
            [View(view.dataset, view.rows[s == k], view.weight) for view, s in zip(views, stage, strict=True)],
            seed,
            epoch,
        )
        for k in range(stages)
    ]
    return EpochOrder(tuple(views), np.concatenate([o.view for o in orders]), np.concatenate([o.row for o in orders]))

"""What a run keeps account of: its position, and sums over events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xectrain.modes.base import StepResult
from xectrain.training.optimization import Plateau
from xectrain.training.ranks import Ranks


@dataclass
class Position:
    """Where a run stands."""

    epoch: int = 0
    """Epoch in progress, from 0."""
    step: int = 0
    """Optimizer steps done in it."""
    global_step: int = 0
    """Optimizer steps done in all."""
    schedule_start: int = 0
    """Global step at which the learning-rate schedule began (`refresh_lr` moves it)."""
    best: float = math.inf
    """Smallest validation loss so far."""
    stale: int = 0
    """Validations since then."""
    bad_steps: int = 0
    """Steps skipped because their loss or gradient was not finite."""
    plateau: Plateau = field(default_factory=Plateau)
    """State of the plateau schedule."""
    rate: float = 0.0
    """Learning rate of the last step."""
    spent_s: float = 0.0
    """Seconds used of `train.minutes`; 0 without such a budget, since only runs with one depend on a clock."""


class Sums:
    """Weighted sums over events since the last record, so that every logged value is a mean over events."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.rate = self.norm = 0.0

    def add(self, result: StepResult, weight_B: Tensor) -> None:
        """Add a micro-batch.

        Events without a value for a part (NaN) do not count for it, and those without any part of the loss (no truth,
        nothing hidden) not for the loss: their 0 is no merit.
        """
        names = ["loss", *result.parts]
        values_KB = torch.stack([result.loss_B.detach(), *(p.detach() for p in result.parts.values())]).double()
        has_KB = (~torch.isnan(values_KB)).double()
        terms = [k for k, name in enumerate(names) if name.startswith("loss_")]
        has_KB[0] = torch.maximum(1 - has_KB[0], has_KB[terms].amax(0)) if terms else 1.0  # a NaN must show
        weighted_KB = torch.where(has_KB * weight_B > 0, values_KB * weight_B, 0.0)
        totals = weighted_KB.sum(1).tolist()
        counts = (has_KB * weight_B).sum(1).tolist()
        for name, total, count in zip(names, totals, counts, strict=True):
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + count

    @property
    def loss(self) -> float:
        """Mean loss on this rank."""
        return self.totals.get("loss", 0.0) / max(self.counts.get("loss", 0.0), 1e-300)

    def merge(self, other: Sums) -> None:
        """Add another's sums to these."""
        for mine, theirs in ((self.totals, other.totals), (self.counts, other.counts)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value

    def reduced(self, ranks: Ranks) -> dict[str, list[float]]:
        """(total, count) of each name over all ranks: what a checkpoint in the middle of a log group keeps."""
        names = sorted(set().union(*ranks.gather(set(self.totals))))
        flat = [self.totals.get(n, 0.0) for n in names] + [self.counts.get(n, 0.0) for n in names]
        summed = ranks.sums(flat)
        return {n: [t, c] for n, t, c in zip(names, summed[: len(names)], summed[len(names) :], strict=True)}

    @classmethod
    def from_reduced(cls, pairs: Mapping[str, Sequence[float]]) -> Sums:
        """The sums that `reduced` described."""
        sums = cls()
        sums.totals = {name: total for name, (total, _) in pairs.items()}
        sums.counts = {name: count for name, (_, count) in pairs.items()}
        return sums

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Means over the events of all ranks."""
        return means_of(self.reduced(ranks))


def means_of(reduced: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The means that `Sums.reduced` describes; NaN where nothing counts."""
    return {name: total / count if count else math.nan for name, (total, count) in reduced.items()}

"""Reweighting: rare values of a target made to count as much as frequent ones, in the loss or in the plan.

A histogram of the training set's target gives every event the factor (mean occupancy of the filled bins / its bin's
occupancy), at most `limit`, scaled to mean 1 over the training set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shards.base import ConfigError
from xectrain.tasks import TASKS, find_task


class TargetWeights(nn.Module):
    """The factor of an event from its target; a module, so that the histogram is in the checkpoint."""

    factor: Tensor

    def __init__(self, edges: list[npt.NDArray[np.float64]], factor: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.axes = len(edges)
        for k, values in enumerate(edges):
            self.register_buffer(f"edges_{k}", torch.from_numpy(values))
        self.register_buffer("factor", torch.from_numpy(factor))

    def forward(self, target_BK: Tensor) -> Tensor:
        """Factors float64 (B,) for targets (B, K); the edge bin's outside the histogram, 1 where a value is missing."""
        where = []
        for k in range(self.axes):
            edges = self.get_buffer(f"edges_{k}")
            value_B = target_BK[:, k].double().contiguous()
            where.append((torch.bucketize(value_B, edges, right=True) - 1).clamp(0, len(edges) - 2))
        known_B = target_BK[:, : self.axes].isfinite().all(dim=1)
        return torch.where(known_B, self.factor[tuple(where)], 1.0)


def fit_weights(task: str, target_NK: npt.NDArray[np.float64], limit: float) -> TargetWeights:
    """Histogram a task's targets over the training set.

    Args:
        task: one with `bins`.
        target_NK: physical targets (n, K), NaN where unknown.
        limit: largest factor before scaling to mean 1.

    Raises:
        ConfigError: a task that cannot be reweighted, or one without any truth.
    """
    bins = find_task(task).bins
    if not bins:
        possible = [name for name, other in TASKS.items() if other.bins]
        raise ConfigError(f"task {task!r} cannot be reweighted", item="reweight.tasks", expected=", ".join(possible))
    used = target_NK[:, : len(bins)]
    known = used[np.isfinite(used).all(axis=1)]
    if not len(known):
        raise ConfigError(f"no event has truth for {task}", item="reweight.tasks")
    count, edges = np.histogramdd(known, bins=bins)
    factor = np.where(count > 0, count[count > 0].mean() / np.maximum(count, 1), 1.0).clip(max=limit)
    factor /= (factor * count).sum() / count.sum()
    return TargetWeights(list(edges), factor)

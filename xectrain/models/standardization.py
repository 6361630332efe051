"""The way between what a network computes and physical units: standardized values, calibrated uncertainties.

Shape suffixes: B events, K values of a task, R of its quantiles (1: a σ), P knots of their factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xectrain.config.networks import TaskConfig
from xectrain.models.differences import MULTIPLIED
from xectrain.models.factors import Factor, bent
from xectrain.targets import TargetStatistics
from xectrain.tasks import TASKS

UNCERTAIN = ("gaussian_nll", "quantile")
"""Losses whose outputs include uncertainties."""


class Standardization(nn.Module):
    """Mean and spread of every task's targets, stored with the weights, and the way between the two scales.

    Where a task predicts a difference to a reference, they are those of the differences: outputs then are of order one
    plus the reference in units of that spread.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig], references: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks, self.references = dict(tasks), tuple(references)
        self.logarithmic = {n for n, t in tasks.items() if t.log_transform or (n in references and n in MULTIPLIED)}
        for name in tasks:
            size = TASKS[name].size
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}_spread", torch.ones(size, dtype=torch.float64))
            if tasks[name].loss == "gaussian_nll":
                self.register_buffer(f"{name}_sigma_scale", torch.ones(size, dtype=torch.float64))
            if tasks[name].loss == "quantile":
                ones_RK = torch.ones(len(tasks[name].quantiles), size, dtype=torch.float64)
                self.register_buffer(f"{name}_quantile_scale", ones_RK)
            if tasks[name].loss in UNCERTAIN:
                unset = Factor()
                for kind, start in (("knots", unset.knots), ("bend", unset.bend)):
                    start_P11 = torch.from_numpy(start)[:, None, None]
                    self.register_buffer(f"{name}_{kind}", start_P11.repeat(1, *self.scale(name).shape))
            if name in references:
                self.register_buffer(f"{name}_target_mean", torch.zeros(size, dtype=torch.float64))
                self.register_buffer(f"{name}_target_spread", torch.ones(size, dtype=torch.float64))

    def load(
        self, statistics: Mapping[str, TargetStatistics], differences: Mapping[str, TargetStatistics] | None = None
    ) -> None:
        """Take over the statistics of a training set, by task; `differences` for those with a reference."""
        for name in self.tasks:
            own = statistics[name] if name not in self.references else (differences or {})[name]
            self.mean(name).copy_(torch.from_numpy(np.asarray(own.mean)))
            self.spread(name).copy_(torch.from_numpy(np.asarray(own.spread)))
            if name in self.references:
                self.target_mean(name).copy_(torch.from_numpy(np.asarray(statistics[name].mean)))
                self.target_spread(name).copy_(torch.from_numpy(np.asarray(statistics[name].spread)))

    def scale(self, name: str) -> Tensor:
        """The common factors of a task's uncertainties (`Regress.calibrate`), of quantiles or of σ: float64 (R, K)."""
        if self.tasks[name].loss == "quantile":
            return self.get_buffer(f"{name}_quantile_scale")
        return self.get_buffer(f"{name}_sigma_scale")[None]

    def factor(self, name: str, value_BK: Tensor) -> Tensor:
        """What the distances of quantiles from the median, or σ, are multiplied by: float32 (B, R, K).

        Args:
            value_BK: the predictions, standardized.
        """
        bend_BRK = bent(value_BK, self.get_buffer(f"{name}_knots"), self.get_buffer(f"{name}_bend"))
        return self.scale(name).float() * bend_BRK

    def set_factor(self, name: str, row: int, value: int, factor: Factor) -> None:
        """Take over the factor of one quantile (or σ: row 0) of one of a task's values."""
        self.scale(name)[row, value] = factor.scale
        self.get_buffer(f"{name}_knots")[:, row, value] = torch.from_numpy(factor.knots)
        self.get_buffer(f"{name}_bend")[:, row, value] = torch.from_numpy(factor.bend)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """As usual; what was stored before uncertainties were calibrated, or before factors bent, takes 1."""
        for name, buffer in self.named_buffers(recurse=False):
            if name.endswith(("_sigma_scale", "_quantile_scale", "_bend")):
                state_dict.setdefault(f"{prefix}{name}", torch.ones_like(buffer))
            elif name.endswith("_knots"):
                state_dict.setdefault(f"{prefix}{name}", buffer)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def target_mean(self, name: str) -> Tensor:
        """Mean of the targets themselves (of their logarithms with `log_transform`): float64 (K,)."""
        return self.get_buffer(f"{name}_target_mean") if name in self.references else self.mean(name)

    def target_spread(self, name: str) -> Tensor:
        """Standard deviation of the targets themselves (of their logarithms with `log_transform`): float64 (K,)."""
        return self.get_buffer(f"{name}_target_spread") if name in self.references else self.spread(name)

    def physical_spread(self, name: str) -> Tensor:
        """Standard deviation of the targets in their unit, to first order: float64 (K,)."""
        factor = self.target_mean(name).exp() if self.tasks[name].log_transform else 1.0
        return self.target_spread(name) * factor

    def mean(self, name: str) -> Tensor:
        """float64 (K,)."""
        return self.get_buffer(f"{name}_mean")

    def spread(self, name: str) -> Tensor:
        """float64 (K,)."""
        return self.get_buffer(f"{name}_spread")

    def standardized(self, name: str, target_BK: Tensor) -> Tensor:
        """Physical targets (float64) in units of the spread, float32; NaN stays NaN."""
        if TASKS[name].kind == "classes":
            return target_BK.float()
        value = target_BK.double().log() if name in self.logarithmic else target_BK.double()
        return ((value - self.mean(name)) / self.spread(name)).float()

    def physical(self, name: str, value_BK: Tensor) -> Tensor:
        """Standardized values in physical units, float32 (float64 inside would not export to every runtime)."""
        value = value_BK.float() * self.spread(name).float() + self.mean(name).float()
        return value.exp() if name in self.logarithmic else value

    def physical_sigma(self, name: str, log_variance_BK: Tensor, value_BK: Tensor) -> Tensor:
        """Standard deviation in physical units (to first order of a logarithm), given the standardized values."""
        sigma = (0.5 * log_variance_BK.float()).exp() * self.spread(name).float()
        sigma = sigma * self.factor(name, value_BK)[:, 0]
        return sigma * self.physical(name, value_BK) if name in self.logarithmic else sigma

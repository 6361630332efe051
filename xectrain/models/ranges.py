"""What a model was trained on, in a few quantiles, so that inference can flag events from elsewhere.

Shape suffixes: see `xectrain.models.blocks`; here S summaries and X quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization, valid
from xectrain.config.networks import TaskConfig
from xectrain.tasks import RANGE_QUANTILES, TASKS, TargetStatistics

SUMMARIES = ("log10_photons", "log10_brightest", "inner_fraction", "valid_sensors", "timed_sensors")
"""Of the sensors with a valid npho: log₁₀ of the photon sum, of the brightest sensor; the inner face's share of the
sum; how many there are; how many have a valid time."""
MARGIN = 0.05
"""The range is the central 99.8 % of the training set, widened by this fraction of its span on both sides."""


def input_summaries(x_BN2: Tensor, mask_BN: Tensor | None, normalization: Normalization) -> Tensor:
    """`SUMMARIES` of events.

    Args:
        x_BN2: float32 (B, 4760, 2), normalized, sentinel-marked.
        mask_BN: bool (B, 4760), sensors to leave out; those without a valid npho when not given.

    Returns:
        float32 (B, 5).
    """
    npho_valid_BN, time_valid_BN = valid(x_BN2, normalization)
    keep_BN = npho_valid_BN if mask_BN is None else ~mask_BN
    npho_BN = x_BN2[..., 0].float()
    photons_BN = torch.where(keep_BN, normalization.inverse_npho(npho_BN), torch.zeros_like(npho_BN))
    total_B = photons_BN.sum(dim=1).clamp(min=1)
    inner_B = photons_BN[:, : geo.N_SIPM].sum(dim=1)
    brightest_B = photons_BN.amax(dim=1).clamp(min=1)
    timed_B = (time_valid_BN & keep_BN).float().sum(dim=1)
    summaries = (total_B.log10(), brightest_B.log10(), inner_B / total_B, keep_BN.float().sum(dim=1), timed_B)
    return torch.stack(summaries, dim=1)


class TrainingRange(nn.Module):
    """Quantiles of the training set's targets and input summaries; NaN until they are filled."""

    summaries_SX: Tensor

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        nan = float("nan")
        self.register_buffer("summaries_SX", torch.full((len(SUMMARIES), len(RANGE_QUANTILES)), nan))
        for name in tasks:
            shape = (len(TASKS[name].columns), len(RANGE_QUANTILES))
            self.register_buffer(f"{name}_KX", torch.full(shape, nan, dtype=torch.float64))

    def load(self, statistics: Mapping[str, TargetStatistics], summaries_NS: npt.NDArray[np.float32]) -> None:
        """Take over a training set's target quantiles, and the quantiles of a sample of its input summaries (N, S)."""
        for name in self.tasks:
            self.get_buffer(f"{name}_KX").copy_(torch.from_numpy(np.asarray(statistics[name].quantiles)))
        quantiles = np.quantile(np.asarray(summaries_NS, np.float64), RANGE_QUANTILES, axis=0).T
        self.summaries_SX.copy_(torch.from_numpy(quantiles))

    def inside(self, summaries_BS: Tensor, predictions: Mapping[str, Tensor]) -> Tensor:
        """Whether events lie in the training range: bool (B,).

        Args:
            summaries_BS: from `input_summaries`.
            predictions: physical predictions (B,) by column, relative times as predicted. Quantities never filled in
                are not judged.
        """
        inside_B = _within(summaries_BS, self.summaries_SX.to(summaries_BS.device)).all(dim=1)
        for name in self.tasks:
            if TASKS[name].kind == "classes":
                continue
            values_BK = torch.stack([predictions[f"pred_{column}"] for column in TASKS[name].columns], dim=1)
            inside_B = inside_B & _within(values_BK, self.get_buffer(f"{name}_KX").to(values_BK.device)).all(dim=1)
        return inside_B


def _within(value_BK: Tensor, quantiles_KX: Tensor) -> Tensor:
    low_K = quantiles_KX[:, RANGE_QUANTILES.index(0.001)]
    high_K = quantiles_KX[:, RANGE_QUANTILES.index(0.999)]
    margin_K = MARGIN * (high_K - low_K)
    outside = (value_BK < low_K - margin_K) | (value_BK > high_K + margin_K) | value_BK.isnan()
    return ~outside

"""What a model was trained on, in a few quantiles, so that inference can flag events outside it.

Shape suffixes: see `xectrain.models.blocks`; here S summaries and X quantiles.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization
from xectrain.config.networks import TaskConfig
from xectrain.models.focus import read_light, visible_median
from xectrain.targets import RANGE_QUANTILES, TargetStatistics
from xectrain.tasks import TASKS

SUMMARIES = (
    *("log10_photons", "log10_brightest", "inner_fraction", "valid_sensors", "timed_sensors"),
    *(f"{face}_fraction" for face in geo.FACE_NAMES[1:]),
    *("timed_fraction", "mean_time_ns", "spread_time_ns", "log10_grain"),
)
"""Of the sensors with a valid npho: log₁₀ of the photon sum, of the brightest sensor; the inner face's share of the
sum; how many there are; how many have a valid time; the other faces' shares; the share of the light that has a time;
mean and RMS spread of the times, weighted with the light; log₁₀ of how grainy the light is (`grain`). New ones are
added at the end: checkpoints hold the first."""
MARGIN = 0.1
"""The range is that of the training set, widened on both sides by this fraction of the span of its central 99.8 %."""
DEAD_MARGIN = 48
"""Tolerated excess of dead sensors over the largest number in the training set: 1 % of all. Fewer are always fine."""
FRACTION_MARGIN = 0.01
"""Least margin of a share, for training sets in which it hardly varies."""
TIME_MARGIN_NS = 1.0
"""Least margin of the mean and spread of the times."""


def input_summaries(x_BN2: Tensor, mask_BN: Tensor | None, normalization: Normalization) -> Tensor:
    """`SUMMARIES` of events.

    Args:
        x_BN2: float32 (B, 4760, 2), normalized, sentinel-marked.
        mask_BN: bool (B, 4760), sensors to leave out; those without a valid npho when not given.

    Returns:
        float32 (B, S).
    """
    light = read_light(x_BN2, mask_BN, normalization)
    photons_BN, timed_BN, ns_BN = light.photons_BN, light.timed_BN, light.time_BN
    total_B = photons_BN.sum(dim=1).clamp(min=1)
    brightest_B = photons_BN.amax(dim=1).clamp(min=1)
    shares = [sum(photons_BN[:, part].sum(dim=1) for part in parts) / total_B for parts in _runs()]
    weight_BN = timed_BN * photons_BN.clamp(min=0)
    weight_B = weight_BN.sum(dim=1)
    mean_B = (weight_BN * ns_BN).sum(dim=1) / weight_B.clamp(min=1)
    square_B = (weight_BN * (ns_BN - mean_B[:, None]).square()).sum(dim=1) / weight_B.clamp(min=1)
    summaries = (
        *(total_B.log10(), brightest_B.log10(), shares[0], light.keep_BN.sum(dim=1), timed_BN.sum(dim=1)),
        *(*shares[1:], weight_B / total_B, mean_B, square_B.sqrt(), grain(photons_BN, light.keep_BN).log10()),
    )
    return torch.stack(summaries, dim=1)


@functools.cache
def _runs() -> list[list[slice]]:
    """The channels of each face as ranges."""
    face_N = geo.nominal_faces()
    edges = [0, *(np.flatnonzero(np.diff(face_N)) + 1).tolist(), len(face_N)]
    ranges = [slice(first, last) for first, last in itertools.pairwise(edges)]
    return [[part for part in ranges if face_N[part.start] == code] for code in range(len(geo.FACE_NAMES))]


def grain(photons_BN: Tensor, keep_BN: Tensor) -> Tensor:
    """How much neighbours on the inner face differ beside how much light they have: (B,), photons, at least 10⁻³.

    Of a square of four neighbours a b / c d it is (a − b − c + d)² / (a + b + c + d + 4), of an event the median over
    all squares that are seen. The light varies slowly from sensor to sensor, so the difference is that of counted
    photoelectrons, and the ratio is about the number of photons that one of them stands for, whatever the energy is.
    Photons in another unit change it by just that factor: a tenth of the light of a photon of 52.8 MeV is as smooth as
    no photon of 5 MeV is, though it has as much light. Without squares it is 10⁻³.

    Args:
        photons_BN: (B, 4760), 0 where masked.
        keep_BN: (B, 4760), 1 where visible.
    """

    def corners(values_BN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inner_BHW = values_BN[:, : geo.N_SIPM].unflatten(1, geo.face_grid("inner").shape)
        above_BHW, below_BHW = inner_BHW[:, :-1], inner_BHW[:, 1:]
        return above_BHW[..., :-1], above_BHW[..., 1:], below_BHW[..., :-1], below_BHW[..., 1:]

    a, b, c, d = corners(photons_BN)
    seen_BX = functools.reduce(torch.mul, corners(keep_BN)).flatten(1)
    ratio_BX = ((a - b - c + d).square() / ((a + b + c + d).clamp(min=0) + 4)).flatten(1)
    return visible_median(ratio_BX, seen_BX)[:, 0].clamp(min=1e-3)


@dataclass(frozen=True)
class Stray:
    """A quantity of which most of some events are outside the training range."""

    name: str
    """One of `SUMMARIES`, or the column of a prediction."""
    median: float
    """Of the values outside."""
    low: float
    high: float
    """The smallest and largest value that count as inside."""

    def __str__(self) -> str:
        return f"{self.name} is {self.median:.3g} (expected {self.low:.3g} to {self.high:.3g})"


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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also accept a checkpoint with fewer summaries: those that it lacks are not judged."""
        key = f"{prefix}summaries_SX"
        stored = state_dict.get(key)
        if stored is not None and len(stored) < len(SUMMARIES):
            whole = torch.full_like(self.summaries_SX, float("nan"))
            whole[: len(stored)] = stored
            state_dict[key] = whole
        super()._load_from_state_dict(state_dict, prefix, *args)

    def inside(self, summaries_BS: Tensor, predictions: Mapping[str, Tensor]) -> Tensor:
        """Whether events lie in the training range: bool (B,).

        An event is inside when each of its summaries and each of its predictions lies between the smallest and the
        largest of the training set, or a margin beyond. Dead sensors count upwards only: fewer than in training are
        no reason, nor are a few more.

        Args:
            summaries_BS: from `input_summaries`.
            predictions: physical predictions (B,) by column, relative times as predicted. Quantities never filled in
                are not judged.
        """
        judged = self._judged(summaries_BS, predictions)
        return ~torch.cat([_outside(values_BK, low_K, high_K) for _, values_BK, low_K, high_K in judged], 1).any(dim=1)

    def strays(self, summaries_BS: Tensor, predictions: Mapping[str, Tensor]) -> list[Stray]:
        """The quantities that put more than half of some events outside, as of `inside`."""
        found = []
        for names, values_BK, low_K, high_K in self._judged(summaries_BS, predictions):
            outside_BK = _outside(values_BK, low_K, high_K)
            most_K = outside_BK.float().mean(dim=0) > 0.5
            medians = values_BK.where(outside_BK, torch.nan).nanmedian(dim=0).values.tolist()  # so one that is outside
            limits = zip(names, medians, low_K.tolist(), high_K.tolist(), strict=True)
            found += [Stray(*row) for row, most in zip(limits, most_K.tolist(), strict=True) if most]
        return found

    def _judged(
        self, summaries_BS: Tensor, predictions: Mapping[str, Tensor]
    ) -> Iterator[tuple[Sequence[str], Tensor, Tensor, Tensor]]:
        """Names of quantities, their values (B, K), and the smallest and largest that are inside, (K,) each."""
        quantiles_SX = self.summaries_SX.to(summaries_BS.device)
        low_S, high_S = _limits(quantiles_SX, _least_margins(summaries_BS))
        counts_S = torch.tensor([name == "valid_sensors" for name in SUMMARIES]).to(summaries_BS.device)
        low_S = torch.where(counts_S, quantiles_SX[:, 0] - DEAD_MARGIN, low_S)
        yield SUMMARIES, summaries_BS, low_S, torch.where(counts_S, torch.full_like(high_S, geo.N_SENSORS), high_S)
        for name in self.tasks:
            if TASKS[name].kind == "classes":
                continue
            names = [f"pred_{column}" for column in TASKS[name].columns]
            values_BK = torch.stack([predictions[column] for column in names], dim=1)
            yield names, values_BK, *_limits(self.get_buffer(f"{name}_KX").to(values_BK.device))


def _least_margins(like_BS: Tensor) -> Tensor:
    """The least margin of each summary, (S,)."""
    kinds = {"fraction": FRACTION_MARGIN, "ns": TIME_MARGIN_NS}
    return torch.tensor([kinds.get(name.rpartition("_")[2], 0.0) for name in SUMMARIES]).to(like_BS)


def _limits(quantiles_KX: Tensor, least_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value still inside, (K,) each."""
    span_K = quantiles_KX[:, RANGE_QUANTILES.index(0.999)] - quantiles_KX[:, RANGE_QUANTILES.index(0.001)]
    margin_K = MARGIN * span_K
    if least_K is not None:
        margin_K = torch.maximum(margin_K, least_K)
    return quantiles_KX[:, 0] - margin_K, quantiles_KX[:, -1] + margin_K


def _outside(value_BK: Tensor, low_K: Tensor, high_K: Tensor) -> Tensor:
    """Which values are outside, bool (B, K); a value that is NaN is, and a limit that is NaN does not count."""
    return (value_BK < low_K) | (value_BK > high_K) | value_BK.isnan()

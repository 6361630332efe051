"""Which sensors of an event are hidden: a pure function of (seed, epoch, run, event) and of the event itself.

No generator state: every random number is a hash of what it is for, so an event's mask is the same on any rank,
device or batch. In validation the epoch is left out, so that masks are the same in all epochs, models and baselines.

Shape suffixes: B events, N the 4760 sensors, S sensors of a face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import Normalization
from xectrain.config.sensors import MaskingConfig, MaskKind

MASK_KINDS: tuple[MaskKind, ...] = ("random", "flat", "fixed", "pattern", "sensor_front")
"""The code of a kind in `DrawnMasks.kind_B` is its index here."""
GOLDEN = 0x9E3779B97F4A7C15
STREAM_SENSORS, STREAM_PATTERN, STREAM_KIND = 1, 2, 3
LOG10_BINS, BINS_PER_DECADE = 28, 4
FRONT_HALF_SIZE_CM, FRONT_DEPTH_CM = 0.5, 1.0


@dataclass(frozen=True)
class DrawnMasks:
    """What to hide in a batch."""

    hidden_BN: Tensor
    """bool: eligible sensors that were drawn. Sensors without valid npho are never among them."""
    kind_B: Tensor
    """int64: index into `MASK_KINDS` of how the event's mask was made."""


@dataclass(frozen=True)
class MaskInput:
    """What masks may depend on, for a batch."""

    x_BN2: Tensor
    """float32, normalized, sentinel-marked."""
    npho_valid_BN: Tensor
    time_valid_BN: Tensor
    run_B: Tensor
    """int64."""
    event_B: Tensor
    """int64."""
    uvw_B3: Tensor | None = None
    """First interaction, cm, NaN where unknown; for `sensor_front`."""


@dataclass(frozen=True)
class Masker:
    """Draws masks as a config says."""

    config: MaskingConfig
    ratio: float | Mapping[str, float]
    """Of the eligible sensors, one number or by face; see `MaskingConfig.ratios`."""
    normalization: Normalization
    seed: int
    patterns: Tensor | None = None
    """bool (patterns, 4760), for `pattern`."""

    def __post_init__(self) -> None:
        if "pattern" in self._kinds() and self.patterns is None:
            raise ConfigError("masks of kind pattern need dead-channel patterns", item="masking.patterns")

    def draw(self, batch: MaskInput, epoch: int | None) -> DrawnMasks:
        """The masks of a batch.

        Args:
            epoch: the training epoch; None in validation.

        Raises:
            ConfigError: `sensor_front` without the first interaction.
        """
        key_B = event_key(self.seed, epoch, batch.run_B, batch.event_B)
        eligible_BN = batch.npho_valid_BN
        if self.config.maskable == "time":
            eligible_BN = eligible_BN & batch.time_valid_BN
        kinds = self._kinds()
        masks = [self._of_kind(kind, key_B, batch, eligible_BN) for kind in kinds]
        choice_B = _pick(uniform(key_B, STREAM_KIND, 1)[:, 0], list(kinds.values()))
        hidden_BN = torch.zeros_like(eligible_BN)
        for i, mask_BN in enumerate(masks):
            hidden_BN = hidden_BN | (mask_BN & (choice_B == i)[:, None])
        codes = torch.tensor([MASK_KINDS.index(kind) for kind in kinds], device=choice_B.device)
        return DrawnMasks(hidden_BN, codes[choice_B])

    def _kinds(self) -> dict[MaskKind, float]:
        return dict(self.config.mixture) if self.config.kind == "mixture" else {self.config.kind: 1.0}

    def _of_kind(self, kind: MaskKind, key_B: Tensor, batch: MaskInput, eligible_BN: Tensor) -> Tensor:
        if kind == "pattern":
            assert self.patterns is not None
            which_B = (uniform(key_B, STREAM_PATTERN, 1)[:, 0] * len(self.patterns)).long()
            return self.patterns.to(eligible_BN.device)[which_B] & eligible_BN
        if kind == "sensor_front":
            return _in_front(batch.uvw_B3, eligible_BN) & eligible_BN
        score_BN = self._score(kind, key_B, batch, eligible_BN)
        if kind == "fixed":
            return _by_face(score_BN, eligible_BN, lambda face, n_B: self._count(face, n_B))
        if isinstance(self.ratio, Mapping):
            ratios = self.ratio
            return _by_face(score_BN, eligible_BN, lambda face, n_B: _share(ratios.get(face, 0.0), n_B))
        return lowest(score_BN, eligible_BN, _share(self.ratio, eligible_BN.sum(dim=1)))

    def _count(self, face: str, eligible_B: Tensor) -> Tensor:
        counts = {str(name): count for name, count in self.config.counts.items()}
        return eligible_B.clamp(max=counts.get(face, counts.get("other", 0)))

    def _score(self, kind: MaskKind, key_B: Tensor, batch: MaskInput, eligible_BN: Tensor) -> Tensor:
        """The sensors with the lowest scores are hidden. Weighted draws without replacement: −ln(uniform)/weight
        (Efraimidis & Spirakis, Inf. Process. Lett. 97 (2006) 181)."""
        uniform_BN = uniform(key_B, STREAM_SENSORS, geo.N_SENSORS)
        bias = self.config.time_mask_bias
        if kind != "flat" and bias == 0:
            return uniform_BN
        zero = torch.zeros_like(batch.x_BN2[..., 0])
        npho_BN = torch.where(batch.npho_valid_BN, batch.x_BN2[..., 0], zero).double()
        photons_BN = self.normalization.inverse_npho(npho_BN).clamp(min=1)
        log_weight_BN = bias * photons_BN.log()
        if kind == "flat":
            log_weight_BN = log_weight_BN - _density(photons_BN, eligible_BN).log()
        score_BN: Tensor = -uniform_BN.log() * (-log_weight_BN).exp()
        return score_BN


def event_key(seed: int, epoch: int | None, run_B: Tensor, event_B: Tensor) -> Tensor:
    """A hash of what an event's random numbers depend on: int64 (B,). Validation is an epoch of its own."""
    key_B = torch.zeros_like(event_B)
    for value in (seed, -1 if epoch is None else epoch):
        key_B = mix(key_B ^ mix(torch.full_like(event_B, _signed(value + GOLDEN))))
    for value_B in (run_B, event_B):
        key_B = mix(key_B ^ mix(value_B + _signed(GOLDEN)))
    return key_B


def uniform(key_B: Tensor, stream: int, count: int) -> Tensor:
    """`count` uniform numbers per event in the open interval (0, 1): float64 (B, count), 52 bits each."""
    index = torch.arange(1, count + 1, device=key_B.device)
    bits = mix(mix(key_B + _signed(GOLDEN * stream))[:, None] + index * _signed(GOLDEN))
    return (_shift(bits, 12).double() + 0.5) * 2.0**-52


def mix(z: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele et al., OOPSLA 2014) on int64, which wraps on every device."""
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def lowest(score_BS: Tensor, eligible_BS: Tensor, count_B: Tensor) -> Tensor:
    """The `count_B` eligible sensors of lowest score, exactly that many even with equal scores: bool (B, S)."""
    order_BS = torch.where(eligible_BS, score_BS, torch.full_like(score_BS, math.inf)).argsort(dim=1, stable=True)
    rank_S = torch.arange(score_BS.shape[1], device=score_BS.device)
    return torch.zeros_like(eligible_BS).scatter(1, order_BS, rank_S < count_B[:, None]) & eligible_BS


def _share(ratio: float, count_B: Tensor) -> Tensor:
    """floor(ratio · count), forgiving the last bit of the product."""
    return (ratio * count_B.double() + 1e-9).floor().long()


def _by_face(score_BN: Tensor, eligible_BN: Tensor, count: Callable[[str, Tensor], Tensor]) -> Tensor:
    """`lowest` on every face by itself; `count(face, eligible_B)` says how many."""
    mask_BN = torch.zeros_like(eligible_BN)
    for face in geo.FACE_NAMES:
        channels = torch.from_numpy(geo.face_channels(face).astype(np.int64)).to(eligible_BN.device)
        eligible_BS = eligible_BN[:, channels]
        mask_BN[:, channels] = lowest(score_BN[:, channels], eligible_BS, count(face, eligible_BS.sum(dim=1)))
    return mask_BN


def _density(photons_BN: Tensor, eligible_BN: Tensor) -> Tensor:
    """How many eligible sensors of the event share a sensor's bin of log₁₀ photons: float64 (B, N), at least 1."""
    bin_BN = (photons_BN.log10() * BINS_PER_DECADE).long().clamp(0, LOG10_BINS - 1)
    count_BX = torch.zeros(len(photons_BN), LOG10_BINS, dtype=torch.float64, device=photons_BN.device)
    count_BX = count_BX.scatter_add(1, bin_BN, eligible_BN.double())
    return count_BX.gather(1, bin_BN).clamp(min=1)


def _pick(uniform_B: Tensor, weights: list[float]) -> Tensor:
    """Index of the weighted choice that a uniform number makes: int64 (B,)."""
    edges = np.cumsum(weights)[:-1] / np.sum(weights)
    return (uniform_B[:, None] >= torch.from_numpy(edges).to(uniform_B.device)).sum(dim=1)


@lru_cache
def _inner_uv() -> Tensor:
    """u and v of the inner sensors, float32 (4092, 2)."""
    return torch.from_numpy(geo.uvw_from_xyz(geo.nominal().positions[: geo.N_SIPM])[:, :2].copy()).float()


def _in_front(uvw_B3: Tensor | None, like_BN: Tensor) -> Tensor:
    """Inner sensors within half a centimetre in u and v of a first interaction less than a centimetre deep."""
    if uvw_B3 is None:
        raise ConfigError(
            "masks of kind sensor_front need the first interaction",
            item="masking.kind",
            expected="truth columns u, v, w",
            remedy="use data that have them, or another kind",
        )
    uvw_B3 = uvw_B3.to(like_BN.device).float()
    near_BS = ((_inner_uv().to(like_BN.device) - uvw_B3[:, None, :2]).abs() < FRONT_HALF_SIZE_CM).all(dim=-1)
    shallow_B = (uvw_B3[:, 2] > 0) & (uvw_B3[:, 2] < FRONT_DEPTH_CM)
    mask_BN = torch.zeros_like(like_BN)
    mask_BN[:, : geo.N_SIPM] = near_BS & shallow_B[:, None]
    return mask_BN

"""Losses of the modes that predict sensors (`mae`, `inpaint`), and their optional physics terms.

Only `scored` sensors count: those that were hidden and whose true value is known. Everything is per event, so that
sums over ranks and micro-batches can be divided once by the global count.

Shape suffixes: B events, N the 4760 sensors, X channels predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from shards import geometry as geo
from shards.normalization import Normalization, valid
from xectrain.config.networks import Channel
from xectrain.config.sensors import MaskingConfig
from xectrain.modes.losses import elementwise

COUNT_VARIANCE = 11.0
"""b: variance of a sensor's photon number per photon, as in `xectrain.localfit`."""
PEDESTAL = 30.0
"""d [photons], for the noise of a sensor without light."""
UNEXPLAINED = 0.15
"""r: relative spread of bright sensors that no other sensor tells."""
TIMING_NEIGHBOURS = 8
"""Nearest sensors of the same face that timing consistency compares a sensor with."""


@dataclass(frozen=True)
class SensorLoss:
    """Loss of a batch, event by event; NaN where an event has nothing to score."""

    channels: dict[str, Tensor]
    """By channel, float32 (B,): the (weighted) mean over the event's scored sensors; carries the gradient."""
    extra: dict[str, Tensor]
    """Physics terms that are on, by name, float32 (B,), weights included."""
    faces: dict[str, Tensor]
    """`{face}_{channel}`, float32 (B,), without gradient: the unweighted mean over the face's scored sensors."""
    scored: Tensor
    """int64 (B,): sensors whose npho was scored (time, if only that is predicted)."""


def sensor_loss(
    config: MaskingConfig,
    channels: Sequence[Channel],
    normalization: Normalization,
    prediction_BNX: Tensor,
    x_BN2: Tensor,
    scored_BN: Tensor,
    time_valid_BN: Tensor,
) -> SensorLoss:
    """Compare predictions with the true values of hidden sensors.

    Args:
        channels: what `prediction_BNX` holds, in order.
        prediction_BNX: float32, normalized.
        x_BN2: float32, the true normalized values (before hiding), sentinel-marked.
        scored_BN: bool, hidden sensors with a valid npho (`masking.DrawnMasks.hidden_BN`).
        time_valid_BN: bool, sensors with a valid time; time is scored at scored sensors that have one.
    """
    loss = elementwise("l1" if config.loss == "counts" else config.loss)
    photons_BN = _photons(x_BN2, normalization)
    npho_weight_BN = _npho_weight(config, photons_BN)
    time_weight_BN = photons_BN.clamp(min=0).sqrt() if config.time_npho_weighting else torch.ones_like(photons_BN)
    results: dict[str, Tensor] = {}
    faces: dict[str, Tensor] = {}
    counts: list[Tensor] = []
    for i, channel in enumerate(channels):
        counted_BN = scored_BN & time_valid_BN if channel == "time" else scored_BN
        true_BN = x_BN2[..., 0 if channel == "npho" else 1].float()
        error_BN = torch.where(counted_BN, prediction_BNX[..., i].float() - true_BN, torch.zeros_like(true_BN))
        if channel == "npho" and config.loss == "counts":
            seen_BN = torch.where(counted_BN, prediction_BNX[..., i].float(), true_BN)
            predicted_BN = normalization.inverse_npho(torch.where(counted_BN, seen_BN, torch.zeros_like(seen_BN)))
            loss_BN = deviance(photons_BN, predicted_BN)
        else:
            loss_BN = loss(error_BN, config.loss_beta)
        results[channel] = _mean(loss_BN, counted_BN * (npho_weight_BN if channel == "npho" else time_weight_BN))
        faces |= _by_face(loss_BN.detach(), counted_BN, channel)
        counts.append(counted_BN.sum(dim=1))
    extra = {}
    if config.timing_consistency > 0 and "time" in channels:
        time_BN = prediction_BNX[..., list(channels).index("time")].float()
        penalty_B = timing_consistency(time_BN, photons_BN, scored_BN & time_valid_BN, config, normalization)
        extra["timing_consistency"] = config.timing_consistency * penalty_B
    return SensorLoss(results, extra, faces, counts[0])


def deviance(photons: Tensor, predicted: Tensor) -> Tensor:
    """How unlikely photon numbers are for a predicted mean.

    It is the deviance of the negative binomial distribution (McCullagh and Nelder, Generalized Linear Models, 1989) of
    variance b·(μ + d)·(1 + r²·(μ + d)/b). Its gradient is (μ − n) over the variance, so the mean of the truth is the
    best prediction whatever its distribution, and dim and bright sensors count alike. 0 where they agree; about 1 where
    only statistics differ.

    Args:
        photons: n; noise may make it negative.
        predicted: μ, any shape like it.
    """
    mean = predicted.clamp(min=1 - PEDESTAL) + PEDESTAL  # a network at work is not there; others' outputs may be
    bright = COUNT_VARIANCE / UNEXPLAINED**2
    seen = photons + PEDESTAL

    def term(shift: float) -> Tensor:
        return (seen + shift) * ((seen + shift).clamp(min=1).log() - (mean + shift).log())

    return 2 / COUNT_VARIANCE * (term(0.0) - term(bright))


def event_loss(loss: SensorLoss, weights: Mapping[str, Tensor | float]) -> tuple[Tensor, Tensor]:
    """One number per event: its channels, weighted, plus the physics terms.

    Args:
        weights: by channel, from `channel_weights` or `losses.Balance.factors`.

    Returns:
        loss (B,), 0 where nothing is scored, and whether something is, bool (B,). A channel that an event has nothing
        of adds nothing.
    """
    parts = [weights[channel] * values_B.nan_to_num(nan=0.0) for channel, values_B in loss.channels.items()]
    total_B = torch.stack([*parts, *loss.extra.values()]).sum(dim=0)
    good_B = torch.stack([~values_B.isnan() for values_B in loss.channels.values()]).any(dim=0)
    return torch.where(good_B, total_B, torch.zeros_like(total_B)), good_B


def channel_weights(config: MaskingConfig, channels: Sequence[Channel]) -> dict[str, float]:
    """Weights of the channels, for `losses.Balance`."""
    weights = {"npho": config.npho_weight, "time": config.time_weight}
    return {channel: weights[channel] for channel in channels}


def timing_consistency(
    time_BN: Tensor, photons_BN: Tensor, counted_BN: Tensor, config: MaskingConfig, normalization: Normalization
) -> Tensor:
    """How far predicted times of nearby bright sensors differ by more than light takes between them: float32 (B,), ns.

    Light from one point reaches two sensors at times that differ by at most their distance over the speed of light
    (triangle inequality). 0 for an event without a pair of bright scored sensors.
    """
    nearest_NK, flight_NK = (t.to(time_BN.device) for t in _timing_pairs())
    bright_BN = counted_BN & (photons_BN >= config.timing_bright)
    time_ns_BN = time_BN * (normalization.time_scale * 1e9)
    excess_BNK = (time_ns_BN[:, nearest_NK] - time_ns_BN[..., None]).abs() - flight_NK
    pair_BNK = bright_BN[:, nearest_NK] & bright_BN[..., None]
    excess_BNK = torch.where(pair_BNK, excess_BNK.clamp(min=0), torch.zeros_like(excess_BNK))
    return excess_BNK.sum(dim=(1, 2)) / pair_BNK.sum(dim=(1, 2)).clamp(min=1)


def light_centre(photons_BN: Tensor) -> Tensor:
    """Where the light comes from, roughly: the mean position of the sensors weighted by their photons; (B, 3), cm."""
    weight_BN = photons_BN.clamp(min=0)
    total_B1 = weight_BN.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return (weight_BN[..., None] * _positions()[0].to(photons_BN.device)).sum(dim=1) / total_B1


def relative_solid_angle(centre_B3: Tensor) -> Tensor:
    """Solid angle of each sensor seen from a point, relative to the event's mean: float32 (B, N).

    Far-field formula A·cos/d², with A added to d² so that it stays finite: a weight, not a measurement.
    """
    position_N3, normal_N3, area_N = (t.to(centre_B3.device) for t in _positions())
    offset_BN3 = centre_B3[:, None] - position_N3
    distance2_BN = offset_BN3.square().sum(dim=-1)
    height_BN = (offset_BN3 * normal_N3).sum(dim=-1).clamp(min=0)
    omega_BN = area_N * height_BN / (distance2_BN.sqrt() * (distance2_BN + area_N)).clamp(min=1e-6)
    return omega_BN / omega_BN.mean(dim=1, keepdim=True).clamp(min=1e-12)


def _npho_weight(config: MaskingConfig, photons_BN: Tensor) -> Tensor:
    weight_BN = torch.ones_like(photons_BN)
    if config.npho_loss_alpha > 0:
        weight_BN = (photons_BN.clamp(min=0) + 1) ** config.npho_loss_alpha
    if config.solid_angle_weighting > 0:
        omega_BN = relative_solid_angle(light_centre(photons_BN))
        weight_BN = weight_BN * omega_BN.clamp(min=1e-3) ** config.solid_angle_weighting
    return weight_BN


def _photons(x_BN2: Tensor, normalization: Normalization) -> Tensor:
    """True photons of the sensors that have a valid npho, 0 elsewhere: float32 (B, N)."""
    npho_valid_BN, _ = valid(x_BN2, normalization)
    npho_BN = x_BN2[..., 0].float()
    zero = torch.zeros_like(npho_BN)
    photons_BN: Tensor = normalization.inverse_npho(torch.where(npho_valid_BN, npho_BN, zero))
    return torch.where(npho_valid_BN, photons_BN, zero)


def _mean(loss_BN: Tensor, weight_BN: Tensor) -> Tensor:
    """Weighted mean over sensors, NaN (without a gradient) where no sensor has weight: (B,)."""
    total_B = weight_BN.sum(dim=1)
    mean_B = (loss_BN * weight_BN).sum(dim=1) / total_B.clamp(min=1e-12)
    return torch.where(total_B > 0, mean_B, torch.full_like(mean_B, float("nan")))


def _by_face(loss_BN: Tensor, counted_BN: Tensor, channel: str) -> dict[str, Tensor]:
    """Means per face, NaN where a face has no counted sensor. One product with the faces' indicator matrix."""
    member_NF = _face_members().to(loss_BN.device)
    count_BF = counted_BN.float() @ member_NF
    mean_BF = (loss_BN * counted_BN) @ member_NF / count_BF.clamp(min=1)
    mean_BF = torch.where(count_BF > 0, mean_BF, torch.full_like(mean_BF, float("nan")))
    return {f"{face}_{channel}": mean_BF[:, i] for i, face in enumerate(geo.FACE_NAMES)}


@lru_cache
def _face_members() -> Tensor:
    faces = torch.from_numpy(geo.nominal_faces().astype(np.int64))
    return torch.nn.functional.one_hot(faces, len(geo.FACE_NAMES)).float()


@lru_cache
def _positions() -> tuple[Tensor, Tensor, Tensor]:
    """Positions, normals (cm, float32 (N, 3)) and areas (cm², (N,)) of the nominal sensors."""
    area = torch.full((geo.N_SENSORS,), float(np.pi * geo.PMT_RADIUS**2))
    area[: geo.N_SIPM] = (2 * geo.SIPM_SQUARE_HALF_SIDE) ** 2
    normals = torch.from_numpy(geo.nominal_normals().copy()).float()
    return torch.from_numpy(geo.nominal_positions().copy()).float(), normals, area


@lru_cache
def _timing_pairs() -> tuple[Tensor, Tensor]:
    """Nearest sensors on the same face, int64 (N, K), and the light's flight time to them, ns."""
    nearest = geo.nearest(TIMING_NEIGHBOURS).astype(np.int64)
    positions = geo.nominal_positions()
    distance = np.linalg.norm(positions[nearest] - positions[:, None], axis=-1)
    return torch.from_numpy(nearest), torch.from_numpy(distance / geo.LIGHT_SPEED_XENON).float()

"""Small random events for the tests of the networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shards.normalization import Normalization, mark_dead, preset, valid
from xectrain.config.networks import ModelConfig, model_config

STANDARD = preset("standard")
HIDDEN_TWELVE = (*range(4174, 4178), *range(4198, 4202), *range(4222, 4226))
"""Outer sensors that an older channel map hid behind the central patch."""


def events(count: int, seed: int = 0, norm: Normalization = STANDARD, dead: float = 0.02) -> Tensor:
    """Random light: float32 (count, 4760, 2), a fifth of the times invalid, a fraction of the sensors dead."""
    draw = torch.Generator().manual_seed(seed)
    photons = torch.rand(count, 4760, generator=draw) ** 4 * 5000 + 1
    time = norm.forward_time(torch.rand(count, 4760, generator=draw) * 1e-8)
    no_time = torch.rand(count, 4760, generator=draw) < 0.2
    time = torch.where(no_time, norm.sentinel_time, time)
    x_BN2 = torch.stack((norm.forward_npho(photons), time), dim=-1)
    return mark_dead(x_BN2, norm, torch.rand(count, 4760, generator=draw) < dead)


def masks(x_BN2: Tensor, fraction: float = 0.1, seed: int = 1, norm: Normalization = STANDARD) -> Tensor:
    """Dead sensors and a random fraction of the others: bool (B, 4760)."""
    draw = torch.Generator().manual_seed(seed)
    return ~valid(x_BN2, norm)[0] | (torch.rand(x_BN2.shape[:2], generator=draw) < fraction)


def tiny(**sections: dict[str, Any]) -> ModelConfig:
    """The tiny preset with options replaced, and without dropout."""
    encoder = {"fusion_dropout": 0.0, **sections.pop("encoder", {})}
    regressor = {"head_dropout": 0.0, **sections.pop("regressor", {})}
    return model_config("tiny", {"encoder": encoder, "regressor": regressor, **sections})

"""Augmentation on the device: random changes to a training batch, as a pure function of (seed, epoch, run, event).

Like masks, every random number is a hash of what it is for, so an event is augmented alike on any rank, in any batch,
and after any restart. Shape suffixes: B events, N the 4760 sensors, C truth columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError
from shards.dead import read_dead
from shards.identity import IDENTITY
from shards.normalization import Normalization, mark_dead, valid
from xectrain.config.tree import AugmentConfig
from xectrain.modes.masking import event_key, uniform

STREAM = {name: 100 + k for k, name in enumerate(("dead", "pattern", "npho", "time", "scale", "mirror_z", "mirror_y"))}
MIRRORED = {
    "z": {"u": 0.0, "z": 0.0, "emi_z": 0.0, "vtx_z": 0.0, "theta": 180.0},
    "y": {"v": 0.0, "y": 0.0, "emi_y": 0.0, "vtx_y": 0.0, "phi": 0.0},
}
"""Columns that change where an axis is reversed: the new value is this minus the old one."""
Axis = Literal["y", "z"]
SCALED = ("energy", "energy_dep")


class Augmentation:
    """The augmentations that are on, in a fixed order: mirror, energy scale, noise, jitter, dead channels."""

    def __init__(self, config: AugmentConfig, normalization: Normalization, columns: Sequence[str], seed: int) -> None:
        """Prepare for batches of one dataset.

        Raises:
            ConfigError: a pattern file without channels, or data without the columns that identify events.
        """
        self.config, self.norm, self.columns, self.seed = config, normalization, list(columns), seed
        self.patterns = torch.stack([_pattern(f) for f in config.patterns]) if config.patterns else None
        steps: list[tuple[float, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]]] = [
            (config.mirror_z, partial(self._mirror, "z", config.mirror_z)),
            (config.mirror_y, partial(self._mirror, "y", config.mirror_y)),
            (config.energy_scale, self._scale),
            (config.npho_noise, self._noise),
            (config.time_jitter, self._jitter),
            (config.channel_dropout, self._drop),
            (config.pattern_dropout, self._drop_pattern),
        ]
        self.steps = [step for amount, step in steps if amount > 0]
        if self.steps and not set(IDENTITY) <= set(columns):
            raise ConfigError("needs the columns run and event, which the data do not have", item="augment")

    def apply(self, x_BN2: Tensor, truth_BC: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented sensors and truth.

        Args:
            x_BN2: float32 (B, 4760, 2), normalized, sentinel-marked, no threshold applied yet.
            truth_BC: float64, on the same device.
            epoch: training epoch.
        """
        if not self.steps:
            return x_BN2, truth_BC
        run_B, event_B = (truth_BC[:, self.columns.index(name)].long() for name in IDENTITY)
        key_B = event_key(self.seed, epoch, run_B, event_B)
        for step in self.steps:
            x_BN2, truth_BC = step(x_BN2, truth_BC, key_B)
        return x_BN2, truth_BC

    def _mirror(
        self, axis: Axis, chance: float, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        chosen_B = uniform(key_B, STREAM[f"mirror_{axis}"], 1)[:, 0] < chance
        partner_N = mirror_partners(axis).to(x_BN2.device)
        mirrored_BC = truth_BC.clone()
        for name, centre in MIRRORED[axis].items():
            if name in self.columns:
                k = self.columns.index(name)
                mirrored_BC[:, k] = centre - truth_BC[:, k]
        x_BN2 = torch.where(chosen_B[:, None, None], x_BN2[:, partner_N], x_BN2)
        return x_BN2, torch.where(chosen_B[:, None], mirrored_BC, truth_BC)

    def _scale(self, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        factor_B = (1 + self.config.energy_scale * normal(key_B, STREAM["scale"], 1)[:, 0]).clamp(min=0.1)
        scaled_BC = truth_BC.clone()
        for name in SCALED:
            if name in self.columns:
                scaled_BC[:, self.columns.index(name)] *= factor_B
        return self._with_photons(x_BN2, lambda photons_BN: photons_BN * factor_B[:, None]), scaled_BC

    def _noise(self, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        noise_BN = self.config.npho_noise * normal(key_B, STREAM["npho"], x_BN2.shape[1])
        return self._with_photons(x_BN2, lambda p_BN: p_BN + noise_BN * p_BN.clamp(min=1).sqrt()), truth_BC

    def _jitter(self, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        _, timed_BN = valid(x_BN2, self.norm)
        shift_BN = self.config.time_jitter * 1e-9 / self.norm.time_scale
        noise_BN = (shift_BN * normal(key_B, STREAM["time"], x_BN2.shape[1])).to(x_BN2.dtype)
        time_BN = torch.where(timed_BN, x_BN2[..., 1] + noise_BN, x_BN2[..., 1])
        return torch.stack((x_BN2[..., 0], time_BN), dim=-1), truth_BC

    def _drop(self, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        dead_BN = uniform(key_B, STREAM["dead"], x_BN2.shape[1]) < self.config.channel_dropout
        return mark_dead(x_BN2, self.norm, dead_BN), truth_BC

    def _drop_pattern(self, x_BN2: Tensor, truth_BC: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        assert self.patterns is not None
        draw_B2 = uniform(key_B, STREAM["pattern"], 2)
        dead_BN = self.patterns.to(x_BN2.device)[(draw_B2[:, 0] * len(self.patterns)).long()]
        dead_BN = dead_BN & (draw_B2[:, 1:] < self.config.pattern_dropout)
        return mark_dead(x_BN2, self.norm, dead_BN), truth_BC

    def _with_photons(self, x_BN2: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """`x` with the photons of valid sensors changed, kept within the domain of the normalization."""
        good_BN, _ = valid(x_BN2, self.norm)
        photons_BN = change(self.norm.inverse_npho(x_BN2[..., 0].double()))
        npho_BN = self.norm.forward_npho(photons_BN.clamp(min=self.norm.domain_minimum)).to(x_BN2.dtype)
        npho_BN = torch.where(good_BN & npho_BN.isfinite(), npho_BN, x_BN2[..., 0])
        return torch.stack((npho_BN, x_BN2[..., 1]), dim=-1)


def normal(key_B: Tensor, stream: int, count: int) -> Tensor:
    """Standard normal numbers per event, float64 (B, count), by the inverse of the normal distribution."""
    return math.sqrt(2) * torch.erfinv(2 * uniform(key_B, stream, count) - 1)


@lru_cache
def mirror_partners(axis: Axis) -> Tensor:
    """The channel at (x, y, −z), or at (x, −y, z), of each channel, int64 (4760,)."""
    positions = geo.nominal().positions
    reversed_ = np.array([1.0, 1.0, -1.0] if axis == "z" else [1.0, -1.0, 1.0])
    distance, partner = KDTree(positions).query(positions * reversed_)
    assert np.max(distance) < 1e-6
    return torch.from_numpy(np.asarray(partner, dtype=np.int64))


def _pattern(file: str) -> Tensor:
    dead = read_dead(Path(file)).sensors()
    if not dead.any():
        raise ConfigError("does not name any dead channel", file=file, item="augment.patterns")
    return torch.from_numpy(dead)

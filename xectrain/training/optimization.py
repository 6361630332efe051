"""AdamW's parameter groups, the learning rate as a function of the step, and the weights' moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from xectrain.config.tree import OptimConfig, ScheduleConfig

M = TypeVar("M", bound=nn.Module)


def build_optimizer(step_module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a mode's module.

    Weight decay applies to matrices and kernels only: not to biases, normalization and GRN scales (one-dimensional) nor
    to parameters whose name says embedding, position, query or balance. Parameters below `model.encoder` carry
    `encoder_lr_scale` as their group's `lr_scale`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in step_module.named_parameters():
        in_encoder = name.startswith("model.encoder.")
        if in_encoder and config.freeze_encoder:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((in_encoder, decays(name, parameter)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr,
                "lr_scale": config.encoder_lr_scale if in_encoder else 1.0,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (in_encoder, decayed), parameters in sorted(groups.items())
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies to a parameter of this name and shape."""
    exempt = ("embedding", "position", "query", "queries", "balance", "grn", "norm")
    return parameter.ndim > 1 and parameter.shape.numel() > max(parameter.shape) and not any(e in name for e in exempt)


def learning_rate(
    config: ScheduleConfig, peak: float, step: int, total: int, per_epoch: int, plateau_scale: float = 1.0
) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`.

    Args:
        config: the schedule.
        peak: highest learning rate.
        step: optimizer step since the schedule began.
        total: optimizer steps the schedule spans.
        per_epoch: optimizer steps of one epoch.
        plateau_scale: factor accumulated at plateaus (kind `plateau` only).
    """
    low = min(config.lr_min, peak)
    if config.kind == "onecycle":
        rise = max(1, round(config.onecycle_rise * total))
        if step < rise:
            return _half_wave(peak / 25, peak, (step + 1) / rise)
        return _half_wave(peak, low, (step - rise) / max(1, total - 1 - rise))
    warmup = min(round(config.warmup_epochs * per_epoch), max(0, total - 1))
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.kind == "constant":
        return peak
    if config.kind == "plateau":
        return max(low, peak * plateau_scale)
    if config.kind == "restarts":
        period = max(1, round(config.restart_epochs * per_epoch))
        return _half_wave(peak, low, ((step - warmup) % period) / period)
    return _half_wave(peak, low, (step - warmup) / max(1, total - 1 - warmup))


def _half_wave(start: float, end: float, progress: float) -> float:
    """Half a cosine wave from `start` at progress 0 to `end` at 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


@dataclass
class Plateau:
    """State of the `plateau` schedule: the factor so far, and validations since the last improvement."""

    scale: float = 1.0
    stale: int = 0

    def update(self, improved: bool, config: ScheduleConfig) -> None:
        """Account for one validation."""
        self.stale = 0 if improved else self.stale + 1
        if self.stale >= config.plateau_patience:
            self.scale, self.stale = self.scale * config.plateau_factor, 0


class MovingAverage(Generic[M]):
    """Exponential moving average of a module's weights; decay min(decay, (1+n)/(10+n)) at update n.

    Source: warm-up of the decay as in `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the weights of `module`; buffers are copied."""
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged, current = self._pairs(module)
        torch._foreach_lerp_(averaged, current, 1 - rate)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)

    def _pairs(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        return [p.data for p in self.module.parameters()], [p.data for p in module.parameters()]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients so that their joint norm is at most `limit` (0: leave them); return the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), limit if limit > 0 else math.inf))

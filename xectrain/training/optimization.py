"""AdamW's parameter groups, the learning rate as a function of the step, and the weights' moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from xectrain.config.tree import OptimConfig, ScheduleConfig
from xectrain.models.hexagonal import HexMixer

M = TypeVar("M", bound=nn.Module)
ENCODER = "model.encoder."
SPARSE_FROM, EVERY = 100, 4
"""Steps from which the weights' average moves only every so many: it spans more than ten by then, and to read and write
all weights takes a step of `small` a fortieth of its time."""


KERNELS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, HexMixer)
"""Modules whose `weight` is a matrix or a kernel: what weight decay applies to, and nothing else."""


def build_optimizer(mode: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a mode.

    Weight decay applies to the weights of `KERNELS`: not to biases, scales, embeddings, learned queries and balances.
    Parameters below `model.encoder` carry `encoder_lr_scale` as their group's `lr_scale`.
    """
    decayed = decayed_parameters(mode)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in mode.named_parameters():
        in_encoder = name.startswith(ENCODER)
        if in_encoder and config.freeze_encoder:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((in_encoder, name in decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr,
                "lr_scale": config.encoder_lr_scale if in_encoder else 1.0,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (in_encoder, decays), parameters in sorted(groups.items())
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )


def decayed_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to."""
    owners = ((name, owner) for name, owner in module.named_modules() if isinstance(owner, KERNELS))
    return {f"{name}.weight" if name else "weight" for name, owner in owners}


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """The moments of each parameter by its name; hyperparameters belong to the configuration."""
    return {
        "state": {
            name: dict(optimizer.state[parameter])
            for name, parameter in module.named_parameters()
            if parameter in optimizer.state
        }
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, stored: Mapping[str, Any], frozen_encoder: bool
) -> None:
    """Give the optimizer the moments of a checkpoint; parameters without any in it start afresh.

    Args:
        optimizer: of `build_optimizer`.
        module: the mode whose parameters it trains.
        stored: of `optimizer_state`, or the state dict that checkpoints held before they named parameters.
        frozen_encoder: whether the encoder was frozen in the run that wrote `stored`; needed for the latter only.
    """
    by_name = stored["state"]
    if "param_groups" in stored:
        by_name = {name: by_name[k] for k, name in enumerate(_unnamed_order(module, frozen_encoder)) if k in by_name}
    tree = optimizer.state_dict()
    trained = {id(p): name for name, p in module.named_parameters()}
    order = [trained[id(p)] for group in optimizer.param_groups for p in group["params"]]
    tree["state"] = {k: by_name[name] for k, name in enumerate(order) if name in by_name}
    optimizer.load_state_dict(tree)


def _unnamed_order(module: nn.Module, frozen_encoder: bool) -> list[str]:
    """The order of parameters in optimizer states without names, whose groups went by the names of parameters."""
    exempt = ("embedding", "position", "query", "queries", "balance", "grn", "norm")
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name, p in module.named_parameters():
        in_encoder = name.startswith(ENCODER)
        decays = p.ndim > 1 and p.numel() > max(p.shape) and not any(word in name for word in exempt)
        if not (in_encoder and frozen_encoder) and (p.requires_grad or in_encoder):
            groups.setdefault((in_encoder, decays), []).append(name)
    return [name for _, names in sorted(groups.items()) for name in names]


def learning_rate(
    config: ScheduleConfig,
    peak: float,
    step: int,
    total: int,
    per_epoch: int,
    plateau_scale: float = 1.0,
    warmup_share: float = 1.0,
) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`.

    Args:
        config: the schedule.
        peak: highest learning rate.
        step: optimizer step since the schedule began.
        total: optimizer steps the schedule spans.
        per_epoch: optimizer steps of one epoch.
        plateau_scale: factor accumulated at plateaus (kind `plateau` only).
        warmup_share: largest share of `total` that the warm-up takes.
    """
    low = min(config.lr_min, peak)
    if config.kind == "onecycle":
        rise = max(1, round(config.onecycle_rise * total))
        if step < rise:
            return _half_wave(peak / 25, peak, (step + 1) / rise)
        return _half_wave(peak, low, (step - rise) / max(1, total - 1 - rise))
    warmup = min(round(config.warmup_epochs * per_epoch), max(0, total - 1), int(warmup_share * total))
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
    """Exponential moving average of a module's weights; decay min(decay, (1+n)/(10+n)) at step n.

    From `SPARSE_FROM` on, every `EVERY`-th step stands for those since the last: the average spans the same time, and
    is at most two steps older or younger than one of all steps.
    Source: warm-up of the decay as in `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Account for a step, after which `module` has these weights; buffers are copied."""
        self.updates += 1
        stride = EVERY if self.updates > SPARSE_FROM else 1
        if self.updates % stride:
            return
        steps = range(self.updates - stride, self.updates)
        rate = math.prod(min(self.decay, (1 + n) / (10 + n)) for n in steps)
        averaged, current = self._pairs(module)
        torch._foreach_lerp_(averaged, current, 1 - rate)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)

    def _pairs(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        return [p.data for p in self.module.parameters()], [p.data for p in module.parameters()]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients so that their joint norm is at most `limit` (0: leave them); return the norm before."""
    given = list(parameters)
    total = nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])
    norm = float(total)
    if 0 < limit < norm:  # also a factor of one would read and write all gradients
        nn.utils.clip_grads_with_norm_(given, limit, total)
    return norm

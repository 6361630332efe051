"""Losses of the regression tasks, and the balance between terms.

Everything is a pure function of tensors. A loss gives one value per event; the trainer adds events up over micro-
batches and ranks, and divides once by the global count.

Shape suffixes: B events, K values of a task, R parameters per value, X = R·K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.base import ConfigError, nearest
from xectrain.config.networks import TaskConfig
from xectrain.tasks import Task

if TYPE_CHECKING:
    from xectrain.models.standardization import Standardization

RELATIVE_FLOOR = 1e-6
"""Smallest |truth| that a relative deviation is divided by, in physical units."""


def smooth_l1(error: Tensor, beta: Tensor | float) -> Tensor:
    """½ error²/β below β, |error| − ½β above (torch's `smooth_l1_loss`); β may be a tensor."""
    size = error.abs()
    return torch.where(size < beta, 0.5 * error.square() / beta, size - 0.5 * beta)


def huber(error: Tensor, delta: Tensor | float) -> Tensor:
    """½ error² below δ, δ(|error| − ½δ) above: δ times `smooth_l1`."""
    return delta * smooth_l1(error, delta)


def pinball(error: Tensor, quantile: float) -> Tensor:
    """Quantile loss of error = truth − prediction (Koenker & Bassett, Econometrica 46 (1978) 33)."""
    return torch.maximum(quantile * error, (quantile - 1) * error)


def beta_nll(error: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """stop-gradient(σ²)^β · ½(log σ² + error²/σ²) (Seitzer et al., arXiv:2203.09168)."""
    nll = 0.5 * (log_variance + error.square() * (-log_variance).exp())
    return nll * (beta * log_variance.detach()).exp()


def one_minus_cos(a_B3: Tensor, b_B3: Tensor) -> Tensor:
    """1 − cos of the angle between vectors, as half the squared distance of the unit vectors, which keeps small
    angles."""
    difference_B3 = F.normalize(a_B3, dim=-1) - F.normalize(b_B3, dim=-1)
    return 0.5 * difference_B3.square().sum(dim=-1)


def emission_vector(theta_phi_B2: Tensor) -> Tensor:
    """Unit vectors (B, 3) of emission angles θ = acos z, φ = atan2(y, −x), in degrees."""
    theta, phi = (theta_phi_B2 * (math.pi / 180)).unbind(dim=-1)
    return torch.stack((-theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()), dim=-1)


ELEMENTWISE: dict[str, Callable[[Tensor, Tensor | float], Tensor]] = {
    "smooth_l1": smooth_l1,
    "l1": lambda error, beta: error.abs(),
    "mse": lambda error, beta: error.square(),
    "huber": huber,
}
"""Losses of (error, β) in standardized units; those without a β ignore it."""


def elementwise(name: str) -> Callable[[Tensor, Tensor | float], Tensor]:
    """The elementwise loss of this name.

    Raises:
        ConfigError: there is no such loss.
    """
    if name not in ELEMENTWISE:
        raise ConfigError("is not a loss", item=name, remedy=nearest(name, ELEMENTWISE))
    return ELEMENTWISE[name]


def task_loss(
    task: Task, config: TaskConfig, scale: Standardization, out_BX: Tensor, target_BK: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of one task, event by event.

    Args:
        out_BX: float32, the model's standardized output.
        target_BK: float64, physical targets; NaN rows have no truth, nor do those whose logarithm is wanted and is
            not finite.

    Returns:
        loss (B,), float32, 0 without truth, and whether there is truth, bool (B,).
    """
    good_B = target_BK.isfinite().all(dim=1)
    if task.name in scale.logarithmic:
        good_B = good_B & (target_BK > 0).all(dim=1)
    out_BX = out_BX.float()
    if task.kind == "classes":
        label_B = torch.where(good_B, target_BK[:, 0], torch.zeros_like(target_BK[:, 0])).long()
        loss_B = F.cross_entropy(out_BX, label_B, reduction="none")
    else:
        fallback_BK = torch.ones_like(target_BK)  # positive, so that a logarithm of it exists
        loss_B = _value_loss(task, config, scale, out_BX, torch.where(good_B[:, None], target_BK, fallback_BK))
    return torch.where(good_B, loss_B, torch.zeros_like(loss_B)), good_B


def _value_loss(task: Task, config: TaskConfig, scale: Standardization, out_BX: Tensor, target_BK: Tensor) -> Tensor:
    out_BRK = out_BX.unflatten(1, (-1, task.size))
    true_BK = scale.standardized(task.name, target_BK)
    if config.loss == "gaussian_nll":
        return beta_nll(true_BK - out_BRK[:, 0], out_BRK[:, 1], config.nll_beta).mean(dim=1)
    if config.loss == "quantile":
        parts = [pinball(true_BK - out_BRK[:, i], q).mean(dim=1) for i, q in enumerate(config.quantiles)]
        return torch.stack(parts).mean(dim=0)
    if config.loss == "angular" or config.loss.startswith("relative_"):
        return _physical_loss(config, scale.physical(task.name, out_BRK[:, 0]), target_BK.float())
    beta_K = _standardized_beta(task, config, scale)
    return elementwise(config.loss)(out_BRK[:, 0] - true_BK, beta_K).mean(dim=1)


def _standardized_beta(task: Task, config: TaskConfig, scale: Standardization) -> Tensor | float:
    """β in standardized units; with `log_transform` a physical β is a relative deviation already."""
    if config.loss_beta_unit == "standardized":
        return config.loss_beta
    return config.loss_beta / scale.spread(task.name).float()


def _physical_loss(config: TaskConfig, value_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Losses that have a meaning in physical units only."""
    if config.loss == "angular":
        if value_BK.shape[1] == 2:
            value_BK, target_BK = emission_vector(value_BK), emission_vector(target_BK)
        return one_minus_cos(value_BK, target_BK)
    relative_BK = (value_BK - target_BK) / target_BK.abs().clamp(min=RELATIVE_FLOOR)
    name = config.loss.removeprefix("relative_")
    return elementwise(name)(relative_BK, config.loss_beta).mean(dim=1)


class Balance(nn.Module):
    """How terms add up: fixed weights, or learned ones, ½e^{−s}·L + ½s (Kendall et al., arXiv:1705.07115).

    Args:
        weights: fixed weight by term, which also multiplies learned ones.
        learned: whether s is learned; it is a parameter, so it is saved and optimized with the model.
    """

    def __init__(self, weights: Mapping[str, float], learned: bool = False) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.learned = learned
        self.log_variance = nn.Parameter(torch.zeros(len(weights)), requires_grad=learned)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The total loss: of each event, or of whatever mean over events the terms are."""
        total = sum((w * losses[name] for name, w in self.factors().items()), start=torch.zeros(()))
        assert isinstance(total, Tensor)
        return total + 0.5 * self.log_variance.sum() if self.learned else total

    def factors(self) -> dict[str, Tensor | float]:
        """What each term is multiplied by; carries the gradient to s."""
        if not self.learned:
            return dict(self.weights)
        factors = 0.5 * (-self.log_variance).exp()
        return {name: w * factors[i] for i, (name, w) in enumerate(self.weights.items())}

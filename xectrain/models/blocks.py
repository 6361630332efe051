"""What rectangular and hexagonal blocks share: the pointwise half of a ConvNeXt V2 block, stochastic depth, precision.

Shape suffixes of this package: B batch, N the 4760 sensors, H W rows and columns of a face grid, P positions (H·W or
the 73 nodes of a hexagonal face), C channels, F the 4× wide hidden channels, I input channels of a sensor, O the 234
outer sensors, T tokens, D token width, Q queries, K neighbours, M masked sensors.

`keep` is float, 1 where a position is visible and 0 where it is masked, and has the shape of the features with one
channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xectrain.models.fused import EPSILON as EPSILON
from xectrain.models.fused import Weights, event_weights, pointwise_branch, response


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which nothing is rounded to bfloat16: values of sensors, physical units, the last layer of a
    head."""
    return torch.autocast(device_type=x.device.type, enabled=False)


_initializing = ContextVar("initializing", default=True)


@contextmanager
def without_initial_weights() -> Iterator[None]:
    """Networks made in this block are not given initial weights: those of a checkpoint follow. Drawing them takes
    longer than reading a checkpoint."""
    token = _initializing.set(False)
    try:
        yield
    finally:
        _initializing.reset(token)


def spread_init(weight: Tensor, fan_in: int) -> None:
    """Truncated normal of variance 1/fan_in, so that a thin network starts with branches as strong as a wide one."""
    if not _initializing.get():
        return
    std = 1 / math.sqrt(fan_in)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_linear(module: nn.Module) -> None:
    """Initialize every linear and convolutional layer of `module` by its fan-in, biases to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spread_init(layer.weight, layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class PointwiseBranch(nn.Module):
    """LayerNorm → Linear 4× → GELU → global response normalization → Linear → stochastic depth.

    Global response normalization (ConvNeXt V2, Woo et al., arXiv:2301.00808, eq. 1–3) scales each hidden channel of an
    event by its norm over the visible positions relative to the mean norm of the channels. The scale is one number per
    event and channel, so it is folded into the second linear layer's weights instead of being applied to the 4× wide
    tensor, which would cost another pass over the largest tensor of the network.
    """

    def __init__(self, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = 4 * channels
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.expand = nn.Linear(channels, hidden)
        self.gamma = nn.Parameter(torch.zeros(hidden))
        self.beta = nn.Parameter(torch.zeros(hidden))
        self.contract = nn.Linear(hidden, channels)
        self.drop_path = drop_path
        init_linear(self)

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """The branch to be added to the residual; exactly 0 at masked positions.

        Args:
            x_BPC: features after spatial mixing. Their values at masked positions do not matter.
            keep_BP1: float, 1 at visible positions.
        """
        survival_BP1 = self._survival(keep_BP1)
        path = self.chunked if self.prefers_chunks(x_BPC) else self.plain
        return path(x_BPC, keep_BP1, survival_BP1)

    def chunked(self, x_BPC: Tensor, keep_BP1: Tensor, survival_BP1: Tensor) -> Tensor:
        """The branch a few events at a time, which stay in the cache (`fused`); arguments as of `plain`."""
        return pointwise_branch(x_BPC.contiguous(), keep_BP1.contiguous(), survival_BP1.contiguous(), self._weights())

    def plain(self, x_BPC: Tensor, keep_BP1: Tensor, survival_BP1: Tensor) -> Tensor:
        """The branch, all events at once.

        Args:
            survival_BP1: float, factor on the result: `keep`, 0 for events that stochastic depth drops.
        """
        h_BPF = F.gelu(self.expand(self.norm(x_BPC)))
        energy_BF = (keep_BP1.to(h_BPF.dtype).transpose(1, 2) @ h_BPF.square()).squeeze(1)
        weight_BFC, bias_C = event_weights(response(energy_BF)[1], self._weights())
        branch_BPC = h_BPF @ weight_BFC.to(h_BPF.dtype) + bias_C.to(h_BPF.dtype)
        return branch_BPC * survival_BP1.to(branch_BPC.dtype)

    def prefers_chunks(self, x_BPC: Tensor) -> bool:
        """Eager on a CPU, in float32 or without gradients: elsewhere the compiler, or the GPU's bandwidth, does better
        than our own chunks."""
        busy = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
        backward = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        return x_BPC.device.type == "cpu" and not busy and not backward

    def _weights(self) -> Weights:
        return Weights(
            self.norm.weight,
            self.norm.bias,
            self.expand.weight,
            self.expand.bias,
            self.gamma,
            self.beta,
            self.contract.weight,
            self.contract.bias,
        )

    def _survival(self, keep_BP1: Tensor) -> Tensor:
        """`keep`, in training with whole events dropped and the others scaled up (stochastic depth)."""
        if not self.training or self.drop_path == 0:
            return keep_BP1
        survives_B11 = torch.rand(keep_BP1.shape[0], 1, 1, device=keep_BP1.device) >= self.drop_path
        return keep_BP1 * survives_B11 / (1 - self.drop_path)


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """Stochastic depth rising linearly from 0 at the first block to `rate` at the last (at `rate`, if there is one)."""
    return [rate * (i / (blocks - 1) if blocks > 1 else 1.0) for i in range(blocks)]

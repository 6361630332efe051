"""The ConvNeXt V2 backbone that all rectangular faces share, fully convolutional under masks.

Activations are channels-last, (B, H, W, C): linear layers and norms act on the last axis as it lies in memory, and the
convolutions see the same memory as a channels-last image. Shape suffixes: see `xectrain.models.blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from xectrain.config.networks import EncoderConfig
from xectrain.models.blocks import EPSILON, PointwiseBranch, drop_path_rates, full_precision, init_linear


def conv_channels_last(conv: nn.Conv2d, x_BHWC: Tensor) -> Tensor:
    """A convolution of a (B, H, W, C) tensor without copying it into another layout."""
    y_BCHW: Tensor = conv(x_BHWC.permute(0, 3, 1, 2))
    return y_BCHW.permute(0, 2, 3, 1)


class ConvNeXtBlock(nn.Module):
    """x + branch(depthwise 7×7 of x), with masked positions exactly 0 going in and coming out.

    The positions that the depthwise convolution fills in at masked places never reach anything: what follows is
    pointwise, the response norm leaves them out, and the branch is zeroed there. So they are as good as zeroed after
    the mixing.
    """

    def __init__(self, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        init_linear(self)
        self.branch = PointwiseBranch(channels, drop_path)

    def forward(self, x_BHWC: Tensor, keep_BHW1: Tensor) -> Tensor:
        """(B, H, W, C) → the same shape; `keep_BHW1` is 1 where a position is visible, else 0."""
        mixed_BHWC = conv_channels_last(self.depthwise, x_BHWC)
        branch_BPC: Tensor = self.branch(mixed_BHWC.flatten(1, 2), keep_BHW1.flatten(1, 2))
        return x_BHWC + branch_BPC.view(x_BHWC.shape)


@dataclass(frozen=True)
class Stages:
    """What the backbone makes of a face."""

    first_BHWC: Tensor
    """(B, H−1, W−1, C), 0 at masked positions."""
    first_keep_BHW1: Tensor
    second_BHWC: Tensor
    """(B, (H−1)//2, (W−1)//2, 2C), 0 at masked positions."""
    second_keep_BHW1: Tensor


class FaceBackbone(nn.Module):
    """Conv 4×4 → blocks at C → Conv 2×2 stride 2 → blocks at 2C."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels = config.base_channels
        first, second = config.stage_blocks
        rates = drop_path_rates(config.drop_path, first + second)
        self.stem = nn.Conv2d(2 + config.validity_channel, channels, 4, padding=1)
        self.stem_norm = nn.LayerNorm(channels, eps=EPSILON)
        self.down_norm = nn.LayerNorm(channels, eps=EPSILON)
        self.down = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        init_linear(self)
        self.first = nn.ModuleList(ConvNeXtBlock(channels, rate) for rate in rates[:first])
        self.second = nn.ModuleList(ConvNeXtBlock(2 * channels, rate) for rate in rates[first:])

    def forward(self, x_BHWI: Tensor, keep_BHW1: Tensor) -> Stages:
        """Args:
        x_BHWI: float32 sensors of a face, 0 where masked.
        keep_BHW1: float32, 1 where visible. Position (i, j) after the stem takes the mask of sensor (i, j); a
            downsampled one is masked where its four are.
        """
        with full_precision(x_BHWI):
            x_BHWC = conv_channels_last(self.stem, x_BHWI)
        first_keep = keep_BHW1[:, :-1, :-1]
        x_BHWC = self.stem_norm(x_BHWC).mul_(first_keep)
        for block in self.first:
            x_BHWC = block(x_BHWC, first_keep)
        second_keep = F.max_pool2d(first_keep.squeeze(-1), 2).unsqueeze(-1)
        y_BHWC = conv_channels_last(self.down, self.down_norm(x_BHWC).mul_(first_keep)) * second_keep
        for block in self.second:
            y_BHWC = block(y_BHWC, second_keep)
        return Stages(x_BHWC, first_keep, y_BHWC, second_keep)

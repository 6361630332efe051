"""Position codes of the tokens and the Transformer that lets the faces see each other.

Shape suffixes: see `xectrain.models.blocks`; here A attention heads and E = D/A.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xectrain.config.networks import EncoderConfig
from xectrain.models.blocks import EPSILON

LENGTH_SCALE_CM = 50.0
"""Brings r and z to order one in the geometric position code."""


class PositionCode(nn.Module):
    """What is added to the tokens: learned, sinusoidal in the token's number, or a function of where the token sits."""

    def __init__(self, config: EncoderConfig, centre_TX: np.ndarray, feature_TX: np.ndarray) -> None:
        """Args:
        centre_TX: float64 (T, 3), mean position of each token's sensors, cm.
        feature_TX: float64 (T, any), what else tells tokens apart: sensor type, backbone stage.
        """
        super().__init__()
        tokens, width = len(centre_TX), config.width
        self.kind = config.position
        if self.kind == "learned":
            self.code_TD = nn.Parameter(torch.empty(tokens, width))
            nn.init.trunc_normal_(self.code_TD, std=0.02)
        elif self.kind == "sinusoidal":
            self.register_buffer("code_TD", sinusoidal(tokens, width), persistent=False)
        else:
            x, y, z = centre_TX.T
            phi = np.arctan2(y, -x)
            place = [np.hypot(x, y) / LENGTH_SCALE_CM, np.sin(phi), np.cos(phi), z / LENGTH_SCALE_CM]
            described = torch.from_numpy(np.concatenate([np.stack(place, axis=1), feature_TX], axis=1)).float()
            self.register_buffer("place_TX", described)
            self.network = nn.Sequential(nn.Linear(described.shape[1], 128), nn.GELU(), nn.Linear(128, width))

    def forward(self) -> Tensor:
        """The code, (T, D)."""
        if self.kind == "geometric":
            code_TD: Tensor = self.network(self.place_TX)
            return code_TD
        assert isinstance(self.code_TD, Tensor)
        return self.code_TD


def sinusoidal(count: int, width: int) -> Tensor:
    """Sines and cosines of the index (Vaswani et al., arXiv:1706.03762, section 3.5): float32 (count, width)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(count)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class FusionLayer(nn.Module):
    """One Transformer encoder layer: self-attention and a feed-forward network of width 4D, post- or pre-norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.fusion_heads
        self.pre = config.fusion_norm == "pre"
        self.dropout = config.fusion_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.attention_norm = nn.LayerNorm(width, eps=EPSILON)
        self.feed_norm = nn.LayerNorm(width, eps=EPSILON)
        for layer in (self.qkv, self.out, self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → the same shape."""
        if self.pre:
            x_BTD = x_BTD + self._drop(self._attend(self.attention_norm(x_BTD)))
            return x_BTD + self._drop(self._feed(self.feed_norm(x_BTD)))
        x_BTD = self.attention_norm(x_BTD + self._drop(self._attend(x_BTD)))
        y_BTD: Tensor = self.feed_norm(x_BTD + self._drop(self._feed(x_BTD)))
        return y_BTD

    def attention(self, x_BTD: Tensor) -> Tensor:
        """Attention weights of this layer for its input: (B, A, T, T), rows (queries) sum to 1."""
        query, key, _ = self._split(self.attention_norm(x_BTD) if self.pre else x_BTD)
        score_BATT: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return score_BATT.softmax(dim=-1)

    def _split(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def _attend(self, x_BTD: Tensor) -> Tensor:
        query, key, value = self._split(x_BTD)
        if x_BTD.device.type == "cpu":  # a few tokens: there bf16 takes three times as long as float32
            query, key, value = query.float(), key.float(), value.float()
        dropout = self.dropout if self.training else 0.0
        mixed_BATE = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        y_BTD: Tensor = self.out(mixed_BATE.transpose(1, 2).flatten(2))
        return y_BTD

    def _feed(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.contract(self._drop(F.gelu(self.expand(x_BTD))))
        return y_BTD

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Fusion(nn.Module):
    """The stack of layers; no final norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.fusion_layers))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → the same shape; as it came where there are no layers."""
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return x_BTD

    def attention(self, x_BTD: Tensor) -> Tensor:
        """Attention weights of every layer: (B, layers, A, T, T)."""
        maps = []
        for layer in self.layers:
            assert isinstance(layer, FusionLayer)
            maps.append(layer.attention(x_BTD))
            x_BTD = layer(x_BTD)
        return torch.stack(maps, dim=1) if maps else x_BTD.new_zeros(len(x_BTD), 0, 1, *2 * x_BTD.shape[1:2])

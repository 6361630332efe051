"""From a feature map of any size to a fixed grid of cells, under a mask.

Shape suffixes: see `xectrain.models.blocks`; here P = H·W positions are pooled to Q cells, G faces share a batch (G·B).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xectrain.models.blocks import full_precision, init_linear


def area_weights(size: int, cells: int) -> np.ndarray:
    """Adaptive averaging along one axis: float64 (cells, size), rows sum to 1 and every position is in some cell."""
    weights = np.zeros((cells, size))
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


def bilinear_weights(size: int, cells: int) -> np.ndarray:
    """Linear resampling along one axis, half-pixel centres, no antialiasing: float64 (cells, size), rows sum to 1."""
    weights = np.zeros((cells, size))
    place = np.clip((np.arange(cells) + 0.5) * size / cells - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    np.add.at(weights, (np.arange(cells), low), 1 - (place - low))
    np.add.at(weights, (np.arange(cells), high), place - low)
    return weights


class LinearPool(nn.Module):
    """Weighted means over the visible positions, with fixed weights; 0 where a cell has none."""

    weight_QP: Tensor

    def __init__(self, kind: str, shape: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        along = area_weights if kind == "area" else bilinear_weights
        weight = np.kron(along(shape[0], grid[0]), along(shape[1], grid[1]))
        self.register_buffer("weight_QP", torch.from_numpy(weight).float(), persistent=False)

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """Args:
        x_BPC: features, 0 at masked positions.
        keep_BP1: float, 1 where visible.

        Returns:
            (B, Q, C).
        """
        with full_precision(keep_BP1):
            covered_BQ1 = self.weight_QP @ keep_BP1.float()
        sum_BQC = self.weight_QP.to(x_BPC.dtype) @ x_BPC
        return sum_BQC / covered_BQ1.clamp(min=1e-6).to(sum_BQC.dtype)


class AttentionPool(nn.Module):
    """Learned queries per face attend to the visible positions; their place preference starts as a soft area window."""

    def __init__(self, channels: int, faces: int, shape: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        self.faces = faces
        self.query_GQC = nn.Parameter(torch.randn(faces, grid[0] * grid[1], channels) * channels**-0.5)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        init_linear(self)
        place = _log_window(shape[0], grid[0])[:, None, :, None] + _log_window(shape[1], grid[1])[None, :, None, :]
        bias = torch.from_numpy(place.reshape(grid[0] * grid[1], shape[0] * shape[1])).float()
        self.position_GQP = nn.Parameter(bias.repeat(faces, 1, 1))

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """As `LinearPool`; the batch holds `faces` equal blocks, one per face."""
        x_GBPC = x_BPC.unflatten(0, (self.faces, -1))
        scale = x_BPC.shape[-1] ** -0.5
        query_GQC = self.query_GQC * scale
        score_GBQP = (query_GQC[:, None] @ self.key(x_GBPC).transpose(-1, -2)).float() + self.position_GQP[:, None]
        visible_GB1P = keep_BP1.float().unflatten(0, (self.faces, -1)).transpose(-1, -2)
        score_GBQP = score_GBQP.masked_fill(visible_GB1P == 0, -1e4)
        attention_GBQP = (score_GBQP.softmax(dim=-1) * visible_GB1P).to(x_BPC.dtype)
        pooled_GBQC: Tensor = attention_GBQP @ self.value(x_GBPC)
        return pooled_GBQC.flatten(0, 1)


def _log_window(size: int, cells: int) -> np.ndarray:
    """Log of a Gaussian window around each cell's centre, of the cell's half width: float64 (cells, size)."""
    centre = (np.arange(cells) + 0.5) * size / cells - 0.5
    sigma = max(size / cells / 2, 0.5)
    return -0.5 * ((np.arange(size) - centre[:, None]) / sigma) ** 2

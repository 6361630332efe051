"""From per-face maps to one value per sensor, and the other way round: what decoders and inpainting heads share.

Shape suffixes: see `xectrain.models.blocks`; X channels or features per position or sensor.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization, mark_dead, valid
from xectrain.config.networks import EncoderConfig
from xectrain.models.faces import TokenInfo


class SensorOrder(nn.Module):
    """Puts values of several parts, each with its own channels, into sensor order; of several for a sensor the last
    counts.

    Args:
        channels: channels of each part, in the order in which the parts will be given.
    """

    source_N: Tensor

    def __init__(self, channels: list[np.ndarray]) -> None:
        super().__init__()
        source = np.full(geo.N_SENSORS, -1, dtype=np.int64)
        listed = np.concatenate(channels)
        source[listed] = np.arange(len(listed))
        if (source < 0).any():
            raise AssertionError("the parts leave out sensors")
        self.register_buffer("source_N", torch.from_numpy(source), persistent=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """(B, 4760, X) of parts (B, sensors of the part, X)."""
        return torch.cat(parts, dim=1)[:, self.source_N]


class OwnedCells(nn.Module):
    """The cells of the outer fine grid that each of the 234 outer sensors owns, padded to equal number."""

    cell_OK: Tensor
    owned_OK: Tensor

    def __init__(self) -> None:
        super().__init__()
        grid = geo.outer_fine_grid().ravel()
        cells = [np.flatnonzero(grid == channel) for channel in geo.face_channels("outer")]
        most = max(len(c) for c in cells)
        padded = np.stack([np.pad(c, (0, most - len(c)), mode="edge") for c in cells])
        owned = np.stack([np.arange(most) < len(c) for c in cells])
        self.register_buffer("cell_OK", torch.from_numpy(padded.astype(np.int64)), persistent=False)
        self.register_buffer("owned_OK", torch.from_numpy(owned), persistent=False)

    def mean(self, cells_BPX: Tensor) -> Tensor:
        """Mean over each sensor's cells: (B, 234, X) of (B, 3240, X)."""
        weight_OK1 = (self.owned_OK / self.owned_OK.sum(dim=1, keepdim=True)).to(cells_BPX.dtype).unsqueeze(-1)
        return (cells_BPX[:, self.cell_OK] * weight_OK1).sum(dim=2)

    def attend(self, cells_BPX: Tensor, score_BP: Tensor) -> Tensor:
        """Weighted mean with the softmax of `score_BP` over each sensor's cells."""
        score_BOK = score_BP[:, self.cell_OK].float().masked_fill(~self.owned_OK, -1e4)
        weight_BOK1 = score_BOK.softmax(dim=-1).to(cells_BPX.dtype).unsqueeze(-1)
        return (cells_BPX[:, self.cell_OK] * weight_BOK1).sum(dim=2)


class FaceTokens(nn.Module):
    """The mean of the tokens that belong to a part: (B, D) of (B, T, D)."""

    def __init__(self, tokens: list[TokenInfo]) -> None:
        super().__init__()
        self.names = [token.name.removesuffix("/fine").partition(".")[0] for token in tokens]

    def forward(self, tokens_BTD: Tensor, part: str) -> Tensor:
        """(B, D) of the tokens (B, T, D) of one part, out of `part_names`."""
        mine = [i for i, name in enumerate(self.names) if name == part]
        return tokens_BTD[:, mine].mean(dim=1) if len(mine) > 1 else tokens_BTD[:, mine[0]]


def part_names(config: EncoderConfig) -> list[str]:
    """The parts that decode a face each: five faces and the outer one, which `split` makes two (coarse first)."""
    outer = ["outer"] if config.outer == "finegrid" else ["outer_coarse", "outer_centre"]
    return ["inner", *outer, "upstream", "downstream", "top", "bottom"]


def part_channels(part: str) -> np.ndarray:
    """Channels of a part, in the order in which it gives values."""
    if part == "outer":
        return geo.face_channels("outer")
    if part in ("top", "bottom"):
        return geo.hexagon(part).nodes
    return geo.face_grid(part).ravel()


def hide(x_BN2: Tensor, hidden_BN: Tensor, normalization: Normalization) -> tuple[Tensor, Tensor]:
    """What a model may see when sensors are hidden.

    Args:
        x_BN2: float32, normalized, sentinel-marked.
        hidden_BN: bool, sensors to hide.

    Returns:
        x_BN2 with both values of hidden sensors set to the sentinels, and mask_BN: hidden or without valid npho.
    """
    npho_valid_BN, _ = valid(x_BN2, normalization)
    return mark_dead(x_BN2, normalization, hidden_BN), hidden_BN | ~npho_valid_BN


def fill(x_BNX: Tensor, prediction_BNX: Tensor, where_BN: Tensor) -> Tensor:
    """`x` with predictions at `where_BN` and every other sensor's bits as they came."""
    return torch.where(where_BN[..., None], prediction_BNX.to(x_BNX.dtype), x_BNX)

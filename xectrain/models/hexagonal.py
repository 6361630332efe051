"""The encoder of the hexagonal faces (top and bottom): seven-tap mixing between a sensor and its six neighbours.

Shape suffixes: see `xectrain.models.blocks`; here P = 73 nodes (Q: those that are read) and K = 7 taps, the node itself
first.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from xectrain.config.networks import EncoderConfig
from xectrain.models.blocks import EPSILON, PointwiseBranch, drop_path_rates, full_precision, init_linear, spread_init


def hexagon_taps() -> Tensor:
    """Which node each tap reads: int64 (73, 7), the node itself, then its neighbours in the six directions; 73 for
    none.

    Top and bottom are the same lattice, which is what lets one encoder take both as one batch.
    """
    graphs = [geo.hexagon(face) for face in ("top", "bottom")]
    if not np.array_equal(graphs[0].neighbours, graphs[1].neighbours):
        raise AssertionError("top and bottom lattices differ")
    neighbours = graphs[0].neighbours.astype(np.int64)
    nodes = len(neighbours)
    taps = np.concatenate([np.arange(nodes)[:, None], np.where(neighbours < 0, nodes, neighbours)], axis=1)
    return torch.from_numpy(taps)


class HexMixer(nn.Module):
    """Seven learned taps per channel: self and six directions. Nodes beyond the rim read as 0.

    The lattice is small enough to write a channel's taps as one dense matrix, nodes × nodes; multiplying by it is
    several times as fast as gathering neighbours, above all backward.
    """

    reads_KQP: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(7, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        spread_init(self.weight, 7)
        taps_PK = hexagon_taps()
        reads_PKQ = F.one_hot(taps_PK, len(taps_PK) + 1)[..., :-1].float()
        self.register_buffer("reads_KQP", reads_PKQ.permute(1, 2, 0).contiguous(), persistent=False)

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """Args:
        x_BPC: node features, 0 at masked nodes.
        keep_BP1: float, 1 at visible nodes.
        """
        matrix_CQP = (self.weight.t() @ self.reads_KQP.flatten(1)).unflatten(1, self.reads_KQP.shape[1:])
        mixed_BPC: Tensor = (x_BPC.permute(2, 0, 1) @ matrix_CQP).permute(1, 2, 0)
        return mixed_BPC + self.bias.to(mixed_BPC.dtype)


class AttentionHexMixer(HexMixer):
    """The same taps, modulated by attention between a node and its neighbours, with a bias per direction.

    With equal attention it is the plain mixer: the weights of the visible taps add up to 7.
    """

    taps_PK: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("taps_PK", hexagon_taps(), persistent=False)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.direction = nn.Parameter(torch.zeros(7))
        init_linear(self)

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """(B, P, C) → the same shape; nodes whose `keep_BP1` is 0 are not attended to."""
        key_BPKC = self.gather(self.key(x_BPC))
        visible_BPK = self.gather(keep_BP1).squeeze(-1)
        scale = x_BPC.shape[-1] ** -0.5
        query_BPC: Tensor = self.query(x_BPC)
        score_BPK = (key_BPKC * query_BPC[:, :, None]).sum(dim=-1).float() * scale + self.direction
        score_BPK = score_BPK.masked_fill(visible_BPK == 0, -1e4)
        attention_BPK1 = (7 * score_BPK.softmax(dim=-1) * visible_BPK).unsqueeze(-1)
        mixed_BPC: Tensor = (self.gather(x_BPC) * (attention_BPK1 * self.weight).to(x_BPC.dtype)).sum(dim=2)
        return mixed_BPC + self.bias.to(x_BPC.dtype)

    def gather(self, x_BPC: Tensor) -> Tensor:
        """The seven values each node reads: (B, P, 7, C)."""
        padded = F.pad(x_BPC, (0, 0, 0, 1))
        return padded[:, self.taps_PK]


class HexNeXtBlock(nn.Module):
    """x + branch(mixed x), with masked nodes exactly 0 going in and coming out (as in `ConvNeXtBlock`)."""

    def __init__(self, channels: int, mixer: str = "depthwise", drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = HexMixer(channels) if mixer == "depthwise" else AttentionHexMixer(channels)
        self.branch = PointwiseBranch(channels, drop_path)

    def forward(self, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        """(B, P, C) → the same shape; `keep_BP1` is 1 where a node is visible, else 0."""
        branch_BPC: Tensor = self.branch(self.mixer(x_BPC, keep_BP1), keep_BP1)
        return x_BPC + branch_BPC


class HexEncoder(nn.Module):
    """Linear → HexNeXt blocks → mean over the visible nodes → one token per face."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels = config.hex_channels
        self.stem = nn.Linear(2 + config.validity_channel, channels)
        self.stem_norm = nn.LayerNorm(channels, eps=EPSILON)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.project = nn.Linear(channels, config.width)
        init_linear(self)
        rates = drop_path_rates(config.drop_path, config.hex_blocks)
        self.blocks = nn.ModuleList(HexNeXtBlock(channels, config.mixer, rate) for rate in rates)

    def forward(self, x_BPI: Tensor, keep_BP1: Tensor) -> Tensor:
        """Args:
        x_BPI: float32 sensors of top or bottom faces, 0 where masked.
        keep_BP1: float32, 1 where visible.

        Returns:
            tokens (B, D).
        """
        with full_precision(x_BPI):
            x_BPC = self.stem(x_BPI)
        x_BPC = F.gelu(self.stem_norm(x_BPC)) * keep_BP1
        for block in self.blocks:
            x_BPC = block(x_BPC, keep_BP1)
        mean_BC = x_BPC.sum(dim=1) / keep_BP1.sum(dim=1).clamp(min=1)
        token_BD: Tensor = self.project(self.norm(mean_BC))
        return token_BD

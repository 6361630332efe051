"""The two heads of the inpainter: convolutional per face, or attention of each masked sensor to its surroundings.

Both read `visible_BN4` (npho, time, whether visible, whether timed; 0 where masked) and the encoder's tokens.
Shape suffixes: see `xectrain.models.blocks`; here X channels to predict, M masked sensors of a whole batch, K nearest
sensors, L width of a query, A attention heads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization
from xectrain.config.networks import InpainterConfig, ModelConfig
from xectrain.models.backbone import ConvNeXtBlock, conv_channels_last
from xectrain.models.blocks import full_precision, init_linear
from xectrain.models.faces import TokenInfo
from xectrain.models.hexagonal import HexNeXtBlock
from xectrain.models.outer import OuterGrid
from xectrain.models.sensors import FaceTokens, OwnedCells, SensorOrder, part_channels, part_names

LENGTH_SCALE_CM = 100.0
POSITION_OCTAVES = 6


class ValueNetwork(nn.Module):
    """Local features joined with a latent vector → value: Linear of both, summed → GELU → Linear in float32."""

    def __init__(self, local: int, latent: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.local = nn.Linear(local, hidden)
        self.latent = nn.Linear(latent, hidden, bias=False)
        self.last = nn.Linear(hidden, channels)
        init_linear(self)

    def forward(self, local_BPC: Tensor, latent_BD: Tensor) -> Tensor:
        """Values (B, P, channels), float32, of P places in each event."""
        h: Tensor = F.gelu(self.local(local_BPC) + self.latent(latent_BD)[:, None])
        with full_precision(h):
            out: Tensor = self.last(h.float())
        return out


class RectangularFeatures(nn.Module):
    """Local features of a rectangular face. Masked sensors read as 0 and features flow into their places."""

    def __init__(self, config: InpainterConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, config.local_channels, 3, padding=1)
        init_linear(self)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config.local_channels) for _ in range(config.local_blocks))

    def forward(self, visible_BHW4: Tensor) -> Tensor:
        """(B, H·W, C)."""
        with full_precision(visible_BHW4):
            x_BHWC = conv_channels_last(self.stem, visible_BHW4)
        everywhere = torch.ones_like(visible_BHW4[..., :1])
        for block in self.blocks:
            x_BHWC = block(x_BHWC, everywhere)
        features_BPC: Tensor = x_BHWC.flatten(1, 2)
        return features_BPC


class HexagonalFeatures(nn.Module):
    """Local features of a hexagonal face."""

    def __init__(self, config: InpainterConfig) -> None:
        super().__init__()
        self.stem = nn.Linear(4, config.hex_local_channels)
        init_linear(self)
        self.blocks = nn.ModuleList(HexNeXtBlock(config.hex_local_channels) for _ in range(config.hex_local_blocks))

    def forward(self, visible_BP4: Tensor) -> Tensor:
        """(B, 73, C)."""
        with full_precision(visible_BP4):
            x_BPC: Tensor = self.stem(visible_BP4)
        everywhere = torch.ones_like(visible_BP4[..., :1])
        for block in self.blocks:
            x_BPC = block(x_BPC, everywhere)
        return x_BPC


class PerFaceHead(nn.Module):
    """Local features of each face joined with the face's token. The faces of a kind share their weights, as in the
    encoder; a network per part turns them into values."""

    def __init__(
        self, config: ModelConfig, channels: int, normalization: Normalization, tokens: list[TokenInfo]
    ) -> None:
        super().__init__()
        inpainter = config.inpainter
        self.parts = part_names(config.encoder)
        self.face_tokens = FaceTokens(tokens)
        self.rectangular = RectangularFeatures(inpainter)
        self.hexagonal = HexagonalFeatures(inpainter)
        self.values = nn.ModuleDict()
        for part in self.parts:
            local = inpainter.hex_local_channels if part in ("top", "bottom") else inpainter.local_channels
            self.values[part] = ValueNetwork(local, config.encoder.width, inpainter.hidden, channels)
        if "outer" in self.parts:
            self.outer_grid = OuterGrid((1, 1), normalization)
            self.owned = OwnedCells()
            self.cell_score = nn.Linear(inpainter.local_channels, 1)
            init_linear(self.cell_score)
        self.order = SensorOrder([part_channels(part) for part in self.parts])
        rectangular = [part for part in self.parts if part not in ("top", "bottom", "outer")]
        self.grid_shapes = {part: geo.face_grid(part).shape for part in rectangular}
        for part in self.parts:
            channels_of = torch.from_numpy(part_channels(part).astype(np.int64))
            self.register_buffer(f"channels_{part}", channels_of, persistent=False)

    def forward(self, visible_BN4: Tensor, mask_BN: Tensor, tokens_BTD: Tensor) -> Tensor:
        """(B, N, X), float32, for every sensor."""
        parts = [
            self.values[part](self._features(part, visible_BN4), self.face_tokens(tokens_BTD, part))
            for part in self.parts
        ]
        ordered: Tensor = self.order(parts)
        return ordered

    def last_layers(self) -> list[nn.Linear]:
        """The layers that give values."""
        return [network.last for network in self.values.values() if isinstance(network, ValueNetwork)]

    def _features(self, part: str, visible_BN4: Tensor) -> Tensor:
        """Local features of a part's sensors: (B, sensors, C)."""
        visible_BS4 = visible_BN4[:, self.get_buffer(f"channels_{part}")]
        features: Tensor
        if part in ("top", "bottom"):
            features = self.hexagonal(visible_BS4)
        elif part == "outer":
            cells_BPC = self.rectangular(self._outer_cells(visible_BS4))
            features = self.owned.attend(cells_BPC, self.cell_score(cells_BPC).squeeze(-1))
        else:
            features = self.rectangular(visible_BS4.unflatten(1, self.grid_shapes[part]))
        return features

    def _outer_cells(self, visible_BO4: Tensor) -> Tensor:
        """The outer face on its fine grid, photons shared out over a sensor's cells: (B, 72, 45, 4)."""
        npho, time, keep, timed = visible_BO4.unbind(dim=-1)
        npho_BP, time_BP, keep_BP = self.outer_grid(npho, time, timed > 0, keep > 0, 0.0)
        timed_BP = timed[:, self.outer_grid.sensor_PS[:, 0]]
        cells_BP4 = torch.stack((npho_BP, time_BP, keep_BP.float(), timed_BP), dim=-1)
        return cells_BP4.view(-1, *self.outer_grid.shape, 4)


class CrossAttentionHead(nn.Module):
    """Each masked sensor asks its nearest sensors on any face, and the tokens. Cost grows with masked sensors only."""

    nearest_NK: Tensor
    position_NX: Tensor
    face_N: Tensor

    def __init__(self, config: ModelConfig, channels: int, positions: np.ndarray) -> None:
        super().__init__()
        inpainter = config.inpainter
        width = inpainter.query_width
        self.heads, self.channels = inpainter.query_heads, channels
        codes = position_code(positions)
        self.face_embedding = nn.Parameter(torch.randn(len(geo.FACE_NAMES), width) * 0.02)
        self.query_position = nn.Linear(codes.shape[1], width)
        self.sensor = nn.Linear(4 + codes.shape[1], width)
        self.offset = nn.Linear(3, width)
        self.token = nn.Linear(config.encoder.width, width)
        self.query_norm, self.key_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query, self.to_key = nn.Linear(width, width), nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.hidden = nn.Linear(2 * width, inpainter.hidden)
        self.last = nn.Linear(inpainter.hidden, channels)
        init_linear(self)
        nearest = geo.nearest(inpainter.neighbours, across_faces=True).astype(np.int64)
        self.register_buffer("nearest_NK", torch.from_numpy(nearest), persistent=False)
        self.register_buffer("position_NX", codes)
        self.register_buffer("xyz_N3", torch.from_numpy(positions / LENGTH_SCALE_CM).float())
        self.register_buffer("face_N", torch.from_numpy(geo.nominal_faces().astype(np.int64)), persistent=False)

    def forward(self, visible_BN4: Tensor, mask_BN: Tensor, tokens_BTD: Tensor) -> Tensor:
        """(B, N, X), float32; 0 at sensors that are not masked."""
        event_M, sensor_M = mask_BN.nonzero(as_tuple=True)
        query_ML = self.query_position(self.position_NX[sensor_M]) + self.face_embedding[self.face_N[sensor_M]]
        key_MKL = torch.cat([self._near(visible_BN4, event_M, sensor_M), self.token(tokens_BTD)[event_M]], dim=1)
        seen_MK = visible_BN4[event_M[:, None], self.nearest_NK[sensor_M], 2] > 0
        seen_MK = torch.cat([seen_MK, seen_MK.new_ones(len(event_M), tokens_BTD.shape[1])], dim=1)
        mixed_ML = self._attend(query_ML, self.key_norm(key_MKL), seen_MK)
        h_MX = F.gelu(self.hidden(torch.cat([query_ML.to(mixed_ML.dtype), mixed_ML], dim=-1)))
        with full_precision(h_MX):
            value_MX: Tensor = self.last(h_MX.float())
        empty_BNX = value_MX.new_zeros(*mask_BN.shape, self.channels)
        return empty_BNX.index_put((event_M, sensor_M), value_MX)

    def last_layers(self) -> list[nn.Linear]:
        """The layer that gives values."""
        return [self.last]

    def _near(self, visible_BN4: Tensor, event_M: Tensor, sensor_M: Tensor) -> Tensor:
        """Features of the nearest sensors of each masked one: (M, K, L)."""
        near_MK = self.nearest_NK[sensor_M]
        with full_precision(visible_BN4):
            values_MK = torch.cat([visible_BN4[event_M[:, None], near_MK], self.position_NX[near_MK]], dim=-1)
            offset_MK3 = self.get_buffer("xyz_N3")[near_MK] - self.get_buffer("xyz_N3")[sensor_M][:, None]
            features: Tensor = self.sensor(values_MK) + self.offset(offset_MK3 * 10)
        return features + self.face_embedding[self.face_N[near_MK]]

    def _attend(self, query_ML: Tensor, key_MKL: Tensor, seen_MK: Tensor) -> Tensor:
        """Multi-head attention of one query over its own keys: (M, L)."""
        query = self.to_query(self.query_norm(query_ML)).unflatten(-1, (self.heads, 1, -1))
        key = self.to_key(key_MKL).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = self.to_value(key_MKL).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        score_MA1K = (query @ key.transpose(-1, -2)).float() / math.sqrt(key.shape[-1])
        score_MA1K = score_MA1K.masked_fill(~seen_MK[:, None, None], -1e4)
        mixed = (score_MA1K.softmax(dim=-1).to(value.dtype) @ value).flatten(1)
        out: Tensor = self.out(mixed)
        return out


def position_code(positions: np.ndarray) -> Tensor:
    """x, y, z in metres, and sines and cosines of them at six octaves: float32 (N, 39)."""
    xyz = positions / LENGTH_SCALE_CM
    angle = (xyz[:, :, None] * (math.pi * 2.0 ** np.arange(POSITION_OCTAVES))).reshape(len(xyz), -1)
    return torch.from_numpy(np.concatenate([xyz, np.sin(angle), np.cos(angle)], axis=1)).float()

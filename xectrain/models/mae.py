"""The masked autoencoder: the encoder sees the visible sensors, decoders per face predict all of them.

Shape suffixes: see `xectrain.models.blocks`; here X = channels to predict (npho, time).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization
from xectrain.config.networks import Channel, MaeConfig, ModelConfig
from xectrain.models.blocks import EPSILON, full_precision, init_linear
from xectrain.models.encoder import Encoder
from xectrain.models.hexagonal import HexNeXtBlock
from xectrain.models.sensors import FaceTokens, OwnedCells, SensorOrder, part_channels, part_names


class RectangularDecoder(nn.Module):
    """Linear to 4×4 → transposed convolutions to 8×8 and 16×16 → convolution → bilinear resize to the face's grid."""

    def __init__(self, width: int, config: MaeConfig, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        first, second, third = config.decoder_channels
        self.shape, self.first = shape, first
        self.start = nn.Linear(width, first * 16)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in ((first, second), (second, third))
        )
        self.last = nn.Conv2d(third, channels, 3, padding=1)
        init_linear(self)

    def forward(self, token_BD: Tensor) -> Tensor:
        """(B, H·W, X), float32."""
        h = F.gelu(self.start(token_BD)).unflatten(1, (self.first, 4, 4))
        for up in self.up:
            h = F.gelu(up(h))
        with full_precision(h):
            out = self.last(h.float())
            resized_BXHW = F.interpolate(out, size=self.shape, mode="bilinear", align_corners=False)
        return resized_BXHW.flatten(2).transpose(1, 2)


class HexDecoder(nn.Module):
    """Linear to the nodes, plus a learned node embedding → HexNeXt blocks → LayerNorm → Linear."""

    def __init__(self, width: int, config: MaeConfig, channels: int) -> None:
        super().__init__()
        hidden = config.hex_decoder_channels
        self.nodes = len(geo.hexagon("top").nodes)
        self.start = nn.Linear(width, self.nodes * hidden)
        self.node_embedding = nn.Parameter(torch.empty(self.nodes, hidden))
        self.norm = nn.LayerNorm(hidden, eps=EPSILON)
        self.last = nn.Linear(hidden, channels)
        init_linear(self)
        nn.init.trunc_normal_(self.node_embedding, std=0.02)
        self.blocks = nn.ModuleList(HexNeXtBlock(hidden) for _ in range(config.hex_decoder_blocks))

    def forward(self, token_BD: Tensor) -> Tensor:
        """(B, 73, X), float32."""
        h_BPC = self.start(token_BD).unflatten(1, (self.nodes, -1)) + self.node_embedding
        keep_BP1 = torch.ones_like(h_BPC[..., :1])
        for block in self.blocks:
            h_BPC = block(h_BPC, keep_BP1)
        with full_precision(h_BPC):
            out: Tensor = self.last(self.norm(h_BPC.float()))
        return out


class MaskedAutoencoder(nn.Module):
    """Encoder and decoders.

    Args:
        config: sizes; the sections `encoder` and `mae` are used.
        channels: what to predict, npho before time.
        normalization: of the input and of the predictions.
        geometry: sensor positions; nominal when not given.
    """

    def __init__(
        self,
        config: ModelConfig,
        channels: Sequence[Channel],
        normalization: Normalization,
        geometry: geo.Geometry | None = None,
    ) -> None:
        super().__init__()
        self.config, self.channels, self.normalization = config, tuple(channels), normalization
        self.encoder = Encoder(config.encoder, normalization, geometry)
        self.parts = part_names(config.encoder)
        self.face_tokens = FaceTokens(self.encoder.tokens)
        self.decoders = nn.ModuleDict({part: self._decoder(part) for part in self.parts})
        self.owned = OwnedCells()
        self.order = SensorOrder([part_channels(part) for part in self.parts])

    def _decoder(self, part: str) -> nn.Module:
        width, mae = self.config.encoder.width, self.config.mae
        if part in ("top", "bottom"):
            return HexDecoder(width, mae, len(self.channels))
        grid = geo.outer_fine_grid() if part == "outer" else geo.face_grid(part)
        return RectangularDecoder(width, mae, len(self.channels), (grid.shape[0], grid.shape[1]))

    def forward(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Predict every sensor from the visible ones.

        Args:
            x_BN2: float32 (B, 4760, 2), normalized; masked sensors' values are never read.
            mask_BN: bool (B, 4760), true for sensors that are hidden or have no valid npho (`sensors.hide`).

        Returns:
            float32 (B, 4760, X), normalized values in the order of `channels`. The predictions of the outer face's
            cells stand for the sensor itself, so a sensor's value is their mean.
        """
        tokens_BTD = self.encoder(x_BN2, mask_BN)
        parts = []
        for part in self.parts:
            values = self.decoders[part](self.face_tokens(tokens_BTD, part))
            parts.append(self.owned.mean(values) if part == "outer" else values)
        ordered: Tensor = self.order(parts)
        return ordered

"""The inpainter: fills masked sensors from the visible ones, with local features and the encoder's view of the event.

Shape suffixes: see `xectrain.models.blocks`; here X channels to predict, M masked sensors of a whole batch, K nearest
sensors, L width of a query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization, valid
from xectrain.config.networks import Channel, ModelConfig
from xectrain.models.encoder import Encoder
from xectrain.models.inpaint_heads import CrossAttentionHead, PerFaceHead
from xectrain.models.neighbour_head import NeighbourHead


class Inpainter(nn.Module):
    """Encoder and one of three heads.

    Args:
        config: sizes; the sections `encoder` and `inpainter` are used.
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
        positions = (geometry or geo.nominal()).positions
        self.head: PerFaceHead | CrossAttentionHead | NeighbourHead
        if config.inpainter.head == "neighbours":
            self.head = NeighbourHead(config, self.channels, normalization, self.encoder.tokens, geometry)
        elif config.inpainter.head == "per_face":
            self.head = PerFaceHead(config, len(self.channels), normalization, self.encoder.tokens)
        else:
            self.head = CrossAttentionHead(config, len(self.channels), positions)
        self.reference: RingMean | None = None
        if config.inpainter.residual:
            self.reference = RingMean()
            for layer in self.head.last_layers():  # training begins at the neighbours' mean and can only improve on it
                nn.init.zeros_(layer.weight)

    def train(self, mode: bool = True) -> Inpainter:
        """As usual, except that a frozen encoder stays in evaluation: its dropout would only be noise."""
        super().train(mode)
        if mode and not any(p.requires_grad for p in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def forward(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Predict the masked sensors.

        Args:
            x_BN2: float32 (B, 4760, 2), normalized; masked sensors' values are never read.
            mask_BN: bool (B, 4760), true for sensors that are hidden or have no valid npho (`sensors.hide`).

        Returns:
            float32 (B, 4760, X), normalized values in the order of `channels`. Meaningful at masked sensors;
            `sensors.fill` puts them there and keeps all others.
        """
        npho_valid_BN, time_valid_BN = valid(x_BN2, self.normalization)
        mask_BN = ~npho_valid_BN if mask_BN is None else mask_BN
        if isinstance(self.head, NeighbourHead):
            scene = self.encoder.look(x_BN2, mask_BN)
            weighted_BNX: Tensor = self.head(x_BN2, mask_BN, scene, self.encoder(x_BN2, mask_BN, scene))
            return weighted_BNX
        keep_BN = ~mask_BN
        visible_BN4 = visible_values(x_BN2, keep_BN, time_valid_BN & keep_BN)
        value_BNX: Tensor = self.head(visible_BN4, mask_BN, self.encoder(x_BN2, mask_BN))
        if self.reference is None:
            return value_BNX
        wanted = [("npho", "time").index(channel) for channel in self.channels]
        reference_BN2: Tensor = self.reference(visible_BN4)
        return value_BNX + reference_BN2[..., wanted]


def visible_values(x_BN2: Tensor, keep_BN: Tensor, timed_BN: Tensor) -> Tensor:
    """npho, time, whether visible, whether its time is valid: float32 (B, N, 4), 0 where there is nothing to see."""
    npho_BN, time_BN = x_BN2.float().unbind(dim=-1)
    zero = torch.zeros_like(npho_BN)
    npho_BN, time_BN = torch.where(keep_BN, npho_BN, zero), torch.where(timed_BN, time_BN, zero)
    return torch.stack((npho_BN, time_BN, keep_BN.float(), timed_BN.float()), dim=-1)


class RingMean(nn.Module):
    """Mean npho and time over the visible sensors adjacent to each sensor; 0 if there are none."""

    ring_NK: Tensor

    def __init__(self) -> None:
        super().__init__()
        lists = geo.ring()
        most = int(np.diff(lists.start).max())
        ring = np.full((geo.N_SENSORS, most), geo.N_SENSORS, dtype=np.int64)
        for channel in range(geo.N_SENSORS):
            own = lists.of(channel)
            ring[channel, : len(own)] = own
        self.register_buffer("ring_NK", torch.from_numpy(ring), persistent=False)

    def forward(self, visible_BN4: Tensor) -> Tensor:
        """float32 (B, N, 2) of `visible_values`."""
        padded = nn.functional.pad(visible_BN4, (0, 0, 0, 1))
        sum_BN4 = padded[:, self.ring_NK].sum(dim=2)
        return sum_BN4[..., :2] / sum_BN4[..., 2:].clamp(min=1)

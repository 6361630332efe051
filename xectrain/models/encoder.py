"""The shared encoder: 4760 sensors → tokens per face → a Transformer over the tokens.

Shape suffixes: see `xectrain.models.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization, valid
from xectrain.config.networks import EncoderConfig
from xectrain.models.backbone import FaceBackbone
from xectrain.models.blocks import full_precision
from xectrain.models.faces import CELLS, RectangularMap, TokenInfo, rectangular_maps, token_table
from xectrain.models.focus import read_light
from xectrain.models.foveated import RestReader, WindowReader
from xectrain.models.fusion import Fusion, PositionCode
from xectrain.models.hexagonal import HexEncoder
from xectrain.models.outer import OuterGrid
from xectrain.models.pooling import AttentionPool, LinearPool
from xectrain.models.reference import LightReference, Scene
from xectrain.models.replay import Replayed
from xectrain.patch import xyz


class Encoder(nn.Module):
    """Normalized, sentinel-marked sensors and a mask in, tokens out.

    Args:
        config: what to build.
        normalization: of the input; photons are shared out over the cells of the outer grid in photon space.
        geometry: sensor positions of the geometric position code; nominal when not given.
    """

    sensor_index: Tensor

    def __init__(
        self, config: EncoderConfig, normalization: Normalization, geometry: geo.Geometry | None = None
    ) -> None:
        super().__init__()
        self.config, self.normalization = config, normalization
        self.tokens = token_table(config)
        self.scene = LightReference(config.focus, geometry, config.focus_fit) if config.focus else None
        self._replayed_look = Replayed(self._look)
        self.rest = RestReader(config) if config.inner_resolution > 1 else None
        if self.rest is None:
            self._build_faces(config, normalization)
        self.window = WindowReader(config) if config.focus else None
        positions = (geometry or geo.nominal()).positions
        centres = np.stack([positions[token.channels].mean(axis=0) for token in self.tokens])
        self.position = PositionCode(config, centres, _token_features(config, self.tokens))
        self.fusion = Fusion(config)

    def _build_faces(self, config: EncoderConfig, normalization: Normalization) -> None:
        """Build what reads whole faces at full resolution."""
        self.maps = rectangular_maps(config)
        self.backbone = FaceBackbone(config)
        self.hexagonal = HexEncoder(config)
        self.pools = nn.ModuleDict({m.name: _pool(config, m, stage=2) for m in self.maps})
        self.fine_pools = nn.ModuleDict(
            {m.name: _pool(config, m, stage=1) for m in self.maps} if config.multiscale else {}
        )
        self.outer_grid = OuterGrid(config.outer_pool, normalization) if config.outer == "finegrid" else None
        self._index_sensors()

    def _index_sensors(self) -> None:
        """One index that brings the sensors of all faces into grid order, and where each map starts in it."""
        parts: dict[str, np.ndarray] = {}
        for m in self.maps:
            if m.name == "outer":
                parts[m.name] = geo.face_channels("outer")
            else:
                parts[m.name] = np.concatenate([grid.ravel() for grid in m.grids])
        parts["hexagonal"] = np.concatenate([geo.hexagon(face).nodes for face in ("top", "bottom")])
        index = torch.from_numpy(np.concatenate(list(parts.values())).astype(np.int64))
        self.register_buffer("sensor_index", index, persistent=False)
        self.part_sizes = {name: len(part) for name, part in parts.items()}

    @property
    def token_count(self) -> int:
        """T, the number of tokens."""
        return len(self.tokens)

    def forward(self, x_BN2: Tensor, mask_BN: Tensor | None = None, scene: Scene | None = None) -> Tensor:
        """Encode events.

        Args:
            x_BN2: float32 (B, 4760, 2), normalized [npho, time] with sentinels.
            mask_BN: bool (B, 4760), true for sensors that are hidden or have no valid npho; when not given, the latter.
            scene: of `look`, if it is known already.

        Returns:
            tokens (B, T, D). A masked sensor's values influence nothing.
        """
        return self.fuse(self.embed(x_BN2, mask_BN, scene))

    def look(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> Scene | None:
        """What the light says before anything is learned; None without a focus. Arguments as of `forward`."""
        if self.scene is None:
            return None
        inputs = (x_BN2,) if mask_BN is None else (x_BN2, mask_BN)
        replays = x_BN2.is_cuda and not torch.compiler.is_exporting()
        scene: Scene = (self._replayed_look if replays else self._look)(*inputs)
        return scene

    def _look(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> Scene:
        with full_precision(x_BN2):
            scene: Scene = self.scene(read_light(x_BN2, mask_BN, self.normalization))  # type: ignore[misc]
        return scene

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._replayed_look.forget()  # tables move to another device
        moved: Self = super()._apply(fn, recurse)
        return moved

    def fuse(self, tokens_BTD: Tensor) -> Tensor:
        """The Transformer on face tokens with their position code."""
        tokens: Tensor = self.fusion(tokens_BTD)
        return tokens

    def attention(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Attention weights of every fusion layer: (B, layers, heads, T, T)."""
        maps: Tensor = self.fusion.attention(self.embed(x_BN2, mask_BN))
        return maps

    def embed(self, x_BN2: Tensor, mask_BN: Tensor | None = None, scene: Scene | None = None) -> Tensor:
        """Face and focus tokens plus their position code, before the Transformer: (B, T, D).

        Args:
            scene: of `look`, if it is known already.
        """
        scene = self.look(x_BN2, mask_BN) if scene is None else scene
        if self.rest is not None:
            assert scene is not None
            tokens_BTD = self.rest(scene, xyz(scene.uvw_B3))
        else:
            tokens_BTD = self._face_tokens(x_BN2, mask_BN)
        if self.window is not None:
            tokens_BTD = torch.cat([tokens_BTD, self.window(scene).to(tokens_BTD.dtype)], dim=1)
        embedded_BTD: Tensor = tokens_BTD + self.position()
        return embedded_BTD

    def _face_tokens(self, x_BN2: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Tokens of whole faces at full resolution."""
        second: list[Tensor] = []
        first: list[Tensor] = []
        parts = self._parts(x_BN2, mask_BN)
        for m in self.maps:
            stages = self.backbone(*self._face_input(m, parts[m.name]))
            second.append(self._pooled(m, stages.second_BHWC, stages.second_keep_BHW1, self.pools))
            if self.config.multiscale:
                first.append(self._pooled(m, stages.first_BHWC, stages.first_keep_BHW1, self.fine_pools))
        second.append(self._hexagonal_tokens(parts["hexagonal"]))
        return torch.cat([*second, *first], dim=1)

    def _parts(self, x_BN2: Tensor, mask_BN: Tensor | None) -> dict[str, Tensor]:
        """Sensors of each map in grid order: (B, sensors, 4) = npho, time, time validity, keep; 0 where masked."""
        npho_valid_BN, time_valid_BN = valid(x_BN2, self.normalization)
        keep_BN = npho_valid_BN if mask_BN is None else ~mask_BN
        npho_BN, time_BN = x_BN2.float().unbind(dim=-1)
        zero = torch.zeros_like(npho_BN)
        if self.config.invalid_time == "zero":
            time_BN = torch.where(time_valid_BN, time_BN, zero)
        npho_BN, time_BN = torch.where(keep_BN, npho_BN, zero), torch.where(keep_BN, time_BN, zero)
        flags = ((time_valid_BN & keep_BN).float(), keep_BN.float())
        gathered = torch.stack((npho_BN, time_BN, *flags), dim=-1)[:, self.sensor_index]
        return dict(zip(self.part_sizes, gathered.split(list(self.part_sizes.values()), dim=1), strict=True))

    def _face_input(self, m: RectangularMap, part_BS4: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the backbone, (G·B, H, W, I), and the visible cells, (G·B, H, W, 1), both float32."""
        npho, time, timed, keep = part_BS4.unbind(dim=-1)
        if m.name == "outer":
            assert self.outer_grid is not None
            no_time = self.normalization.sentinel_time if self.config.invalid_time == "sentinel" else 0.0
            npho, time, visible = self.outer_grid(npho, time, timed > 0, keep > 0, no_time)
            keep = visible.float()
        stacked = torch.stack(self._channels(npho, time, keep), dim=-1)
        faces_BGHWI = stacked.unflatten(1, (len(m.faces), *m.shape))
        x = faces_BGHWI.transpose(0, 1).flatten(0, 1)
        keep_map = keep.unflatten(1, (len(m.faces), *m.shape)).transpose(0, 1).flatten(0, 1).unsqueeze(-1)
        return x, keep_map

    def _channels(self, npho: Tensor, time: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        return (npho, time, keep) if self.config.validity_channel else (npho, time)

    def _pooled(self, m: RectangularMap, x_BHWC: Tensor, keep_BHW1: Tensor, pools: nn.ModuleDict) -> Tensor:
        """Tokens of a map, (B, faces · tokens per face, D)."""
        cells_BQC: Tensor = pools[m.name](x_BHWC.flatten(1, 2), keep_BHW1.flatten(1, 2))
        rows, columns = m.blocks
        high = cells_BQC.shape[1] // (rows * columns * CELLS)
        blocks = cells_BQC.unflatten(1, (rows, high, columns, CELLS)).transpose(2, 3)
        tokens_BTD = blocks.reshape(cells_BQC.shape[0], rows * columns, -1)
        tokens_GBTD: Tensor = tokens_BTD.unflatten(0, (len(m.faces), -1))
        return tokens_GBTD.transpose(0, 1).flatten(1, 2)

    def _hexagonal_tokens(self, part_BS4: Tensor) -> Tensor:
        npho, time, _, keep = part_BS4.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1).unbind(dim=-1)
        stacked = torch.stack(self._channels(npho, time, keep), dim=-1)
        tokens_BD: Tensor = self.hexagonal(stacked, keep.unsqueeze(-1))
        tokens_GBD: Tensor = tokens_BD.unflatten(0, (2, -1))
        return tokens_GBD.transpose(0, 1)


def _pool(config: EncoderConfig, m: RectangularMap, stage: int) -> nn.Module:
    """The pool of a map's feature grid after a stage, to CELLS×CELLS cells a token (twice the rows for stage 1)."""
    rows, columns = m.shape[0] - 1, m.shape[1] - 1
    if stage == 2:
        rows, columns = rows // 2, columns // 2
    high = CELLS if stage == 2 else 2 * CELLS
    grid = (m.blocks[0] * high, m.blocks[1] * CELLS)
    if config.pool == "attention":
        return AttentionPool(config.base_channels * stage, len(m.faces), (rows, columns), grid)
    return LinearPool(config.pool, (rows, columns), grid)


def _token_features(config: EncoderConfig, tokens: list[TokenInfo]) -> np.ndarray:
    """What the geometric position code knows beside the place: SiPM or PMT, and with `multiscale` the stage."""
    features = [[float(token.face == "inner")] + [float(token.stage - 1)] * config.multiscale for token in tokens]
    return np.array(features)

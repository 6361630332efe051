"""How a scene is read: its window at full resolution, the rest of the inner face coarsely, the PMTs one by one.

Shape suffixes: see `xectrain.models.focus`; here A facts, R rows and columns of a window.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from xectrain.config.networks import EncoderConfig
from xectrain.models.blocks import full_precision, init_linear
from xectrain.models.focus import Light, brightness, shown_lateness
from xectrain.models.reference import Scene, facts

WINDOW_CHANNELS = 6
REST_CHANNELS = 4


class ResidualBlock(nn.Module):
    """x + conv(gelu(conv(gelu(x)))), 3×3; the second convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        init_linear(self)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_BCRR: Tensor) -> Tensor:
        """(B, C, R, R) → the same shape."""
        y_BCRR: Tensor = self.second(F.gelu(self.first(F.gelu(x_BCRR))))
        return x_BCRR + y_BCRR


class WindowReader(nn.Module):
    """The window and the facts → the focus tokens (B, focus_tokens, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.window, self.tokens, width = config.focus, config.focus_tokens, config.width
        first, second = config.focus_channels
        blocks = config.focus_blocks
        small = (config.focus + 1) // 2
        self.stem = nn.Conv2d(WINDOW_CHANNELS + bool(config.focus_fit), first, 3, padding=1)
        self.down = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.project = nn.Linear(second * small * small, self.tokens * width)
        self.facts = nn.Sequential(
            nn.Linear(facts(config.focus_fit), width), nn.GELU(), nn.Linear(width, self.tokens * width)
        )
        init_linear(self)
        self.fine = nn.Sequential(*(ResidualBlock(first) for _ in range(blocks[0])))
        self.coarse = nn.Sequential(*(ResidualBlock(second) for _ in range(blocks[1])))

    def forward(self, scene: Scene) -> Tensor:
        """Tokens (B, focus_tokens, D) of what the light says before anything is learned."""
        with full_precision(scene.facts_BA):
            x_BCRR = self.stem(window_image(scene, self.window))
            facts_BX = self.facts(scene.facts_BA)
        x_BCRR = self.coarse(self.down(F.gelu(self.fine(x_BCRR))))
        flat_BX: Tensor = self.project(F.gelu(x_BCRR).flatten(1)) + facts_BX
        tokens_BTD: Tensor = F.gelu(flat_BX).unflatten(1, (self.tokens, -1))
        return tokens_BTD


def window_image(scene: Scene, window: int) -> Tensor:
    """What is seen of a window: float32 (B, 6, R, R), with a fit (B, 7, R, R); 0 at masked sensors.

    √(photons/brightest), brightness, whether visible, lateness, whether there is a time, whether inside the face, and
    how many standard deviations (compressed) the sensor is above the fitted point source.
    """
    photons_BS, keep_BS = scene.window.photons_BN.clamp(min=0), scene.window.keep_BN
    brightest_B1 = photons_BS.amax(dim=1, keepdim=True).clamp(min=10)
    sensors = slice(photons_BS.shape[1])
    shown = [
        (photons_BS / brightest_B1 + 1e-6).sqrt() * keep_BS,
        scene.bright_BK[:, sensors],
        keep_BS,
        shown_lateness(scene.late_BK[:, sensors]),
        scene.window.timed_BN,
        (scene.spot.channels_BS < geo.N_SENSORS).float(),
    ]
    if scene.pull_BS is not None:
        shown.append(scene.pull_BS.asinh() / 2)
    image_BRRC: Tensor = torch.stack(shown, dim=-1).unflatten(1, (window, window))
    return image_BRRC.permute(0, 3, 1, 2)  # channels last in memory: convolutions keep it so, and are faster


class RestReader(nn.Module):
    """One token per face, (B, 6, D): the inner face from sums over k×k sensors, the others sensor by sensor."""

    cells_PX3: Tensor
    order_O: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.pool = config.inner_resolution
        first, second = config.rest_channels
        grid = geo.face_grid("inner")
        self.grid_shape = tuple(grid.shape)
        rows, columns = (-(-size // self.pool) for size in grid.shape)
        self.padding = (rows * self.pool - grid.shape[0], columns * self.pool - grid.shape[1])
        small = ((rows + 1) // 2) * ((columns + 1) // 2)
        self.stem = nn.Conv2d(REST_CHANNELS, first, 3, padding=1)
        self.down = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.project = nn.Linear(second * small, width)
        self.parts = [geo.face_channels(face).astype(np.int64) for face in geo.FACE_NAMES[1:]]
        self.faces = nn.ModuleList(nn.Linear(REST_CHANNELS * len(part), width) for part in self.parts)
        init_linear(self)
        self.register_buffer("cells_PX3", torch.from_numpy(self._cells(grid)), persistent=False)
        order = np.concatenate(self.parts) - geo.N_SIPM
        self.register_buffer("order_O", torch.from_numpy(order), persistent=False)

    def _cells(self, grid: np.ndarray) -> np.ndarray:
        """Centres of the cells, float32 (cells, 3), cm."""
        places = geo.nominal_positions()[grid]
        padded = np.pad(places, ((0, self.padding[0]), (0, self.padding[1]), (0, 0)), mode="edge")
        blocks = padded.reshape(padded.shape[0] // self.pool, self.pool, padded.shape[1] // self.pool, self.pool, 3)
        return np.asarray(blocks.mean(axis=(1, 3)).reshape(-1, 3), dtype=np.float32)

    def forward(self, scene: Scene, point_B3: Tensor) -> Tensor:
        """Args:
        point_B3: Cartesian coordinates of the scene's point [cm].
        """
        with full_precision(point_B3):
            x_BCHW = self.stem(self._image(scene, point_B3))
            pmts = self._pmts(scene)
            others = [linear(part.flatten(1)) for linear, part in zip(self.faces, pmts, strict=True)]
        x_BCHW = self.down(F.gelu(x_BCHW))
        tokens = [self.project(F.gelu(x_BCHW).flatten(1)), *others]
        return F.gelu(torch.stack([token.float() for token in tokens], dim=1))

    def _image(self, scene: Scene, point_B3: Tensor) -> Tensor:
        """Brightness, visible share, lateness and share with a time of the cells: float32 (B, 4, H, W)."""
        light: Light = scene.light
        inner = slice(0, geo.N_SIPM)
        timed_BP, photons_BP = light.timed_BN[:, inner], light.photons_BN[:, inner]
        weight_BP = timed_BP * photons_BP.clamp(min=0)
        keep_BP, time_BP = light.keep_BN[:, inner], light.time_BN[:, inner]
        maps = (photons_BP, keep_BP, weight_BP, weight_BP * time_BP, timed_BP)
        photons, keep, weight, moment, timed = (self._pooled(values_BP) for values_BP in maps)
        path = (self.cells_PX3 - point_B3[:, None]).square().sum(dim=-1).clamp(min=1e-4).sqrt() / geo.LIGHT_SPEED_XENON
        arrival = moment / weight.clamp(min=1e-3) - path.view_as(moment) - scene.time_B[:, None, None]
        late = torch.where(weight > 1e-3, arrival, torch.zeros_like(arrival))
        shown = (brightness(photons / keep.clamp(min=1e-3)), keep, shown_lateness(late), timed)
        return torch.stack(shown, dim=1)

    def _pooled(self, values_BP: Tensor) -> Tensor:
        """Sums over k×k sensors of the inner face, over k²: (B, H, W). Sums of slices: `avg_pool2d` takes several times
        as long on a CPU, and a product may be rounded to TF32."""
        sensors_BHW = values_BP.unflatten(1, self.grid_shape)
        return _strided_sum(_strided_sum(sensors_BHW, 1, self.pool), 2, self.pool) / self.pool**2

    def _pmts(self, scene: Scene) -> list[Tensor]:
        """Brightness, visible, lateness and timed of the sensors of each face but the inner: (B, sensors, 4)."""
        pmts, light = slice(-geo.N_PMT, None), scene.light
        late_BO = shown_lateness(scene.late_BK[:, pmts])
        shown = (scene.bright_BK[:, pmts], light.keep_BN[:, pmts], late_BO, light.timed_BN[:, pmts])
        ordered_BO4 = torch.stack(shown, dim=-1).index_select(1, self.order_O)
        return list(ordered_BO4.split([len(part) for part in self.parts], dim=1))


def _strided_sum(values: Tensor, dim: int, step: int) -> Tensor:
    """Sums over `step` neighbours along a dimension; the last one over those that are left."""
    size = values.shape[dim]
    whole = size // step
    blocks: Tensor = values.narrow(dim, 0, whole * step).unflatten(dim, (whole, step))
    total = functools.reduce(torch.add, blocks.unbind(dim + 1))
    if size == whole * step:
        return total
    return torch.cat([total, values.narrow(dim, whole * step, size - whole * step).sum(dim, keepdim=True)], dim)

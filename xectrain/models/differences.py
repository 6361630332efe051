"""Predicting differences: what a scene says about each task, and a learned mean of the sensors' times.

Shape suffixes: see `xectrain.models.focus`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.base import ConfigError
from xectrain.config.networks import EncoderConfig, TaskConfig
from xectrain.models.blocks import full_precision, init_linear
from xectrain.models.focus import shown_lateness
from xectrain.models.reference import Scene, distances
from xectrain.patch import xyz

REFERENCED = ("angle", "energy", "timing", "uvwFI", "xyzFI", "direction")
"""Tasks about which the light alone says something."""
MULTIPLIED = ("energy",)
"""Those whose reference is a factor: the difference is one of logarithms, which is not corrected."""
CORRECTED = ("timing",)
"""Those whose reference is corrected unless something else is asked for."""
RATIO_LIMIT = 4.0
"""Learned weights change a sensor's weight by at most e to this power."""
SENSOR_FEATURES = 6


def referenced(encoder: EncoderConfig, tasks: Mapping[str, TaskConfig]) -> tuple[str, ...]:
    """The tasks that predict a difference to the light's reference.

    Raises:
        ConfigError: a reference is asked for without a focus, or for a task that has none.
    """
    for name, task in tasks.items():
        asked = task.reference in ("light", "corrected")
        if asked and not (encoder.focus and name in REFERENCED):
            why = "needs model.encoder.focus" if name in REFERENCED else "has no reference in the light"
            raise ConfigError(why, item=f"tasks.{name}.reference", found=task.reference)
        if task.reference == "corrected" and name in MULTIPLIED:
            raise ConfigError("has no correction", item=f"tasks.{name}.reference", expected="light")
    wanted = [name for name, task in tasks.items() if task.reference != "none" and encoder.focus]
    return tuple(name for name in wanted if name in REFERENCED)


def is_corrected(name: str, task: TaskConfig) -> bool:
    """Whether a task's reference, if it has one, is corrected before training."""
    return task.reference == "corrected" or (task.reference == "auto" and name in CORRECTED)


def reference_values(name: str, scene: Scene) -> Tensor:
    """What the light says about a task: float32 (B, K), in its unit; logarithms for those in `MULTIPLIED`."""
    if name == "energy":
        return scene.total_B[:, None].log()
    if name == "timing":
        return scene.time_B[:, None]
    if name == "uvwFI":
        return scene.uvw_B3
    point_B3 = xyz(scene.uvw_B3)
    if name == "xyzFI":
        return point_B3
    direction_B3 = F.normalize(point_B3, dim=1)
    if name == "direction":
        return direction_B3
    x_B, y_B, z_B = direction_B3.unbind(dim=1)
    return torch.rad2deg(torch.stack((z_B.clamp(-1, 1).acos(), torch.atan2(y_B, -x_B)), dim=1))


class LearnedMean(nn.Module):
    """A correction to the mean arrival time: a mean with learned weights and corrections, seen from a learned point.

    Args:
        inputs: length of the flattened tokens.
        hidden: width of the network that looks at a sensor.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.sensor = nn.Linear(SENSOR_FEATURES, hidden)
        self.context = nn.Linear(inputs, hidden)
        self.last = nn.Linear(hidden, 2)
        self.shift = nn.Linear(inputs, 3)
        init_linear(self)
        for layer in (self.last, self.shift):
            nn.init.zeros_(layer.weight)

    def forward(self, scene: Scene, flat_BX: Tensor) -> Tensor:
        """Nanoseconds to be added to `scene.time_B`: float32 (B,). 0 before anything is learned, or without times."""
        with full_precision(flat_BX):
            flat_BX = flat_BX.float()
            context_BX = self.context(flat_BX) + self.sensor.bias  # the weight of the feature that is 1
            own_BXF = self.sensor.weight.expand(flat_BX.shape[0], -1, -1)
            hidden_BXK = F.gelu(torch.cat([own_BXF, context_BX[..., None]], dim=2) @ sensor_features(scene))
            ratio_BK, late_BK = (self.last.weight @ hidden_BXK + self.last.bias[:, None]).unbind(dim=1)
            moved_BK = distances(scene.place_3BK, scene.uvw_B3 + self.shift(flat_BX)) - scene.distance_BK
            arrival_BK = scene.late_BK - moved_BK / geo.LIGHT_SPEED_XENON - late_BK
            weight_BK = scene.weight_BK * (RATIO_LIMIT * (ratio_BK / RATIO_LIMIT).tanh()).exp()
            mean_B: Tensor = (weight_BK * arrival_BK).sum(dim=1) / weight_BK.sum(dim=1).clamp(min=1e-3)
        return mean_B


def sensor_features(scene: Scene) -> Tensor:
    """What is known of each sensor that may have a time, and 1: float32 (B, 6 + 1, K)."""
    late_BK = shown_lateness(scene.late_BK)
    first_pmt = scene.spot.channels_BS.shape[1]
    is_pmt_K = (torch.arange(late_BK.shape[1], device=late_BK.device) >= first_pmt).float()
    shown = (
        scene.bright_BK,
        late_BK,
        late_BK.square() / 4,
        scene.distance_BK / 20,
        scene.distance_BK.log() - 2,
        is_pmt_K.expand_as(late_BK),
        torch.ones_like(late_BK),
    )
    return torch.stack(shown, dim=1)

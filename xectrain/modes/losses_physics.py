"""Optional physics terms of the regression: predictions that contradict each other, or the light, are penalized.

They act in physical units, are off by default (weight 0) and give one value per event. B events, N the 4760 sensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import Normalization
from xectrain.config.networks import TasksConfig
from xectrain.modes.losses import emission_vector, one_minus_cos, smooth_l1

VERTEX = ("vtx_x", "vtx_y", "vtx_z")


def check_physics(config: TasksConfig, columns: Sequence[str]) -> None:
    """Refuse physics terms whose ingredients are missing.

    Raises:
        ConfigError: naming the term and what it needs.
    """
    on = config.enabled()
    if config.angle_position > 0:
        for choices in (("direction", "angle"), ("uvwFI", "xyzFI")):
            if not any(name in on for name in choices):
                raise ConfigError(f"needs the task {' or '.join(choices)}", item="tasks.angle_position")
        missing = [column for column in VERTEX if column not in columns]
        if missing:
            raise ConfigError(f"needs the truth column {missing[0]!r}", item="tasks.angle_position")
    if config.energy_light > 0 and "energy" not in on:
        raise ConfigError("needs the task energy", item="tasks.energy_light")


def angle_position(predicted: Mapping[str, Tensor], vertex_B3: Tensor) -> tuple[Tensor, Tensor]:
    """1 − cos between the predicted emission direction and the line from the vertex to the predicted interaction.

    Args:
        predicted: physical predictions by task, (B, K): `direction` or else `angle`, `xyzFI` or else `uvwFI`.
        vertex_B3: cm, NaN where unknown.

    Returns:
        loss (B,), 0 where the vertex is unknown, and whether it is known, bool (B,).
    """
    good_B = vertex_B3.isfinite().all(dim=1)
    vertex_B3 = torch.where(good_B[:, None], vertex_B3, torch.zeros_like(vertex_B3)).float()
    direction_B3 = predicted["direction"] if "direction" in predicted else emission_vector(predicted["angle"])
    point_B3 = predicted["xyzFI"] if "xyzFI" in predicted else xyz_from_uvw(predicted["uvwFI"])
    loss_B = one_minus_cos(direction_B3, point_B3 - vertex_B3)
    return torch.where(good_B, loss_B, torch.zeros_like(loss_B)), good_B


def energy_light(
    config: TasksConfig, energy_B: Tensor, x_BN2: Tensor, mask_BN: Tensor, normalization: Normalization
) -> Tensor:
    """Smooth-L1 of how far ln(energy · yield / light) exceeds the tolerance: (B,).

    The light is the photon sum weighted by the area each sensor stands for over its own, scaled up for masked sensors.

    Args:
        energy_B: predicted energy, GeV.
        x_BN2: float32, normalized sensors.
        mask_BN: bool, sensors not to use.
    """
    weight_N = _coverage().to(x_BN2.device)
    npho_BN = x_BN2[..., 0].float()
    photons_BN = normalization.inverse_npho(torch.where(mask_BN, torch.zeros_like(npho_BN), npho_BN))
    light_B = (torch.where(mask_BN, torch.zeros_like(photons_BN), photons_BN) * weight_N).sum(dim=1)
    seen_B = (weight_N * ~mask_BN).sum(dim=1) / weight_N.sum()
    expected_B = light_B.clamp(min=1) / seen_B.clamp(min=1e-3) / config.energy_light_yield
    ratio_B = (energy_B.float().clamp(min=1e-6) / expected_B).log()
    excess_B = (ratio_B.abs() - config.energy_light_tolerance).clamp(min=0)
    return smooth_l1(excess_B, 1.0)


def xyz_from_uvw(uvw_B3: Tensor) -> Tensor:
    """Detector coordinates to x, y, z, cm: `shards.geometry.xyz_from_uvw` on tensors, with a gradient."""
    u_B, v_B, w_B = uvw_B3.unbind(dim=-1)
    radius_B, phi_B = w_B + geo.R_INNER, v_B / geo.R_INNER
    return torch.stack((-radius_B * phi_B.cos(), radius_B * phi_B.sin(), u_B), dim=-1)


@lru_cache
def _coverage() -> Tensor:
    return torch.from_numpy(geo.cell_area() / geo.sensor_area()).float()

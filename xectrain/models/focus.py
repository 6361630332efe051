"""Where an event is read closely: the light of its visible sensors, the brightest spot of the inner face, its window.

Shape suffixes: see `xectrain.models.blocks`; here S sensors of a window, K sensors whose times are used. A sensor that
is masked (hidden, dead, without a valid npho) influences nothing, not even the place of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization, valid

NOWHERE = -1e5
"""Score [photons] of a masked sensor."""
CENTRE_PREFERENCE = 0.5
"""Photons by which the middle of the face is preferred to its corners: decides only where there is no light at all."""


@dataclass(frozen=True)
class Light:
    """What the visible sensors say, in physical units."""

    photons_BN: Tensor
    """float32, photons (pedestals may be negative); 0 where masked."""
    keep_BN: Tensor
    """float32, 1 where visible."""
    time_BN: Tensor
    """float32, ns, in the frame of the sensors' times; 0 without a valid time."""
    timed_BN: Tensor
    """float32, 1 where visible with a valid time."""


def read_light(x_BN2: Tensor, mask_BN: Tensor | None, normalization: Normalization) -> Light:
    """Photons and nanoseconds of normalized, sentinel-marked sensors; see `Encoder.forward` for the arguments."""
    npho_valid_BN, time_valid_BN = valid(x_BN2, normalization)
    keep_BN = npho_valid_BN if mask_BN is None else ~mask_BN
    timed_BN = time_valid_BN & keep_BN
    npho_BN, time_BN = x_BN2.float().unbind(dim=-1)
    zero = torch.zeros_like(npho_BN)
    photons_BN = torch.where(keep_BN, normalization.inverse_npho(torch.where(keep_BN, npho_BN, zero)), zero)
    nanoseconds_BN = 1e9 * normalization.inverse_time(torch.where(timed_BN, time_BN, zero))
    return Light(photons_BN, keep_BN.float(), torch.where(timed_BN, nanoseconds_BN, zero), timed_BN.float())


@dataclass(frozen=True)
class Spot:
    """The window around the brightest spot."""

    centre_B: Tensor
    """int64, inner channel in its middle."""
    channels_BS: Tensor
    """int64, channels of the window row by row; `geo.N_SENSORS` outside the face."""
    smooth_BHW: Tensor
    """float32, mean photons of the visible sensors among 3×3, on the inner face's grid; 0 if there are none."""


class Spotter(nn.Module):
    """Finds the window. Nothing is learned.

    Args:
        window: its side in sensors, odd.
    """

    padded_Q: Tensor
    offset_S: Tensor
    preference_P: Tensor
    row_P: Tensor
    column_P: Tensor
    above_HH: Tensor
    beside_WW: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        grid = geo.face_grid("inner").astype(np.int64)
        if not np.array_equal(grid.ravel(), np.arange(geo.N_SIPM)):
            raise AssertionError("the inner face's channels do not run along its rows")
        half = window // 2
        padded = np.pad(grid, half, constant_values=geo.N_SENSORS)
        self.window, self.shape, self.stride = window, (grid.shape[0], grid.shape[1]), padded.shape[1]
        offsets = np.arange(window)[:, None] * padded.shape[1] + np.arange(window)
        rows, columns = (np.linspace(-1, 1, size) for size in grid.shape)
        far = np.hypot(rows[:, None], columns) / np.sqrt(2)
        for name, table in (
            ("padded_Q", padded.ravel()),
            ("offset_S", offsets.ravel()),
            ("preference_P", (CENTRE_PREFERENCE * (1 - far)).ravel().astype(np.float32)),
            ("row_P", np.arange(geo.N_SIPM) // grid.shape[1]),
            ("column_P", np.arange(geo.N_SIPM) % grid.shape[1]),
            ("above_HH", _band(grid.shape[0], half)),
            ("beside_WW", _band(grid.shape[1], half)),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(table)), persistent=False)

    def forward(self, light: Light) -> Spot:
        """The window of every event. Without any light it is in the middle of the face.

        Its middle is the brightest spot of the window-sized square that holds most light: a shallow photon of little
        energy is brighter on a few sensors than a deep one of much. A spot is the mean over 3×3 visible sensors, so a
        single hot or dead channel moves it little.
        """
        photons_BP, keep_BP = light.photons_BN[:, : geo.N_SIPM], light.keep_BN[:, : geo.N_SIPM]
        smooth_BHW = self._smooth(photons_BP, keep_BP)
        smooth_BP = smooth_BHW.flatten(1)
        filled_BP = torch.where(keep_BP > 0, photons_BP, smooth_BP).clamp(min=0)
        square_B1 = (self._squares(filled_BP) + self.preference_P).argmax(dim=1, keepdim=True)
        row_B1, column_B1 = self.row_P[square_B1], self.column_P[square_B1]
        half = self.window // 2
        inside_BP = ((self.row_P - row_B1).abs() <= half) & ((self.column_P - column_B1).abs() <= half)
        score_BP = torch.where(inside_BP & (keep_BP > 0), smooth_BP, torch.full_like(photons_BP, NOWHERE))
        place_B = (score_BP + self.preference_P).argmax(dim=1)
        corner_B = self.row_P[place_B] * self.stride + self.column_P[place_B]
        channels_BS = self.padded_Q[corner_B[:, None] + self.offset_S]
        return Spot(place_B, channels_BS, smooth_BHW)

    def _squares(self, photons_BP: Tensor) -> Tensor:
        """Mean photons of the square of the window's size around each sensor; dark outside the face."""
        squares_BHW: Tensor = self.above_HH @ (photons_BP.unflatten(1, self.shape) @ self.beside_WW)
        return squares_BHW.flatten(1)

    def _smooth(self, photons_BP: Tensor, keep_BP: Tensor) -> Tensor:
        both_B2HW = torch.stack((photons_BP, keep_BP), dim=1).unflatten(2, self.shape)
        padded_B2HW = F.pad(both_B2HW, (1, 1, 1, 1))
        rows_B2HW = padded_B2HW[..., :-2, :] + padded_B2HW[..., 1:-1, :] + padded_B2HW[..., 2:, :]
        sum_B2HW = rows_B2HW[..., :-2] + rows_B2HW[..., 1:-1] + rows_B2HW[..., 2:]
        return sum_B2HW[:, 0] / sum_B2HW[:, 1].clamp(min=1)


def _band(size: int, half: int) -> np.ndarray:
    """float32 (size, size): a product with it is the mean over 2·half + 1 neighbours, zero beyond the ends. Pooling of
    that width takes ten times as long on a CPU."""
    near = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= half
    return (near / (2 * half + 1)).astype(np.float32)


def gathered(values_BN: Tensor, channels_BS: Tensor) -> Tensor:
    """Values of the window's sensors, (B, S); 0 outside the face."""
    padded_BN: Tensor = F.pad(values_BN, (0, 1))
    return padded_BN.gather(1, channels_BS)


def visible_median(values_BX: Tensor, keep_BX: Tensor) -> Tensor:
    """Median over the visible ones (`keep_BX`: 1), (B, 1); 0 if there are none."""
    count_B1 = keep_BX.sum(dim=1, keepdim=True).long()
    rising_BX = torch.where(keep_BX > 0, values_BX, torch.full_like(values_BX, 1e30)).sort(dim=1).values
    upper = torch.div(count_B1, 2, rounding_mode="floor").clamp(max=values_BX.shape[1] - 1)
    lower = torch.div(count_B1 - 1, 2, rounding_mode="floor").clamp(min=0)
    middle_B1 = 0.5 * (rising_BX.gather(1, lower) + rising_BX.gather(1, upper))
    return torch.where(count_B1 > 0, middle_B1, torch.zeros_like(middle_B1))

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
LATEST = 6.0
"""Lateness [ns] is compressed to within ±this: scattered light arrives tens of nanoseconds late."""
MANY = 1000
"""Values from which a CPU finds a median by NumPy's partition, in a tenth of the time of sorting. No ONNX operator does
so."""
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

    def of(self, channels_BS: Tensor) -> Light:
        """That of some sensors, (B, S); 0 outside the face."""
        return Light(*(gathered(getattr(self, name), channels_BS) for name in self.__dataclass_fields__))


def read_light(x_BN2: Tensor, mask_BN: Tensor | None, normalization: Normalization) -> Light:
    """Photons and nanoseconds of normalized, sentinel-marked sensors; see `Encoder.forward` for the arguments."""
    npho_valid_BN, time_valid_BN = valid(x_BN2, normalization)
    keep_BN = npho_valid_BN if mask_BN is None else ~mask_BN
    timed_BN = time_valid_BN & keep_BN
    npho_BN, time_BN = x_BN2.float().unbind(dim=-1)
    keep_BN, timed_BN = _flags(keep_BN), _flags(timed_BN)
    photons_BN = keep_BN * _finite(normalization.inverse_npho(npho_BN))
    return Light(photons_BN, keep_BN, timed_BN * _finite(1e9 * normalization.inverse_time(time_BN)), timed_BN)


def _finite(values: Tensor) -> Tensor:
    """0 in place of what is not finite, so that a product with 0 is 0. Choosing by a mask takes a CPU ten times as long
    where the next choice cannot be guessed."""
    return values.nan_to_num(0.0, 0.0, 0.0)


def _flags(which: Tensor) -> Tensor:
    """1 where true, otherwise 0. From bool itself a CPU makes numbers six times as slowly."""
    return which.to(torch.uint8).float()


def brightness(photons: Tensor) -> Tensor:
    """Photons on a logarithmic scale of order one; pedestals count as dark."""
    return (photons.clamp(min=0) / 10 + 1).log() / 4


def shown_lateness(late: Tensor) -> Tensor:
    """Lateness [ns] as a network sees it."""
    return LATEST * (late / LATEST).tanh()


@dataclass(frozen=True)
class Spot:
    """The window around the brightest spot."""

    centre_B: Tensor
    """int64, inner channel in its middle."""
    channels_BS: Tensor
    """int64, channels of the window row by row; `geo.N_SENSORS` outside the face."""
    filled_BP: Tensor
    """float32, photons of the inner face, where masked the mean of the visible sensors among 3×3; 0 if there are
    none."""


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
        photons_BHW, keep_BHW = photons_BP.unflatten(1, self.shape), keep_BP.unflatten(1, self.shape)
        smooth_BP = (_near(photons_BHW) / _near(keep_BHW).clamp(min=1)).flatten(1)
        filled_BP = photons_BP + (1 - keep_BP) * smooth_BP
        square_B = (self._squares(filled_BP.clamp(min=0)) + self.preference_P).argmax(dim=1)
        near_BS = self._around(square_B)
        smooth_BS, keep_BS = gathered(smooth_BP, near_BS), gathered(keep_BP, near_BS)
        preference_BS = gathered(self.preference_P.expand_as(keep_BP), near_BS)
        score_BS = torch.where(keep_BS > 0, smooth_BS, NOWHERE) + preference_BS
        place_B = near_BS.gather(1, score_BS.argmax(dim=1, keepdim=True)).squeeze(1)
        return Spot(place_B, self._around(place_B), filled_BP)

    def _around(self, channel_B: Tensor) -> Tensor:
        """Channels (B, S) of the window around a sensor; `geo.N_SENSORS` outside the face."""
        corner_B = self.row_P[channel_B] * self.stride + self.column_P[channel_B]
        places_BS = corner_B[:, None] + self.offset_S
        found_X = self.padded_Q.index_select(0, places_BS.flatten())
        channels_BS: Tensor = found_X.unflatten(0, (-1, places_BS.shape[1]))
        return channels_BS

    def _squares(self, photons_BP: Tensor) -> Tensor:
        """Mean photons of the square of the window's size around each sensor; dark outside the face."""
        squares_BHW: Tensor = self.above_HH @ (photons_BP.unflatten(1, self.shape) @ self.beside_WW)
        return squares_BHW.flatten(1)


def _near(values_BHW: Tensor) -> Tensor:
    """Sums over 3×3 sensors, as many as are on the face."""
    padded_BHW = F.pad(values_BHW, (1, 1, 1, 1))
    rows_BHW = padded_BHW[:, :-2] + padded_BHW[:, 1:-1] + padded_BHW[:, 2:]
    return rows_BHW[..., :-2] + rows_BHW[..., 1:-1] + rows_BHW[..., 2:]


def _band(size: int, half: int) -> np.ndarray:
    """float32 (size, size): a product with it is the mean over 2·half + 1 neighbours, zero beyond the ends. Pooling of
    that width takes ten times as long on a CPU."""
    near = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= half
    return (near / (2 * half + 1)).astype(np.float32)


def gathered(values_BN: Tensor, channels_BS: Tensor) -> Tensor:
    """Finite values of the window's sensors, (B, S); 0 outside the face."""
    found_BS: Tensor = values_BN.gather(1, channels_BS.clamp(max=values_BN.shape[1] - 1))
    return found_BS * _flags(channels_BS < geo.N_SENSORS)


def visible_median(values_BX: Tensor, keep_BX: Tensor) -> Tensor:
    """Median over the visible ones (`keep_BX`: 1), (B, 1); 0 if there are none. Of many values it has no gradients."""
    count_B1 = keep_BX.sum(dim=1, keepdim=True).long()
    seen_BX = torch.where(keep_BX > 0, values_BX, torch.full_like(values_BX, 1e30))
    last = values_BX.shape[1] - 1
    lower_B1 = torch.div(count_B1 - 1, 2, rounding_mode="floor").clamp(min=0)
    upper_B1 = torch.div(count_B1, 2, rounding_mode="floor").clamp(max=last)
    if last >= MANY and seen_BX.device.type == "cpu" and not torch.onnx.is_in_onnx_export():
        places = torch.cat([lower_B1, upper_B1]).unique().tolist()
        rising_BX = torch.from_numpy(np.partition(seen_BX.numpy(), places, axis=1))
    else:
        rising_BX = seen_BX.sort(dim=1).values
    middle_B1 = 0.5 * (rising_BX.gather(1, lower_B1) + rising_BX.gather(1, upper_B1))
    return torch.where(count_B1 > 0, middle_B1, torch.zeros_like(middle_B1))

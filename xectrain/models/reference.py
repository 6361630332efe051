"""What the light says about an event without any learning: the point it comes from, its amount, its time.

The definitions are those of the simple classical methods (`xectrain.baselines`), written as tensor operations of fixed
shape, so that a network can predict differences to them and be exported with them. Shape suffixes: see
`xectrain.models.focus`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from xectrain.localfit import fit_light, settled, variance
from xectrain.models.focus import Light, Spot, Spotter, brightness, visible_median
from xectrain.patch import Patch, central, sensor_frames, solid_angle, xyz

CENTRE_SIDE = 9
"""Sensors along a side of the square over which light is weighted, as in `baselines.light`."""
HUBER_NS = 1.5
"""Residual × √(photons/100) [ns] beyond which a time is weighted down: scattered light arrives late."""
ITERATIONS = 4
RINGS = (1, 3, 5, 9)
"""Sides of nested squares around the brightest sensor, whose shares of the light tell the depth."""
FIT_SIDE = 7
"""Sensors along a side of the square that a point source is fitted to, as in `baselines.localfit`."""
WIDE_SIDE, WIDE_STEPS = 11, 3
"""Side (at most the window's) and steps of a second fit from there: how the point moves with the square tells the shape
of the shower. A third, of 5×5, tells nothing more."""


@dataclass(frozen=True)
class Scene:
    """What is known about events before anything is learned."""

    light: Light
    spot: Spot
    window: Light
    """The light of the window's sensors."""
    uvw_B3: Tensor
    """Light-weighted u, v and the depth that the width of the spot tells [cm]."""
    total_B: Tensor
    """Coverage-weighted photon sum, masked sensors filled from their neighbours, at least 1."""
    time_B: Tensor
    """Robust mean of sensor times minus light path [ns]; 0 without any time."""
    place_3BK: Tensor
    """Positions of the window's sensors, then of all PMTs [cm]."""
    bright_BK: Tensor
    """Brightness of these sensors."""
    late_BK: Tensor
    """How much later than `time_B` each of them is [ns]; 0 without a time."""
    weight_BK: Tensor
    """Its weight in the mean [photons]; 0 without a time."""
    distance_BK: Tensor
    """From `uvw_B3` to each of them [cm]."""
    facts_BA: Tensor
    """The numbers that a network is given of all this, of order one."""
    point_B3: Tensor
    """Where the light comes from, u, v, w [cm]: the fitted point, without a fit `uvw_B3`. A shower is no point: of its
    depth, centimetres are bias."""
    pull_BS: Tensor | None = None
    """With a fit: photons of the window's sensors above those of the fitted point, in standard deviations; 0 where
    masked."""


class LightReference(nn.Module):
    """Makes a scene of events.

    Args:
        window: side of the window in sensors, odd, at least `CENTRE_SIDE`.
        geometry: sensor positions; nominal when not given.
        fit: steps of the fit of a point source, whose results join the facts; 0: no fit.
    """

    ring_X: Tensor
    face_N6: Tensor
    rim_X: Tensor
    nested_RS: Tensor
    sensor_XN: Tensor
    """Of every sensor its place (3), the vectors of its frame (3 × 3), u and v; last those of none."""

    def __init__(self, window: int, geometry: geo.Geometry | None = None, fit: int = 0) -> None:
        super().__init__()
        self.spotter, self.fit = Spotter(window), fit
        self.cell_area = float(geo.cell_area()[0])  # here: compiled code must not look into NumPy's tables
        geometry = geometry or geo.nominal()
        places, uv = geometry.positions.T, geo.uvw_from_xyz(geometry.positions)[:, :2].T
        sensors = np.concatenate([places, sensor_frames(geometry).reshape(9, -1), uv])
        none = np.concatenate([np.zeros(3), np.eye(3).ravel(), np.zeros(2)])
        ring, middle = _rings(window), _rings(CENTRE_SIDE)
        coverage = geo.cell_area() / geo.sensor_area()
        tables = {
            "face_N6": coverage[:, None] * np.eye(len(geo.FACE_NAMES))[geo.nominal().face],
            "nested_RS": np.stack([ring <= side // 2 for side in RINGS]),
            "sensor_XN": np.concatenate([sensors, none[:, None]], axis=1),
        }
        indices = {"ring_X": _pmt_rings().T.ravel(), "rim_X": np.flatnonzero(middle == middle.max())}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table.astype(np.float32)), persistent=False)
        for name, index in indices.items():
            self.register_buffer(name, torch.from_numpy(index.astype(np.int64)), persistent=False)

    def forward(self, light: Light) -> Scene:
        """The window, the point that the light shows, and what it says about it, for each event."""
        spot = self.spotter(light)
        window = light.of(spot.channels_BS)
        place_3BS, frame_33BS, uv_2BS = self._sensors(spot)
        middle_B2 = uv_2BS[..., uv_2BS.shape[2] // 2].T
        uv_B2 = self._centre(window, uv_2BS, middle_B2)
        inner_BP = spot.filled_BP.clamp(min=0)
        uvw_B3 = torch.cat([uv_B2, _depth(inner_BP, self.cell_area)[:, None]], dim=1)
        faces_B6 = torch.cat([spot.filled_BP, self._filled_pmts(light)], dim=1) @ self.face_N6
        total_B = faces_B6.sum(dim=1).clamp(min=1)
        pmts_3BO = self.sensor_XN[:3, None, geo.N_SIPM : -1].expand(-1, uvw_B3.shape[0], -1)
        place_3BK = torch.cat([place_3BS, pmts_3BO], dim=2)
        bright_BK = brightness(_and_pmts(window.photons_BN, light.photons_BN))
        distance_BK = distances(place_3BK, uvw_B3)
        time_B, late_BK, weight_BK = _times(window, light, distance_BK)
        facts_BA = self._facts(window, uvw_B3, middle_B2, faces_B6, inner_BP, weight_BK)
        point_B3, pull_BS = uvw_B3, None
        if self.fit:
            patch = Patch(place_3BS, frame_33BS, window.photons_BN, window.keep_BN)
            point_B3, fit_BA, pull_BS = self._fitted(patch, uvw_B3, middle_B2, total_B)
            facts_BA = torch.cat([facts_BA, fit_BA], dim=1)
        arrivals = (place_3BK, bright_BK, late_BK, weight_BK, distance_BK)
        return Scene(light, spot, window, uvw_B3, total_B, time_B, *arrivals, facts_BA, point_B3, pull_BS)

    def _sensors(self, spot: Spot) -> tuple[Tensor, Tensor, Tensor]:
        """Centres (3, B, S), frames (3, 3, B, S) as of `Patch`, and u, v (2, B, S) of the window's sensors [cm]."""
        channels_BS = spot.channels_BS
        found_XX = self.sensor_XN.index_select(1, channels_BS.flatten())
        found_XBS = found_XX.unflatten(1, (-1, channels_BS.shape[1]))
        return found_XBS[:3], found_XBS[3:12].unflatten(0, (3, 3)), found_XBS[12:]

    def _centre(self, window: Light, uv_2BS: Tensor, middle_B2: Tensor) -> Tensor:
        """Light-weighted u, v [cm] of the photons above the median of the rim; the middle sensor if there are none."""
        photons_BX, keep_BX = central(window.photons_BN, CENTRE_SIDE), central(window.keep_BN, CENTRE_SIDE)
        rim_BX, seen_BX = photons_BX.index_select(1, self.rim_X), keep_BX.index_select(1, self.rim_X)
        weight_BX = (photons_BX - visible_median(rim_BX, seen_BX)).clamp(min=0) * keep_BX
        light_B1 = weight_BX.sum(dim=1, keepdim=True)
        mean_B2 = (weight_BX * central(uv_2BS, CENTRE_SIDE)).sum(dim=2).T / light_B1.clamp(min=1e-3)
        return torch.where(light_B1 > 1e-3, mean_B2, middle_B2)

    def _filled_pmts(self, light: Light) -> Tensor:
        """Photons of the PMTs, where masked the mean of the visible ones around them; 0 if there are none: (B, 668)."""
        photons_BO, keep_BO = light.photons_BN[:, geo.N_SIPM :], light.keep_BN[:, geo.N_SIPM :]
        both_O2B = F.pad(torch.stack([photons_BO, keep_BO]).permute(2, 0, 1), (0, 0, 0, 0, 0, 1))
        around_XO2B = both_O2B.index_select(0, self.ring_X).unflatten(0, (-1, geo.N_PMT))  # rows: found fastest so
        photons_OB, seen_OB = around_XO2B.sum(dim=0).unbind(dim=1)
        filled_BO: Tensor = photons_BO + (1 - keep_BO) * (photons_OB / seen_OB.clamp(min=1)).T
        return filled_BO

    def _facts(
        self,
        window: Light,
        uvw_B3: Tensor,
        middle_B2: Tensor,
        faces_B6: Tensor,
        inner_BP: Tensor,
        weight_BK: Tensor,
    ) -> Tensor:
        photons_BS, keep_BS = window.photons_BN, window.keep_BN
        seen_BR = (keep_BS @ self.nested_RS.T).clamp(min=1)
        nested_BR = (photons_BS.clamp(min=0) @ self.nested_RS.T) / seen_BR
        total_B1 = faces_B6.sum(dim=1, keepdim=True).clamp(min=1)
        inner_B1 = inner_BP.sum(dim=1, keepdim=True)
        return torch.cat(
            [
                uvw_B3[:, :1] / 15,
                uvw_B3[:, 1:2] / 40,
                (uvw_B3[:, :2] - middle_B2) / 1.5,
                uvw_B3[:, 2:].log() - 1.5,
                ((total_B1 + 100).log() - 13) / 2,
                0.5 * (faces_B6.clamp(min=0) / total_B1 + 1e-3).log() + 1.5,
                (nested_BR + 1).log() - (inner_B1 / geo.N_SIPM + 1).log() - 2,
                keep_BS.mean(dim=1, keepdim=True) - 1,
                (weight_BK.sum(dim=1, keepdim=True) + 100).log() - 9,
            ],
            dim=1,
        )

    def _fitted(
        self, window: Patch, start_B3: Tensor, middle_B2: Tensor, total_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The fitted point, and the results of fits of a point source, of order one: (B, FIT_FACTS).

        The point, how it moves with the size of the square, how good the fit is and how much of the light it explains.
        """
        inner = window.central(FIT_SIDE)
        uvw_B3, _ = settled(inner, start_B3, self.fit, smooth=True)
        wide_B3, _ = settled(window.central(WIDE_SIDE), uvw_B3, WIDE_STEPS, smooth=True)
        depth_B1, omega_BS = uvw_B3[:, 2:], solid_angle(window, uvw_B3)
        amplitude_B, background_B, chi2_B = fit_light(inner, central(omega_BS, FIT_SIDE))
        light_B = (4 * math.pi * amplitude_B).clamp(min=1) / total_B
        model_BS = torch.addcmul(background_B[:, None], amplitude_B[:, None], omega_BS).clamp(min=0)
        pull_BS = (window.photons_BS - model_BS) * variance(model_BS, window.used_BS).rsqrt()
        facts_BA = torch.cat(
            [
                (uvw_B3[:, :2] - middle_B2) / 1.5,
                depth_B1.log() - 1,
                ((wide_B3[:, :2] - uvw_B3[:, :2]) / (depth_B1 + 1)).clamp(-3, 3),
                (wide_B3[:, 2:] / depth_B1).log().clamp(-2, 2),
                chi2_B.clamp(1e-2, 1e3).log()[:, None],
                light_B.log().clamp(-4, 4)[:, None],
                (background_B.clamp(min=0) + 1).log()[:, None] - 4,
            ],
            dim=1,
        )
        return uvw_B3, facts_BA, pull_BS


LIGHT_FACTS = 2 + 2 + 1 + 1 + len(geo.FACE_NAMES) + len(RINGS) + 1 + 1
FIT_FACTS = 2 + 1 + 2 + 1 + 3


def facts(fit: int) -> int:
    """A, the length of `Scene.facts_BA`, with so many steps of the fit."""
    return LIGHT_FACTS + (FIT_FACTS if fit else 0)


def distances(place_3BK: Tensor, uvw_B3: Tensor) -> Tensor:
    """From points u, v, w to sensors: (B, K), cm."""
    return (place_3BK - xyz(uvw_B3).T[..., None]).square().sum(dim=0).clamp(min=1e-4).sqrt()


def _rings(side: int) -> np.ndarray:
    """In which ring around the middle of a square a sensor is: (side²,)."""
    distance = np.abs(np.arange(side) - side // 2)
    return np.maximum(distance[:, None], distance).ravel()


def _depth(inner_BP: Tensor, area: float) -> Tensor:
    """Depth [cm] of a point source from the width of its light on the inner face.

    A point at depth w lights a plane as w/(r² + w²)^{3/2}, for which (∫f)²/∫f² = 8πw²; the sums over sensors stand for
    the integrals.

    Args:
        area: of an inner sensor's cell, cm².
    """
    ratio_B = inner_BP.sum(dim=1).square() / inner_BP.square().sum(dim=1).clamp(min=1)
    return (ratio_B * (area / (8 * math.pi))).clamp(min=0.05).sqrt()


def _and_pmts(window_BS: Tensor, values_BN: Tensor) -> Tensor:
    """Values of the window's sensors, then of all PMTs: (B, K)."""
    return torch.cat([window_BS, values_BN[:, geo.N_SIPM :]], dim=1)


def _times(window: Light, light: Light, distance_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Robust mean arrival (B,), and per sensor lateness and weight (B, K)."""
    timed_BK = _and_pmts(window.timed_BN, light.timed_BN)
    arrival_BK = _and_pmts(window.time_BN, light.time_BN) - timed_BK * distance_BK / geo.LIGHT_SPEED_XENON
    weight_BK = timed_BK * _and_pmts(window.photons_BN, light.photons_BN).clamp(min=1)
    inverse_BK = HUBER_NS / (weight_BK / 100).clamp(min=1e-6).sqrt()
    robust_BK = weight_BK
    time_B1 = _weighted(arrival_BK, weight_BK)
    for _ in range(ITERATIONS):
        robust_BK = weight_BK * (inverse_BK / (arrival_BK - time_B1).abs().clamp(min=1e-6)).clamp(max=1)
        time_B1 = _weighted(arrival_BK, robust_BK)
    return time_B1[:, 0], timed_BK * (arrival_BK - time_B1), robust_BK


def _weighted(values_BK: Tensor, weight_BK: Tensor) -> Tensor:
    """Weighted mean (B, 1); 0 without weight."""
    return (values_BK * weight_BK).sum(dim=1, keepdim=True) / weight_BK.sum(dim=1, keepdim=True).clamp(min=1e-3)


def _pmt_rings() -> np.ndarray:
    """The ring of each PMT, numbered from the first PMT on: (668, longest), padded with 668."""
    ring = geo.ring()
    lists = [ring.of(channel) - geo.N_SIPM for channel in range(geo.N_SIPM, geo.N_SENSORS)]
    table = np.full((len(lists), max(map(len, lists))), geo.N_PMT)
    for row, own in zip(table, lists, strict=True):
        row[: len(own)] = own
    return table

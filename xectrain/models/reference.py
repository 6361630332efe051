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
from xectrain.localfit import Patch, PointFit, fit_point, sensor_frames, solid_angle, variance, xyz
from xectrain.models.focus import Light, Spot, Spotter, gathered, visible_median

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
    uvw_B3: Tensor
    """Light-weighted u, v and the depth that the width of the spot tells [cm]."""
    total_B: Tensor
    """Coverage-weighted photon sum, masked sensors filled from their neighbours, at least 1."""
    time_B: Tensor
    """Robust mean of sensor times minus light path [ns]; 0 without any time."""
    late_BK: Tensor
    """How much later than that a sensor is [ns], window first, then all PMTs; 0 without a time."""
    weight_BK: Tensor
    """Its weight in the mean [photons]; 0 without a time."""
    distance_BK: Tensor
    """From the point to the sensor [cm]."""
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

    position_N3: Tensor
    uvw_N3: Tensor
    coverage_N: Tensor
    ring_OK: Tensor
    face_N6: Tensor
    centre_X: Tensor
    rim_X: Tensor
    nested_RS: Tensor
    place_3N: Tensor
    frame_33N: Tensor

    def __init__(self, window: int, geometry: geo.Geometry | None = None, fit: int = 0) -> None:
        super().__init__()
        self.spotter, self.fit = Spotter(window), fit
        self.cell_area = float(geo.cell_area()[0])  # here: compiled code must not look into NumPy's tables
        nowhere = np.zeros((1, 3))
        geometry = geometry or geo.nominal()
        positions = geometry.positions
        distance = np.abs(np.arange(window) - window // 2)
        ring = np.maximum(distance[:, None], distance).ravel()
        half = CENTRE_SIDE // 2
        tables = {
            "position_N3": np.concatenate([positions, nowhere]),
            "uvw_N3": np.concatenate([geo.uvw_from_xyz(positions), nowhere]),
            "coverage_N": geo.cell_area() / geo.sensor_area(),
            "face_N6": np.eye(len(geo.FACE_NAMES))[geo.nominal().face],
            "nested_RS": np.stack([ring <= side // 2 for side in RINGS]),
            "place_3N": np.concatenate([positions, nowhere]).T,
            "frame_33N": np.concatenate([sensor_frames(geometry), np.eye(3)[..., None]], axis=2),
        }
        indices = {
            "ring_OK": _pmt_rings(),
            "centre_X": np.flatnonzero(ring <= half),
            "rim_X": np.flatnonzero(ring == half),
            **{f"square{side}_X": np.flatnonzero(ring <= side // 2) for side in (FIT_SIDE, WIDE_SIDE)},
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table.astype(np.float32)), persistent=False)
        for name, index in indices.items():
            self.register_buffer(name, torch.from_numpy(index.astype(np.int64)), persistent=False)

    def forward(self, light: Light) -> Scene:
        """The window, the point that the light shows, and what it says about it, for each event."""
        spot = self.spotter(light)
        photons_BS, keep_BS = (gathered(v, spot.channels_BS) for v in (light.photons_BN, light.keep_BN))
        uv_B2 = self._centre(spot, photons_BS, keep_BS)
        filled_BN = self._filled(light, spot)
        inner_BP = filled_BN[:, : geo.N_SIPM].clamp(min=0)
        uvw_B3 = torch.cat([uv_B2, _depth(inner_BP, self.cell_area)[:, None]], dim=1)
        faces_B6 = (filled_BN * self.coverage_N) @ self.face_N6
        total_B = faces_B6.sum(dim=1).clamp(min=1)
        time_B, late_BK, weight_BK, distance_BK = self._times(light, spot, uvw_B3)
        facts_BA = self._facts(spot, uvw_B3, faces_B6, inner_BP, photons_BS, keep_BS, weight_BK)
        point_B3, pull_BS = uvw_B3, None
        if self.fit:
            point_B3, fit_BA, pull_BS = self._fitted(spot, uvw_B3, total_B, photons_BS, keep_BS)
            facts_BA = torch.cat([facts_BA, fit_BA], dim=1)
        return Scene(light, spot, uvw_B3, total_B, time_B, late_BK, weight_BK, distance_BK, facts_BA, point_B3, pull_BS)

    def _centre(self, spot: Spot, photons_BS: Tensor, keep_BS: Tensor) -> Tensor:
        """Light-weighted u, v [cm] of the photons above the median of the rim; the middle sensor if there are none."""
        rim_BX, seen_BX = photons_BS[:, self.rim_X], keep_BS[:, self.rim_X]
        background_B1 = visible_median(rim_BX, seen_BX)
        weight_BX = (photons_BS - background_B1)[:, self.centre_X].clamp(min=0) * keep_BS[:, self.centre_X]
        place_BX2 = self.uvw_N3[spot.channels_BS[:, self.centre_X]][..., :2]
        middle_B2 = self.uvw_N3[spot.centre_B][:, :2]
        light_B1 = weight_BX.sum(dim=1, keepdim=True)
        mean_B2 = (weight_BX[..., None] * place_BX2).sum(dim=1) / light_B1.clamp(min=1e-3)
        return torch.where(light_B1 > 1e-3, mean_B2, middle_B2)

    def _filled(self, light: Light, spot: Spot) -> Tensor:
        """Photons with masked sensors replaced by the mean of the visible ones around them; 0 if there are none."""
        around_BI = spot.smooth_BHW.flatten(1)
        photons_BO, keep_BO = (
            F.pad(v[:, geo.N_SIPM :], (0, 1))[:, self.ring_OK] for v in (light.photons_BN, light.keep_BN)
        )
        around_BO = photons_BO.sum(dim=-1) / keep_BO.sum(dim=-1).clamp(min=1)
        around_BN = torch.cat([around_BI, around_BO], dim=1)
        return light.photons_BN + (1 - light.keep_BN) * around_BN

    def _times(self, light: Light, spot: Spot, uvw_B3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Robust mean arrival (B,), and per sensor lateness, weight and distance (B, K)."""

        def used(values_BN: Tensor) -> Tensor:
            return torch.cat([gathered(values_BN, spot.channels_BS), values_BN[:, geo.N_SIPM :]], dim=1)

        timed_BK, photons_BK = used(light.timed_BN), used(light.photons_BN)
        distance_BK = self.distances(spot, uvw_B3)
        arrival_BK = used(light.time_BN) - timed_BK * distance_BK / geo.LIGHT_SPEED_XENON
        weight_BK = timed_BK * photons_BK.clamp(min=1)
        inverse_BK = HUBER_NS / (weight_BK / 100).clamp(min=1e-6).sqrt()
        robust_BK = weight_BK
        time_B1 = _weighted(arrival_BK, weight_BK)
        for _ in range(ITERATIONS):
            robust_BK = weight_BK * (inverse_BK / (arrival_BK - time_B1).abs().clamp(min=1e-6)).clamp(max=1)
            time_B1 = _weighted(arrival_BK, robust_BK)
        return time_B1[:, 0], timed_BK * (arrival_BK - time_B1), robust_BK, distance_BK

    def distances(self, spot: Spot, uvw_B3: Tensor) -> Tensor:
        """From a point to the sensors of the window and to all PMTs: (B, K), cm."""
        point_B13 = xyz(uvw_B3)[:, None]
        window_BS3 = self.position_N3[spot.channels_BS]
        pmts_BO3 = self.position_N3[geo.N_SIPM : -1].expand(window_BS3.shape[0], -1, -1)
        offset_BK3 = torch.cat([window_BS3, pmts_BO3], dim=1) - point_B13
        return offset_BK3.square().sum(dim=-1).clamp(min=1e-4).sqrt()

    def _facts(
        self,
        spot: Spot,
        uvw_B3: Tensor,
        faces_B6: Tensor,
        inner_BP: Tensor,
        photons_BS: Tensor,
        keep_BS: Tensor,
        weight_BK: Tensor,
    ) -> Tensor:
        middle_B2 = self.uvw_N3[spot.centre_B][:, :2]
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
        self, spot: Spot, start_B3: Tensor, total_B: Tensor, photons_BS: Tensor, keep_BS: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The fitted point, and the results of fits of a point source, of order one: (B, FIT_FACTS).

        The point, how it moves with the size of the square, how good the fit is and how much of the light it explains.
        """

        place_3BS, frame_33BS = self.place_3N[:, spot.channels_BS], self.frame_33N[:, :, spot.channels_BS]
        window = Patch(place_3BS, frame_33BS, photons_BS, keep_BS)

        def fit(side: int, start_B3: Tensor, steps: int) -> PointFit:
            square = window.among(self.get_buffer(f"square{side}_X"))
            return fit_point(square, start_B3, steps, smooth=True)

        point = fit(FIT_SIDE, start_B3, self.fit)
        uvw_B3 = point.uvw_B3
        depth_B1 = uvw_B3[:, 2:]
        wide_B3 = fit(WIDE_SIDE, uvw_B3, WIDE_STEPS).uvw_B3
        light_B = (4 * math.pi * point.amplitude_B).clamp(min=1) / total_B
        omega_BS = solid_angle(window, uvw_B3)
        model_BS = (point.amplitude_B[:, None] * omega_BS + point.background_B[:, None]).clamp(min=0)
        pull_BS = keep_BS * (photons_BS - model_BS) * variance(model_BS).rsqrt()
        facts_BA = torch.cat(
            [
                (uvw_B3[:, :2] - self.uvw_N3[spot.centre_B][:, :2]) / 1.5,
                depth_B1.log() - 1,
                ((wide_B3[:, :2] - uvw_B3[:, :2]) / (depth_B1 + 1)).clamp(-3, 3),
                (wide_B3[:, 2:] / depth_B1).log().clamp(-2, 2),
                point.chi2_B.clamp(1e-2, 1e3).log()[:, None],
                light_B.log().clamp(-4, 4)[:, None],
                (point.background_B.clamp(min=0) + 1).log()[:, None] - 4,
            ],
            dim=1,
        )
        return uvw_B3, facts_BA, pull_BS


LIGHT_FACTS = 2 + 2 + 1 + 1 + len(geo.FACE_NAMES) + len(RINGS) + 1 + 1
FIT_FACTS = 2 + 1 + 2 + 1 + 3


def facts(fit: int) -> int:
    """A, the length of `Scene.facts_BA`, with so many steps of the fit."""
    return LIGHT_FACTS + (FIT_FACTS if fit else 0)


def _depth(inner_BP: Tensor, area: float) -> Tensor:
    """Depth [cm] of a point source from the width of its light on the inner face.

    A point at depth w lights a plane as w/(r² + w²)^{3/2}, for which (∫f)²/∫f² = 8πw²; the sums over sensors stand for
    the integrals.

    Args:
        area: of an inner sensor's cell, cm².
    """
    ratio_B = inner_BP.sum(dim=1).square() / inner_BP.square().sum(dim=1).clamp(min=1)
    return (ratio_B * (area / (8 * math.pi))).clamp(min=0.05).sqrt()


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

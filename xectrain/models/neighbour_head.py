"""The inpainter's head that weighs neighbours: classical at the start, better with every step.

Each masked sensor is compared with its nearest sensors on the face. What a neighbour saw becomes what it makes one
expect here: its photons times the ratio of the solid angles seen from where the light comes from, or its photons as
they are; its time less its light path plus one's own. A small network (one for SiPMs, one for PMTs, each for photons
and for times) reads how these expectations differ, where the light is and what the encoder thinks, and answers with the
weights of a mean and a correction to it. Untrained, the mean is the classical filling's.

Shape suffixes: see `xectrain.models.blocks`; here M masked sensors of a kind in a whole batch, K their nearest sensors,
J candidates of a mean, Y features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization
from xectrain.config.networks import Channel, ModelConfig
from xectrain.models.blocks import full_precision, init_linear
from xectrain.models.faces import TokenInfo
from xectrain.models.focus import read_light
from xectrain.models.reference import LightReference, Scene, facts
from xectrain.models.sensors import FaceTokens, part_names
from xectrain.patch import xyz

WINDOW, FIT_STEPS = 15, 5
"""Of the scene, where the encoder has no focus and looks at none."""
SCATTERED = 2e-4
"""Solid angle [sr] added to every sensor's: light also comes from elsewhere than the point."""
DARK = 30.0
"""Photons below which differences are noise: added before a logarithm is taken."""
LEAST = 2.0
"""Photons that the correction multiplies where the neighbours see nothing: no filling is negative."""
LARGEST = 3.0
"""Bound of logarithms of ratios, in and out."""
RING_WEIGHT, PLAIN_WEIGHT, EVENT_WEIGHT, AWAY = 4.0, -2.0, -6.0, -1e4
"""Logits at the start: of the nearest ring, of photons that are not corrected for the solid angle, of what the whole
event makes one expect, and of masked neighbours."""
TIME_NS = 3.0
"""Differences of times are given and answered in this unit."""


@dataclass(frozen=True)
class Surroundings:
    """What is known around the masked sensors of a kind."""

    event_M: Tensor
    sensor_M: Tensor
    photons_MJ: Tensor
    """Photons that each neighbour makes one expect: by solid angle, then as they are, and last the whole event's light
    (J = 2K + 1)."""
    start_MJ: Tensor
    """Logits of their weights before anything is learned."""
    arrival_MJ: Tensor
    """ns, likewise: of each neighbour, and last of the whole event (J = K + 1)."""
    timed_MJ: Tensor
    """Logits, likewise."""
    features_MY: Tensor


class Answers(nn.Sequential):
    """Features → logits and a correction."""

    def __init__(self, width: int, hidden: int, count: int) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, count)
        )

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the answers."""
        layer = self[-1]
        assert isinstance(layer, nn.Linear)
        return layer


class NeighbourHead(nn.Module):
    """Values of masked sensors from weighted means over their neighbours.

    Args:
        config: the sections `encoder` and `inpainter` are used.
        channels: what to predict, npho before time.
        tokens: of the encoder.
    """

    face_N: Tensor

    def __init__(
        self,
        config: ModelConfig,
        channels: tuple[Channel, ...],
        normalization: Normalization,
        tokens: list[TokenInfo],
        geometry: geo.Geometry | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.normalization = channels, normalization
        self.scene = None if config.encoder.focus else LightReference(WINDOW, geometry, FIT_STEPS)
        names = part_names(config.encoder)
        self.parts = [part for part in names if part != "outer_centre"]  # in the order of the faces' codes
        self.face_tokens = FaceTokens(tokens)
        k, hidden = config.inpainter.neighbours, config.inpainter.hidden
        told = facts(config.encoder.focus_fit if config.encoder.focus else FIT_STEPS)
        width = 6 * k + 9 + len(self.parts) + told + hidden
        self.tell = nn.Linear(2 * config.encoder.width, hidden)
        answers = {"npho": 2 * k + 2, "time": k + 2}
        self.networks = nn.ModuleDict(
            {
                f"{kind}_{channel}": Answers(width, hidden, answers[channel])
                for kind in ("sipm", "pmt")
                for channel in channels
            }
        )
        init_linear(self)
        for last in self.last_layers():
            nn.init.zeros_(last.weight)
        self._tables(k, geometry or geo.nominal())

    def _tables(self, k: int, geometry: geo.Geometry) -> None:
        nearest = geo.nearest(k).astype(np.int64)
        ring = geo.ring()
        in_ring = np.stack([np.isin(nearest[s], ring.of(s)) for s in range(geo.N_SENSORS)])
        offset = geometry.positions[nearest] - geometry.positions[:, None]
        first, second = geometry.tangents
        plane = np.stack([(offset * axis[:, None]).sum(axis=2) for axis in (first, second)], axis=2)
        pitch = np.linalg.norm(plane[:, :1], axis=2, keepdims=True).clip(min=0.1)
        tables = {
            "position_N3": geometry.positions,
            "normal_N3": geometry.normals,
            "radius2_N": np.asarray(geo.sensor_area()) / math.pi,
            "offset_NKx2": (plane / pitch / 3).reshape(geo.N_SENSORS, 2 * k),
            "ring_NK": RING_WEIGHT * in_ring,
            "face_N6": np.eye(len(geo.FACE_NAMES))[geo.nominal_faces()],
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32), persistent=False)
        self.register_buffer("nearest_NK", torch.tensor(nearest), persistent=False)
        faces = torch.from_numpy(geo.nominal_faces().astype(np.int64))
        self.register_buffer("face_N", faces, persistent=False)

    def forward(self, x_BN2: Tensor, mask_BN: Tensor, scene: Scene | None, tokens_BTD: Tensor) -> Tensor:
        """float32 (B, N, X), normalized; 0 at sensors that are not masked.

        Args:
            scene: of the encoder; None if it has none.
        """
        with full_precision(x_BN2):
            if scene is None:
                assert self.scene is not None
                scene = self.scene(read_light(x_BN2, mask_BN, self.normalization))
            told_BFH = self._told(tokens_BTD)
            values_BNX = x_BN2.new_zeros(*mask_BN.shape, len(self.channels), dtype=torch.float32)
            for kind, sensors in (("sipm", slice(0, geo.N_SIPM)), ("pmt", slice(geo.N_SIPM, geo.N_SENSORS))):
                around = self._surroundings(scene, mask_BN, sensors, told_BFH)
                found = [self._value(kind, channel, around) for channel in self.channels]
                values_BNX = values_BNX.index_put((around.event_M, around.sensor_M), torch.stack(found, dim=1))
        return values_BNX

    def last_layers(self) -> list[nn.Linear]:
        """The layers that give values."""
        return [network.last for network in self.networks.values() if isinstance(network, Answers)]

    def _told(self, tokens_BTD: Tensor) -> Tensor:
        """What the encoder says of each face and of the event: (B, faces, H)."""
        mean_BD = tokens_BTD.float().mean(dim=1)
        faces = [torch.cat([self.face_tokens(tokens_BTD, part).float(), mean_BD], dim=1) for part in self.parts]
        told_BFH: Tensor = F.gelu(self.tell(torch.stack(faces, dim=1)))
        return told_BFH

    def _value(self, kind: str, channel: Channel, around: Surroundings) -> Tensor:
        """(M,), normalized."""
        answer_MJ = self.networks[f"{kind}_{channel}"](around.features_MY)
        value_M: Tensor
        if channel == "npho":
            share_MJ = (around.start_MJ + answer_MJ[:, :-1]).softmax(dim=1)
            mean_M = (share_MJ * around.photons_MJ).sum(dim=1).clamp(min=0)
            photons_M = (mean_M + LEAST) * answer_MJ[:, -1].clamp(-LARGEST, LARGEST).exp()
            value_M = self.normalization.forward_npho(photons_M)
        else:
            share_MJ = (around.timed_MJ + answer_MJ[:, :-1]).softmax(dim=1)
            arrival_M = (share_MJ * around.arrival_MJ).sum(dim=1) + TIME_NS * answer_MJ[:, -1]
            value_M = self.normalization.forward_time(1e-9 * arrival_M)
        return value_M

    def _surroundings(self, scene: Scene, mask_BN: Tensor, sensors: slice, told_BFH: Tensor) -> Surroundings:
        light = scene.light
        event_M, sensor_M = mask_BN[:, sensors].nonzero(as_tuple=True)
        sensor_M = sensor_M + sensors.start
        near_MK, row_M1 = self.get_buffer("nearest_NK")[sensor_M], event_M[:, None]
        point_M13 = xyz(scene.point_B3)[event_M][:, None]
        omega_M1, path_M1, height_M1 = self._seen(point_M13, sensor_M[:, None])
        omega_MK, path_MK, _ = self._seen(point_M13, near_MK)
        seen_MK, timed_MK = light.keep_BN[row_M1, near_MK], light.timed_BN[row_M1, near_MK]
        plain_MK = light.photons_BN[row_M1, near_MK]
        ratio_MK, ring_MK = omega_M1 / omega_MK, self.get_buffer("ring_NK")[sensor_M]
        event_M1 = scene.total_B[event_M][:, None] * omega_M1 / (4 * math.pi)
        photons_MJ = torch.cat([plain_MK * ratio_MK, plain_MK, event_M1], dim=1)
        away_MK = AWAY * (1 - seen_MK)
        by_angle_MK = ring_MK - ratio_MK.log().clamp(-LARGEST, LARGEST) + away_MK
        plain_MJ = torch.full_like(plain_MK, PLAIN_WEIGHT) + away_MK
        start_MJ = torch.cat([by_angle_MK, plain_MJ, torch.full_like(event_M1, EVENT_WEIGHT)], dim=1)
        usual_M1 = (start_MJ.softmax(dim=1) * photons_MJ).sum(dim=1, keepdim=True)
        late_M1 = scene.time_B[event_M][:, None] + path_M1
        arrival_MK = torch.where(timed_MK > 0, light.time_BN[row_M1, near_MK] + path_M1 - path_MK, late_M1)
        timed_MJ = plain_MK.clamp(min=1).log() + ring_MK / RING_WEIGHT + AWAY * (1 - timed_MK)
        level_M1 = _level(usual_M1)
        position_M3 = self.get_buffer("position_N3")[sensor_M]
        face_M = self.face_N[sensor_M]
        features_MY = torch.cat(
            [
                (_level(photons_MJ) - level_M1).clamp(-LARGEST, LARGEST) * (start_MJ > AWAY / 2).float(),
                seen_MK,
                ((arrival_MK - late_M1) / TIME_NS).tanh() * timed_MK,
                self.get_buffer("offset_NKx2")[sensor_M],
                level_M1 - 5,
                omega_M1.log() / 2 + 2,
                path_M1 / 3,
                height_M1.clamp(-60, 60) / 30,
                (position_M3 - point_M13[:, 0]) / 30,
                position_M3[:, 2:] / 50,
                self.get_buffer("face_N6")[sensor_M],
                scene.facts_BA[event_M],
                told_BFH[event_M, face_M],
            ],
            dim=1,
        )
        arrival_MJ = torch.cat([arrival_MK, late_M1], dim=1)
        timed_MJ = torch.cat([timed_MJ, torch.zeros_like(late_M1)], dim=1)
        return Surroundings(event_M, sensor_M, photons_MJ, start_MJ, arrival_MJ, timed_MJ, features_MY)

    def _seen(self, point_M13: Tensor, sensor_MK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Solid angle of sensors, discs of their area, seen from a point [sr]; light path [ns]; height [cm] above
        them: (M, K) each."""
        offset_MK3 = point_M13 - self.get_buffer("position_N3")[sensor_MK]
        distance2_MK = offset_MK3.square().sum(dim=-1).clamp(min=0.05)
        height_MK = (offset_MK3 * self.get_buffer("normal_N3")[sensor_MK]).sum(dim=-1)
        distance_MK = distance2_MK.sqrt()
        ratio_MK = self.get_buffer("radius2_N")[sensor_MK] / distance2_MK
        share_MK = ratio_MK / (1 + ratio_MK + (1 + ratio_MK).sqrt())  # 1 − 1/√(1 + ratio), without its rounding
        omega_MK = 2 * math.pi * share_MK * (height_MK / distance_MK).clamp(min=0) + SCATTERED
        return omega_MK, distance_MK / geo.LIGHT_SPEED_XENON, height_MK


def _level(photons: Tensor) -> Tensor:
    """Photons on a logarithmic scale on which noise is small."""
    return (photons.clamp(min=-DARK / 2) + DARK).log()

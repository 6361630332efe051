"""A patch of sensors, and the solid angles at which points see them.

Shape suffixes: B events, S sensors of a patch, 3 coordinates (of the detector, of a sensor's frame, or u, v, w), E the
two edges of a sensor along an axis, 5 planes of a sensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards import geometry as geo


@dataclass(frozen=True)
class Patch:
    """Sensors that a point is fitted to."""

    position_3BS: Tensor
    """Centres [cm]."""
    frame_33BS: Tensor
    """Unit vectors along the sensor's edges and along its normal: which vector, which coordinate."""
    photons_BS: Tensor
    """Photons; what stands at unused sensors does not matter if it is finite."""
    used_BS: Tensor
    """1 where a sensor is used, otherwise 0; same type as the photons."""

    def of(self, rows: Tensor) -> Patch:
        """The patches of some events."""
        return Patch(*(getattr(self, name)[..., rows, :] for name in self.__dataclass_fields__))

    def central(self, side: int) -> Patch:
        """The middle of square patches."""
        return Patch(*(central(getattr(self, name), side) for name in self.__dataclass_fields__))


def central(values: Tensor, side: int) -> Tensor:
    """Values (…, side²) of the middle of a square (…, S) of sensors; all of them if it is no larger."""
    whole = math.isqrt(values.shape[-1])
    first = max(0, (whole - side) // 2)
    inside = slice(first, whole - first)
    square: Tensor = values.unflatten(-1, (whole, whole))
    return square[..., inside, inside].flatten(-2)


def sensor_frames(geometry: geo.Geometry) -> npt.NDArray[np.float64]:
    """Edges and normal of every sensor, as in `Patch.frame_33BS`: float64 (3, 3, 4760)."""
    return np.stack([vectors.T for vectors in (*geometry.tangents, geometry.normals)])


class _Planes:
    """How far a point is from five planes of every sensor: upright ones through its edges, and its own."""

    def __init__(self, distance_5BS: Tensor) -> None:
        self.edges_2EBS, self.height_BS = distance_5BS[:4].unflatten(0, (2, 2)), distance_5BS[4].clamp(min=1e-3)
        squares_2EBS = self.edges_2EBS.square()
        self.across_2EBS = torch.addcmul(squares_2EBS, self.height_BS, self.height_BS)
        p_EBS, q_EBS = self.edges_2EBS.unbind()
        self.p_E1BS = p_EBS[:, None]
        self.inverse_EEBS = (self.across_2EBS[0][:, None] + squares_2EBS[1]).rsqrt()  # 1 / distance of the corners
        self.q_inverse_EEBS = self.inverse_EEBS * q_EBS

    def solid_angle(self) -> Tensor:
        """(B, S): the sum over the corners of arctan(pq / (h·√(p² + q² + h²))).

        `atan2` takes half as long on a CPU, but rounds a batch's last values otherwise: points would depend on the
        events beside them.
        """
        omega_BS: Tensor = (self.p_E1BS * self.q_inverse_EEBS / self.height_BS).atan().sum(dim=(0, 1))
        return omega_BS

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """By ways of the point along both edges, and towards the sensor, (B, S) each.

        The third follows from the others by Euler's theorem: an angle does not change if all lengths do alike.
        """
        sums = self.q_inverse_EEBS.sum(dim=1), (self.p_E1BS * self.inverse_EEBS).sum(dim=0)
        by_2EBS = self.height_BS / self.across_2EBS * torch.stack(sums)
        low_2BS, high_2BS = by_2EBS.unbind(dim=1)
        by_x_BS, by_y_BS = (high_2BS - low_2BS).unbind()
        return by_x_BS, by_y_BS, (self.edges_2EBS * by_2EBS).sum(dim=(0, 1)) / self.height_BS


class View:
    """The sensors of a patch, to be seen from points u, v, w (3, B, 1) [cm]."""

    def __init__(self, patch: Patch) -> None:
        self.frame_33BS = patch.frame_33BS
        edges_23BS = patch.frame_33BS[:2]
        edges_43BS = torch.stack((-edges_23BS, edges_23BS), dim=1).flatten(0, 1)
        planes_53BS = torch.cat((edges_43BS, patch.frame_33BS[2:]))
        self.planes = planes_53BS.unbind(dim=1)
        own_5BS = (planes_53BS * patch.position_3BS).sum(dim=1)
        self.offset_5BS = torch.cat((geo.SIPM_SQUARE_HALF_SIDE - own_5BS[:4], -own_5BS[4:]))

    def solid_angle(self, point_3B1: Tensor) -> Tensor:
        """(B, S) [sr]."""
        return self._planes(*_cylinder(point_3B1)).solid_angle()

    def solid_angle_and_slopes(self, point_3B1: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Solid angles (B, S) [sr], and their derivatives by u, v, w, (B, S) each [sr/cm]."""
        u_B1, r_B1, cosine_B1, sine_B1 = _cylinder(point_3B1)
        planes = self._planes(u_B1, r_B1, cosine_B1, sine_B1)
        (along_BS, across_BS, towards_BS), (along_3BS, across_3BS, normal_3BS) = planes.slopes(), self.frame_33BS
        in_plane_3BS = torch.addcmul(along_BS * along_3BS, across_BS, across_3BS)
        x_BS, y_BS, z_BS = less(in_plane_3BS, towards_BS, normal_3BS).unbind()
        wider_B1 = r_B1 / geo.R_INNER
        by_v_BS = torch.addcmul(wider_B1 * sine_B1 * x_BS, wider_B1 * cosine_B1, y_BS)
        by_w_BS = less(sine_B1 * y_BS, cosine_B1, x_BS)
        return planes.solid_angle(), (z_BS, by_v_BS, by_w_BS)

    def _planes(self, u_B1: Tensor, r_B1: Tensor, cosine_B1: Tensor, sine_B1: Tensor) -> _Planes:
        x_5BS, y_5BS, z_5BS = self.planes
        distance_5BS = less(self.offset_5BS, r_B1 * cosine_B1, x_5BS)
        distance_5BS = torch.addcmul(distance_5BS, r_B1 * sine_B1, y_5BS)
        return _Planes(torch.addcmul(distance_5BS, u_B1, z_5BS))


def less(value: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """value − one·other."""
    return torch.addcmul(value, one, other, value=-1)


def solid_angle(patch: Patch, uvw_B3: Tensor) -> Tensor:
    """Solid angles (B, S) [sr] of the patch's sensors from points u, v, w [cm]."""
    return View(patch).solid_angle(uvw_B3.T[..., None])


def _cylinder(point_3B1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Height along the axis and radius [cm], cosine and sine of the azimuth, of points u, v, w."""
    u, v, w = point_3B1.unbind()
    phi = v / geo.R_INNER
    return u, w + geo.R_INNER, phi.cos(), phi.sin()


def xyz(uvw_B3: Tensor) -> Tensor:
    """Cartesian coordinates [cm] of points u, v, w, as `geo.xyz_from_uvw`."""
    u_B, r_B, cosine_B, sine_B = _cylinder(uvw_B3.T)
    return torch.stack((-r_B * cosine_B, r_B * sine_B, u_B), dim=1)

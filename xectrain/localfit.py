"""A point source fitted to a patch of sensors: one implementation for the classical method and for the networks.

Model: photons of sensor k = A·Ω_k(u, v, w) + B, with Ω the solid angle of a square SiPM. A (the light) and B (scattered
light, locally constant) are profiled analytically (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10
(1973) 413, with Kaufman's Jacobian), so three parameters are left for a damped Gauss-Newton iteration that runs on all
events of a batch at once. Everything is a tensor operation of fixed shape, in the precision of what is given, and a
fixed number of steps, so that it is exported and compiled with a network.

Shape suffixes: B events, S sensors of a patch, 3 coordinates (of the detector, of a sensor's frame, or u, v, w), E the
two edges of a sensor along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards import geometry as geo

STATISTICS = 11.0
"""Variance of a sensor's photon number per photon: excess-noise factor over detection efficiency."""
NOISE = 70.0
"""Variance without light [photons²]: one photoelectron of noise over the efficiency, squared."""
CALIBRATION = 0.03
"""Relative uncertainty of a channel's efficiency."""
DEPTH_RANGE = (0.02, 41.0)
"""Of w [cm]."""
LONGEST_STEP = 3.0
"""Of a parameter [cm]; a depth at most triples."""
FIRST_DAMPING = 1e-2
"""Of the normal equations, relative to their diagonal; it follows the steps' success."""
SMOOTH_DAMPING = 0.1
"""Of the smooth variant, always."""
TOLERATED = (0.05, 2.0)
"""Change of χ², relative and absolute, over which the smooth variant goes from half a step to a whole or to none."""
PARAMETERS = 5


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


@dataclass(frozen=True)
class PointFit:
    """The fitted points."""

    uvw_B3: Tensor
    """cm. Without a correction its depth is biased by centimetres: a shower is not a point."""
    amplitude_B: Tensor
    """A [photons/sr]."""
    background_B: Tensor
    """B [photons]."""
    chi2_B: Tensor
    """Per degree of freedom."""
    moved_B: Tensor
    """Largest change of a coordinate in the last step [cm], accepted or not."""


def sensor_frames(geometry: geo.Geometry) -> npt.NDArray[np.float64]:
    """Edges and normal of every sensor, as in `Patch.frame_33BS`: float64 (3, 3, 4760)."""
    return np.stack([vectors.T for vectors in (*geometry.tangents, geometry.normals)])


def fit_point(patch: Patch, start_B3: Tensor, steps: int, smooth: bool = False) -> PointFit:
    """Fit by Levenberg and Marquardt's method; weights follow the model.

    Args:
        start_B3: u, v, w to start from [cm].
        steps: how many; an event without light stays where it starts.
        smooth: make the result a continuous function of the photons, which a few steps of "accept or reject" are not:
            deep points lie in valleys so flat that rounding decides, and two runtimes would disagree by millimetres.
            Steps are damped alike and taken in part; rest is reached more slowly.
    """
    point_B3 = torch.cat([start_B3[:, :2], start_B3[:, 2:].clamp(*DEPTH_RANGE)], dim=1)
    first = _Line(patch.photons_BS, patch.used_BS / variance(patch.photons_BS))
    damping_B = torch.full_like(point_B3[:, 0], SMOOTH_DAMPING if smooth else FIRST_DAMPING)
    moved_B = torch.zeros_like(damping_B)
    for _ in range(steps):
        omega_BS, slope_3BS = solid_angle_and_slopes(patch, point_B3)
        line = _Line(patch.photons_BS, _weights(patch, first, omega_BS))
        step_B3, before_B = _step(line, omega_BS, slope_3BS, damping_B)
        trial_B3 = _moved(point_B3, step_B3)
        after_B = line.chi2(line.fit(solid_angle(patch, trial_B3))[2])
        if smooth:
            gain_B = (before_B - after_B) / (TOLERATED[0] * before_B + TOLERATED[1])
            share_B = (0.5 + gain_B).clamp(0, 1)
        else:
            share_B = (after_B <= before_B).to(before_B.dtype)
            damping_B = torch.where(share_B > 0, damping_B / 5, damping_B * 8)
        change_B3 = trial_B3 - point_B3
        moved_B = change_B3.abs().amax(dim=1)
        point_B3 = point_B3 + share_B[:, None] * change_B3
    omega_BS = solid_angle(patch, point_B3)
    line = _Line(patch.photons_BS, _weights(patch, first, omega_BS))
    amplitude_B1, background_B1, residual_BS = line.fit(omega_BS)
    freedom_B = (patch.used_BS.sum(dim=1) - PARAMETERS).clamp(min=1)
    return PointFit(point_B3, amplitude_B1[:, 0], background_B1[:, 0], line.chi2(residual_BS) / freedom_B, moved_B)


def variance(photons: Tensor) -> Tensor:
    """Variance of a sensor's photon number [photons²] at an expected number of photons."""
    return STATISTICS * photons.clamp(min=0) + NOISE + (CALIBRATION * photons).square()


def profile(photons_BS: Tensor, omega_BS: Tensor, weight_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best A and B (B, 1) for given solid angles, and the residuals photons − model (B, S)."""
    return _Line(photons_BS, weight_BS).fit(omega_BS)


class _Line:
    """The straight line photons = A·Ω + B for given weights; everything is taken from its weighted mean first."""

    def __init__(self, photons_BS: Tensor, weight_BS: Tensor) -> None:
        self.weight_BS = weight_BS
        self.total_B1 = _sum(weight_BS).clamp(min=1e-12)
        self.mean_B1 = self.mean(photons_BS)
        self.photons_BS = photons_BS - self.mean_B1

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the sensors, (…, B, 1)."""
        return _sum(self.weight_BS * values) / self.total_B1

    def centred(self, values: Tensor) -> Tensor:
        """Values (…, B, S) minus their weighted mean."""
        return values - self.mean(values)

    def slopes(self, do_BS: Tensor, values: Tensor) -> Tensor:
        """Slopes (…, B, 1) of values by the centred solid angles."""
        weighted_BS = self.weight_BS * do_BS
        return _sum(weighted_BS * values) / _sum(weighted_BS * do_BS).clamp(min=1e-20)

    def fit(self, omega_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best A and B (B, 1), and the residuals photons − model (B, S)."""
        omega_B1 = self.mean(omega_BS)
        do_BS = omega_BS - omega_B1
        amplitude_B1 = self.slopes(do_BS, self.photons_BS)
        return amplitude_B1, self.mean_B1 - amplitude_B1 * omega_B1, self.photons_BS - amplitude_B1 * do_BS

    def chi2(self, residual_BS: Tensor) -> Tensor:
        """χ² (B,) of residuals."""
        return (self.weight_BS * residual_BS.square()).sum(dim=1)


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=-1, keepdim=True)


def _weights(patch: Patch, first: _Line, omega_BS: Tensor) -> Tensor:
    """Inverse variances from the model's photons: from the data's, as in `first`, they would favour downward
    fluctuations."""
    do_BS = first.centred(omega_BS)
    model_BS = first.slopes(do_BS, first.photons_BS) * do_BS + first.mean_B1
    return patch.used_BS / variance(model_BS.clamp(min=0))


def _moved(point_B3: Tensor, step_B3: Tensor) -> Tensor:
    trial_B3 = point_B3 + step_B3.clamp(-LONGEST_STEP, LONGEST_STEP)
    depth_B1 = torch.maximum(trial_B3[:, 2:], point_B3[:, 2:] / 3)
    depth_B1 = torch.minimum(depth_B1, 3 * point_B3[:, 2:] + 0.05).clamp(*DEPTH_RANGE)
    return torch.cat([trial_B3[:, :2], depth_B1], dim=1)


def _step(line: _Line, omega_BS: Tensor, slope_3BS: Tensor, damping_B: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Newton step (B, 3), the Jacobian A·∂Ω taken orthogonal to the profiled A and B, and χ² (B,) before it."""
    do_BS, slope_3BS = line.centred(omega_BS), line.centred(slope_3BS)
    rows_4BS = torch.cat((line.photons_BS[None], slope_3BS))
    slopes_4B1 = line.slopes(do_BS, rows_4BS)
    left_4BS = rows_4BS - slopes_4B1 * do_BS
    products_44B = ((line.weight_BS * left_4BS)[:, None] * left_4BS).sum(dim=-1)
    amplitude_B = slopes_4B1[0, :, 0]
    step_B3 = _solved(products_44B[1:, 1:] * amplitude_B.square(), products_44B[0, 1:] * amplitude_B, damping_B)
    return step_B3, products_44B[0, 0]


def _solved(normal_33B: Tensor, gradient_3B: Tensor, damping_B: Tensor) -> Tensor:
    """(N + damping·diag N)⁻¹ g, (B, 3), by Cramer's rule on the matrix scaled to a unit diagonal: no solver to be
    exported."""
    diagonal_3B = torch.stack([normal_33B[k, k] for k in range(3)])  # the compiler fails at `diagonal`
    damped_3B = (diagonal_3B * (1 + damping_B) + 1e-7 * diagonal_3B.amax(dim=0)).clamp(min=1e-12)
    scale_3B = damped_3B.rsqrt()
    scaled_33B = normal_33B * scale_3B * scale_3B[:, None]
    a_3B = torch.stack((scaled_33B[1, 2], scaled_33B[2, 0], scaled_33B[0, 1]))  # opposite to the row that each lacks
    x_3B = gradient_3B * scale_3B
    square_3B, product_3B = a_3B.square(), a_3B * x_3B
    determinant_B = (1 + 2 * a_3B.prod(dim=0) - square_3B.sum(dim=0)).clamp(min=1e-6)
    others_3B = a_3B * (product_3B.sum(dim=0) - product_3B)
    crossed_3B = a_3B.roll(1, 0) * x_3B.roll(-1, 0) + a_3B.roll(-1, 0) * x_3B.roll(1, 0)
    return (((1 - square_3B) * x_3B + others_3B - crossed_3B) / determinant_B * scale_3B).T


@dataclass(frozen=True)
class _Edges:
    """How far a sensor's edges are from the foot of a point, along both axes and towards the sensor's middle, and the
    point's height above them."""

    p_E1BS: Tensor
    q_EBS: Tensor
    height_BS: Tensor
    across_2EBS: Tensor
    """p² + h² and q² + h²."""
    inverse_EEBS: Tensor
    """1 / distance of the corners [1/cm]."""

    def solid_angle(self) -> Tensor:
        """(B, S): the sum over the corners of arctan(pq / (h·√(p² + q² + h²)))."""
        return (self.p_E1BS * self.q_EBS * self.inverse_EEBS / self.height_BS).atan().sum(dim=(0, 1))


def solid_angle(patch: Patch, uvw_B3: Tensor) -> Tensor:
    """Solid angles (B, S) [sr] of the patch's sensors from points u, v, w [cm]."""
    return _edges(patch, uvw_B3).solid_angle()


def solid_angle_and_slopes(patch: Patch, uvw_B3: Tensor) -> tuple[Tensor, Tensor]:
    """Solid angles (B, S) [sr], and their derivatives by u, v, w (3, B, S) [sr/cm]."""
    edges = _edges(patch, uvw_B3)
    p_E1BS, q_EBS = edges.p_E1BS, edges.q_EBS
    near_2EBS = edges.height_BS / edges.across_2EBS
    near_p_E1BS, near_q_EBS = near_2EBS[0][:, None], near_2EBS[1]
    over_p_EEBS, over_q_EEBS = edges.inverse_EEBS * p_E1BS, edges.inverse_EEBS * q_EBS
    by_x_EBS, by_y_EBS = (over_q_EEBS * near_p_E1BS).sum(dim=1), (over_p_EEBS * near_q_EBS).sum(dim=0)
    by_z_BS = (over_p_EEBS * q_EBS * (near_p_E1BS + near_q_EBS)).sum(dim=(0, 1)) / edges.height_BS
    local_3BS = torch.stack((by_x_EBS[0] - by_x_EBS[1], by_y_EBS[0] - by_y_EBS[1], by_z_BS))
    x_BS, y_BS, z_BS = -(patch.frame_33BS * local_3BS[:, None]).sum(dim=0)
    r_B1, cosine_B1, sine_B1 = _cylinder(uvw_B3)
    by_v_BS = (x_BS * sine_B1 + y_BS * cosine_B1) * (r_B1 / geo.R_INNER)
    by_w_BS = y_BS * sine_B1 - x_BS * cosine_B1
    return edges.solid_angle(), torch.stack((z_BS, by_v_BS, by_w_BS))


def _cylinder(uvw_B3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Radius [cm], and cosine and sine of the azimuth, of points u, v, w: (B, 1) each."""
    r_B1, phi_B1 = uvw_B3[:, 2:] + geo.R_INNER, uvw_B3[:, 1:2] / geo.R_INNER
    return r_B1, phi_B1.cos(), phi_B1.sin()


def xyz(uvw_B3: Tensor) -> Tensor:
    """Cartesian coordinates [cm] of points u, v, w, as `geo.xyz_from_uvw`."""
    r_B1, cosine_B1, sine_B1 = _cylinder(uvw_B3)
    return torch.cat((-r_B1 * cosine_B1, r_B1 * sine_B1, uvw_B3[:, :1]), dim=1)


def _edges(patch: Patch, uvw_B3: Tensor) -> _Edges:
    source_3B1 = xyz(uvw_B3).T[..., None]
    local_3BS = (patch.frame_33BS * (source_3B1 - patch.position_3BS)).sum(dim=1)
    height_BS = local_3BS[2].clamp(min=1e-3)
    side, foot_2BS = geo.SIPM_SQUARE_HALF_SIDE, local_3BS[:2]
    ends_2EBS = torch.stack((side - foot_2BS, side + foot_2BS), dim=1)
    squares_2EBS = ends_2EBS.square()
    across_2EBS = squares_2EBS + height_BS.square()
    inverse_EEBS = (across_2EBS[0][:, None] + squares_2EBS[1]).rsqrt()
    return _Edges(ends_2EBS[0][:, None], ends_2EBS[1], height_BS, across_2EBS, inverse_EEBS)

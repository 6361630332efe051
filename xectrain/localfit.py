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

from dataclasses import dataclass
from typing import Any

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
        return self._at((..., rows, slice(None)))

    def among(self, sensors_X: Tensor) -> Patch:
        """Some of the sensors of each patch."""
        return self._at((..., sensors_X))

    def _at(self, place: tuple[Any, ...]) -> Patch:
        return Patch(*(getattr(self, name)[place] for name in self.__dataclass_fields__))


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
    first_BS = patch.used_BS / variance(patch.photons_BS)
    damping_B = torch.full_like(point_B3[:, 0], SMOOTH_DAMPING if smooth else FIRST_DAMPING)
    moved_B = torch.zeros_like(damping_B)
    for _ in range(steps):
        omega_BS, slope_3BS = solid_angle_and_slopes(patch, point_B3)
        weight_BS = _weights(patch, first_BS, omega_BS)
        amplitude_B1, _, residual_BS = profile(patch.photons_BS, omega_BS, weight_BS)
        step_B3 = _step(omega_BS, slope_3BS * amplitude_B1, residual_BS, weight_BS, damping_B)
        trial_B3 = _moved(point_B3, step_B3)
        after_BS = profile(patch.photons_BS, solid_angle(patch, trial_B3), weight_BS)[2]
        before_B, after_B = ((weight_BS * r_BS.square()).sum(dim=1) for r_BS in (residual_BS, after_BS))
        if smooth:
            gain_B = (before_B - after_B) / (TOLERATED[0] * before_B + TOLERATED[1])
            share_B = (0.5 + gain_B).clamp(0, 1)
        else:
            share_B = (after_B <= before_B).to(before_B.dtype)
            damping_B = torch.where(share_B > 0, damping_B / 5, damping_B * 8)
        moved_B = (trial_B3 - point_B3).abs().amax(dim=1)
        point_B3 = point_B3 + share_B[:, None] * (trial_B3 - point_B3)
    omega_BS = solid_angle(patch, point_B3)
    weight_BS = _weights(patch, first_BS, omega_BS)
    amplitude_B1, background_B1, residual_BS = profile(patch.photons_BS, omega_BS, weight_BS)
    freedom_B = (patch.used_BS.sum(dim=1) - PARAMETERS).clamp(min=1)
    chi2_B = (weight_BS * residual_BS.square()).sum(dim=1) / freedom_B
    return PointFit(point_B3, amplitude_B1[:, 0], background_B1[:, 0], chi2_B, moved_B)


def variance(photons: Tensor) -> Tensor:
    """Variance of a sensor's photon number [photons²] at an expected number of photons."""
    return STATISTICS * photons.clamp(min=0) + NOISE + (CALIBRATION * photons).square()


def profile(photons_BS: Tensor, omega_BS: Tensor, weight_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best A and B (B, 1) for given solid angles, and the residuals photons − model (B, S)."""
    total_B1 = _sum(weight_BS).clamp(min=1e-12)
    photons_B1, omega_B1 = _sum(weight_BS * photons_BS) / total_B1, _sum(weight_BS * omega_BS) / total_B1
    dn_BS, do_BS = photons_BS - photons_B1, omega_BS - omega_B1
    amplitude_B1 = _sum(weight_BS * do_BS * dn_BS) / _sum(weight_BS * do_BS * do_BS).clamp(min=1e-20)
    return amplitude_B1, photons_B1 - amplitude_B1 * omega_B1, dn_BS - amplitude_B1 * do_BS


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=-1, keepdim=True)


def _weights(patch: Patch, first_BS: Tensor, omega_BS: Tensor) -> Tensor:
    """Inverse variances from the model's photons: from the data's, `first_BS`, they would favour downward
    fluctuations."""
    amplitude_B1, background_B1, _ = profile(patch.photons_BS, omega_BS, first_BS)
    return patch.used_BS / variance((amplitude_B1 * omega_BS + background_B1).clamp(min=0))


def _moved(point_B3: Tensor, step_B3: Tensor) -> Tensor:
    trial_B3 = point_B3 + step_B3.clamp(-LONGEST_STEP, LONGEST_STEP)
    depth_B1 = torch.maximum(trial_B3[:, 2:], point_B3[:, 2:] / 3)
    depth_B1 = torch.minimum(depth_B1, 3 * point_B3[:, 2:] + 0.05).clamp(*DEPTH_RANGE)
    return torch.cat([trial_B3[:, :2], depth_B1], dim=1)


def _step(omega_BS: Tensor, jacobian_3BS: Tensor, residual_BS: Tensor, weight_BS: Tensor, damping_B: Tensor) -> Tensor:
    """Gauss-Newton step (B, 3), the Jacobian taken orthogonal to the profiled A and B."""
    total_B1 = _sum(weight_BS).clamp(min=1e-12)
    do_BS = omega_BS - _sum(weight_BS * omega_BS) / total_B1
    norm_B1 = _sum(weight_BS * do_BS * do_BS).clamp(min=1e-20)
    centred_3BS = jacobian_3BS - _sum(weight_BS * jacobian_3BS) / total_B1
    centred_3BS = centred_3BS - do_BS * (_sum(weight_BS * do_BS * centred_3BS) / norm_B1)
    weighted_3BS = weight_BS * centred_3BS
    normal_33B = (weighted_3BS[:, None] * centred_3BS).sum(dim=-1)
    gradient_3B = (weighted_3BS * residual_BS).sum(dim=-1)
    return _solved(normal_33B, gradient_3B, damping_B)


def _solved(normal_33B: Tensor, gradient_3B: Tensor, damping_B: Tensor) -> Tensor:
    """(N + damping·diag N)⁻¹ g, (B, 3), by Cramer's rule on the matrix scaled to a unit diagonal: no solver to be
    exported."""
    diagonal_3B = torch.stack([normal_33B[k, k] for k in range(3)])
    damped_3B = (diagonal_3B * (1 + damping_B) + 1e-7 * diagonal_3B.amax(dim=0)).clamp(min=1e-12)
    scale_3B = damped_3B.rsqrt()
    a, b, c = (normal_33B[i, j] * scale_3B[i] * scale_3B[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    x, y, z = gradient_3B * scale_3B
    determinant = (1 + 2 * a * b * c - a * a - b * b - c * c).clamp(min=1e-6)
    ab, ac, bc = b * c - a, a * c - b, a * b - c
    solved = (
        (1 - c * c) * x + ab * y + ac * z,
        ab * x + (1 - b * b) * y + bc * z,
        ac * x + bc * y + (1 - a * a) * z,
    )
    return (torch.stack(solved) / determinant * scale_3B).T


@dataclass(frozen=True)
class _Edges:
    """Where the edges of the sensors are, seen from a point: along both axes, and the point's height above them."""

    p_E1BS: Tensor
    q_EBS: Tensor
    height_BS: Tensor
    inverse_EEBS: Tensor
    """1 / distance of the corners [1/cm]."""

    def solid_angle(self) -> Tensor:
        """(B, S): a sum over the corners of arctan(pq / (h·√(p² + q² + h²)))."""
        return _corners((self.p_E1BS * self.q_EBS * self.inverse_EEBS / self.height_BS).atan())


def solid_angle(patch: Patch, uvw_B3: Tensor) -> Tensor:
    """Solid angles (B, S) [sr] of the patch's sensors from points u, v, w [cm]."""
    return _edges(patch, uvw_B3).solid_angle()


def solid_angle_and_slopes(patch: Patch, uvw_B3: Tensor) -> tuple[Tensor, Tensor]:
    """Solid angles (B, S) [sr], and their derivatives by u, v, w (3, B, S) [sr/cm]."""
    edges = _edges(patch, uvw_B3)
    p_E1BS, q_EBS, h_BS, inverse_EEBS = edges.p_E1BS, edges.q_EBS, edges.height_BS, edges.inverse_EEBS
    by_p_E1BS, by_q_EBS = 1 / (p_E1BS.square() + h_BS.square()), 1 / (q_EBS.square() + h_BS.square())
    local_3BS = torch.stack(
        (
            _corners(inverse_EEBS * (q_EBS * by_p_E1BS)) * h_BS,
            _corners(inverse_EEBS * (p_E1BS * by_q_EBS)) * h_BS,
            _corners(inverse_EEBS * p_E1BS * q_EBS * (by_p_E1BS + by_q_EBS)),
        )
    )
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
    x_BS, y_BS, height_BS = (patch.frame_33BS * (source_3B1 - patch.position_3BS)).sum(dim=1)
    height_BS = height_BS.clamp(min=1e-3)
    side = geo.SIPM_SQUARE_HALF_SIDE
    p_E1BS = torch.stack((side - x_BS, -side - x_BS))[:, None]
    q_EBS = torch.stack((side - y_BS, -side - y_BS))
    inverse_EEBS = (p_E1BS.square() + q_EBS.square() + height_BS.square()).rsqrt()
    return _Edges(p_E1BS, q_EBS, height_BS, inverse_EEBS)


def _corners(values_EEBS: Tensor) -> Tensor:
    """Sum over a sensor's corners, those of unlike edges counted negative."""
    first_EBS = values_EEBS[0] - values_EEBS[1]
    return first_EBS[0] - first_EBS[1]

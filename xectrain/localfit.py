"""A point source fitted to a patch of sensors: one implementation for the classical method and for the networks.

Model: photons of sensor k = A·Ω_k(u, v, w) + B, with Ω the solid angle of a square SiPM. A (the light) and B (scattered
light, locally constant) are profiled analytically (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10
(1973) 413, with Kaufman's Jacobian), so three parameters are left for a damped Gauss-Newton iteration that runs on all
events of a batch at once. Everything is a tensor operation of fixed shape, in the precision of what is given, and a
fixed number of steps, so that it is exported and compiled with a network.

A network that has a fit runs it in every pass, and small tensors take as long as there are operations: so there are
few. None of them is a matrix product: those may be rounded to TF32.

Shape suffixes: as in `xectrain.patch`; here 3 are u, v, w, and 5 they, the solid angles and the photons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xectrain.patch import Patch, View, less, solid_angle

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


def fit_point(patch: Patch, start_B3: Tensor, steps: int, smooth: bool = False) -> PointFit:
    """Fit by Levenberg and Marquardt's method; weights follow the model. Arguments as of `settled`."""
    uvw_B3, moved_B = settled(patch, start_B3, steps, smooth)
    return PointFit(uvw_B3, *fit_light(patch, solid_angle(patch, uvw_B3)), moved_B)


def settled(patch: Patch, start_B3: Tensor, steps: int, smooth: bool = False) -> tuple[Tensor, Tensor]:
    """The fitted point alone, u, v, w (B, 3), and the largest change of a coordinate in the last step (B,), accepted or
    not; both in cm.

    Args:
        start_B3: u, v, w to start from [cm].
        steps: how many; an event without light stays where it starts.
        smooth: make the result a continuous function of the photons, which a few steps of "accept or reject" are not:
            deep points lie in valleys so flat that rounding decides, and two runtimes would disagree by millimetres.
            Steps are damped alike and taken in part; rest is reached more slowly.
    """
    view, weights = View(patch), _Weights(patch)
    point_3B1 = torch.cat([start_B3[:, :2], start_B3[:, 2:].clamp(*DEPTH_RANGE)], dim=1).T[..., None]
    change_3B1 = torch.zeros_like(point_3B1)
    damping_B1 = torch.full_like(change_3B1[0], SMOOTH_DAMPING if smooth else FIRST_DAMPING)
    tolerated_B1 = torch.full_like(damping_B1, TOLERATED[1])
    for _ in range(steps):
        omega_BS, slopes = view.solid_angle_and_slopes(point_3B1)
        line = _Line(weights.roots_at(omega_BS))
        step_3B1, photons_BS, before_B1 = _step(line, slopes, omega_BS, patch.photons_BS, damping_B1)
        trial_3B1 = _moved(point_3B1, step_3B1)
        residual_BS = _without(photons_BS, line.centred(view.solid_angle(trial_3B1))[0])[0]
        after_B1 = _dot(residual_BS, residual_BS)
        if smooth:
            scale_B1 = torch.add(tolerated_B1, before_B1, alpha=TOLERATED[0])
            share_B1 = (torch.add(before_B1 - after_B1, scale_B1, alpha=0.5) / scale_B1).clamp(0, 1)
        else:
            share_B1 = (after_B1 <= before_B1).to(before_B1.dtype)
            damping_B1 = torch.where(share_B1 > 0, damping_B1 / 5, damping_B1 * 8)
        change_3B1 = trial_3B1 - point_3B1
        point_3B1 = torch.addcmul(point_3B1, share_B1, change_3B1)
    return point_3B1[..., 0].T, change_3B1[..., 0].abs().amax(dim=0)


def fit_light(patch: Patch, omega_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A [photons/sr], B [photons] and χ² per degree of freedom, (B,) each, of a point with these solid angles [sr]."""
    roots_BS = _Weights(patch).roots_at(omega_BS)
    amplitude_B1, background_B1, residual_BS = profile(patch.photons_BS, omega_BS, roots_BS)
    freedom_B = (patch.used_BS.sum(dim=1) - PARAMETERS).clamp(min=1)
    return amplitude_B1[:, 0], background_B1[:, 0], residual_BS.square().sum(dim=1) / freedom_B


def variance(photons_BS: Tensor, used_BS: Tensor) -> Tensor:
    """Variances of the sensors' photon numbers [photons²] at expected numbers; infinite at unused sensors."""
    statistical_BS = torch.add(NOISE / used_BS, photons_BS.clamp(min=0), alpha=STATISTICS)
    return torch.addcmul(statistical_BS, photons_BS, photons_BS, value=CALIBRATION**2)


def profile(photons_BS: Tensor, omega_BS: Tensor, root_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best A and B (B, 1) for given solid angles, and the residuals photons − model (B, S) in standard deviations.

    Args:
        root_BS: the weights' roots, 1 / standard deviation [1/photons]; 0 at unused sensors.
    """
    line = _Line(root_BS)
    centred_BS, photons_B1 = line.centred(photons_BS)
    do_BS, omega_B1 = line.centred(omega_BS)
    residual_BS, amplitude_B1 = _without(centred_BS, do_BS)
    return amplitude_B1, photons_B1 - amplitude_B1 * omega_B1, residual_BS


class _Line:
    """The straight line photons = A·Ω + B for given weights.

    What is fitted is multiplied by the weights' roots and taken from its weighted mean: products are weighted then, and
    no B is left in them.
    """

    def __init__(self, root_BS: Tensor) -> None:
        self.root_BS = root_BS
        self.share_BS = root_BS / _dot(root_BS, root_BS).clamp(min=1e-12)

    def centred(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values (…, B, S) × root, from their mean, and that mean (…, B, 1) itself."""
        rooted = values * self.root_BS
        mean = _dot(rooted, self.share_BS)
        return torch.addcmul(rooted, mean, self.root_BS, value=-1), mean


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Scalar products over the sensors, (…, B, 1)."""
    return (one * other).sum(dim=-1, keepdim=True)


def _without(values: Tensor, do_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Values (…, B, S) without what is proportional to the solid angles, and how much that was (…, B, 1); all of it
    centred."""
    slope = _dot(values, do_BS) / _dot(do_BS, do_BS).clamp(min=1e-20)
    return torch.addcmul(values, slope, do_BS, value=-1), slope


class _Weights:
    """Roots of the weights, from the model's photons: from the data's, as in a first fit of A and B, they would favour
    downward fluctuations."""

    def __init__(self, patch: Patch) -> None:
        self.used_BS = patch.used_BS
        self.first = _Line(variance(patch.photons_BS, patch.used_BS).rsqrt())
        self.photons_BS, self.mean_B1 = self.first.centred(patch.photons_BS)

    def roots_at(self, omega_BS: Tensor) -> Tensor:
        """(B, S) for given solid angles."""
        do_BS, omega_B1 = self.first.centred(omega_BS)
        amplitude_B1 = _dot(self.photons_BS, do_BS) / _dot(do_BS, do_BS).clamp(min=1e-20)
        background_B1 = torch.addcmul(self.mean_B1, amplitude_B1, omega_B1, value=-1)
        model_BS = torch.addcmul(background_B1, amplitude_B1, omega_BS)
        return variance(model_BS.clamp(min=0), self.used_BS).rsqrt()


def _moved(point_3B1: Tensor, step_3B1: Tensor) -> Tensor:
    trial_3B1 = point_3B1 + step_3B1.clamp(-LONGEST_STEP, LONGEST_STEP)
    depth_1B1 = point_3B1[2:]
    deep_1B1 = trial_3B1[2:].clamp(depth_1B1 / 3, 3 * depth_1B1 + 0.05).clamp(*DEPTH_RANGE)
    return torch.cat([trial_3B1[:2], deep_1B1])


def _step(
    line: _Line, slopes: tuple[Tensor, Tensor, Tensor], omega_BS: Tensor, photons_BS: Tensor, damping_B1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton step (3, B, 1), the Jacobian A·∂Ω taken orthogonal to the profiled A and B; the centred photons
    (B, S), and χ² (B, 1) before the step."""
    rows_5BS = line.centred(torch.stack((*slopes, omega_BS, photons_BS)))[0]
    left_5BS, slope_5B1 = _without(rows_5BS, rows_5BS[3])
    residual_BS, jacobian_3BS = left_5BS[4], left_5BS[:3] * slope_5B1[4]
    normal_33B1 = _dot(jacobian_3BS[:, None], jacobian_3BS)
    step_3B1 = _solved(normal_33B1, _dot(jacobian_3BS, residual_BS), damping_B1)
    return step_3B1, rows_5BS[4], _dot(residual_BS, residual_BS)


def _solved(normal_33B1: Tensor, gradient_3B1: Tensor, damping_B1: Tensor) -> Tensor:
    """(N + damping·diag N)⁻¹ g, (3, B, 1), by elimination, written out: no solver to be exported."""
    floor_B1, damped_B1 = (1e-7 * normal_33B1.amax(dim=(0, 1))).clamp(min=1e-12), 1 + damping_B1
    xx, xy, xz, _, yy, yz, _, _, zz = normal_33B1.flatten(0, 1).unbind()
    xx, yy, zz = (torch.addcmul(floor_B1, damped_B1, n) for n in (xx, yy, zz))
    x, y, z = gradient_3B1.unbind()
    y_by_x, z_by_x = xy / xx, xz / xx
    yy, yz, zz = less(yy, y_by_x, xy), less(yz, y_by_x, xz), less(zz, z_by_x, xz)
    y, z = less(y, y_by_x, x), less(z, z_by_x, x)
    z_by_y = yz / yy
    z = less(z, z_by_y, y) / less(zz, z_by_y, yz)
    y = less(y, yz, z) / yy
    x = less(less(x, xy, y), xz, z) / xx
    return torch.stack((x, y, z))

"""Fitting a point source: the solid angle against an independent formula, its slopes, exact recovery, strange input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards import geometry as geo
from xectrain.localfit import fit_point, profile
from xectrain.patch import Patch, View, sensor_frames, solid_angle

INNER = geo.face_grid("inner")


def patch_of(points: np.ndarray, side: int = 7, amplitude: float = 1e6, background: float = 20.0) -> Patch:
    """The square around the sensor nearest to each point u, v, w, with the light of a point source and no noise."""
    uv = geo.uvw_from_xyz(geo.nominal_positions()[: geo.N_SIPM])[:, :2]
    half = side // 2
    channels = []
    for u, v, _ in points:
        row, column = np.argwhere(np.argmin(np.hypot(*(uv - (u, v)).T)) == INNER)[0]
        channels.append(INNER[row - half : row + half + 1, column - half : column + half + 1].ravel())
    table = np.stack(channels)
    omega = np.take_along_axis(geo.solid_angle(geo.xyz_from_uvw(points), sipm="square"), table, axis=1)
    photons = torch.from_numpy(amplitude * omega + background)
    position, frame = geo.nominal_positions().T[:, table], sensor_frames(geo.nominal())[:, :, table]
    return Patch(torch.from_numpy(position), torch.from_numpy(frame), photons, torch.ones_like(photons))


POINTS = np.array([[0.3, 2.0, 0.4], [5.1, -20.3, 1.7], [-11.7, 33.3, 4.2], [14.0, 50.0, 9.0], [-20.0, -55.0, 17.0]])


def test_solid_angles_are_those_of_the_geometry():
    patch = patch_of(POINTS, amplitude=1.0, background=0.0)
    assert solid_angle(patch, torch.from_numpy(POINTS)).numpy() == pytest.approx(patch.photons_BS.numpy(), abs=1e-9)


def test_slopes_are_the_derivatives_of_the_solid_angles():
    patch, point = patch_of(POINTS), torch.from_numpy(POINTS)
    omega_BS, slopes = View(patch).solid_angle_and_slopes(point.T[..., None])
    assert omega_BS.numpy() == pytest.approx(solid_angle(patch, point).numpy())
    for axis, slope_BS in enumerate(slopes):
        step = torch.eye(3, dtype=torch.float64)[axis] * 1e-5
        numeric = (solid_angle(patch, point + step) - solid_angle(patch, point - step)) / 2e-5
        assert slope_BS.numpy() == pytest.approx(numeric.numpy(), abs=1e-7)


@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-55, 55), st.floats(0.3, 12)), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_point_without_noise_is_found_again(points, dtype):
    truth = np.array(points)
    patch = patch_of(truth)
    patch = Patch(*(getattr(patch, name).to(dtype) for name in Patch.__dataclass_fields__))
    start = torch.from_numpy(truth * (1, 1, 0.5) + (0.4, -0.4, 0.3)).to(dtype)
    fit = fit_point(patch, start, steps=12)
    assert fit.uvw_B3.numpy() == pytest.approx(truth, abs=0.02, rel=5e-3)
    assert fit.amplitude_B.numpy() == pytest.approx(1e6, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_is_the_same_to_the_last_bit_whatever_events_are_beside_it(dtype):
    patch, start = patch_of(POINTS), torch.from_numpy(POINTS + 0.2).to(dtype)
    patch = Patch(*(getattr(patch, name).to(dtype) for name in Patch.__dataclass_fields__))
    together = fit_point(patch, start, steps=5, smooth=True).uvw_B3
    for k in range(len(POINTS)):
        rows = torch.tensor([k])
        assert torch.equal(fit_point(patch.of(rows), start[rows], steps=5, smooth=True).uvw_B3[0], together[k])


def test_the_smooth_variant_comes_to_the_same_point_and_does_not_magnify_rounding():
    patch, start = patch_of(POINTS), torch.from_numpy(POINTS + 0.2)
    smooth = fit_point(patch, start, steps=40, smooth=True).uvw_B3
    assert smooth.numpy() == pytest.approx(POINTS, abs=0.01)
    draw = np.random.default_rng(0)
    noisy = Patch(
        patch.position_3BS,
        patch.frame_33BS,
        torch.from_numpy(draw.poisson(patch.photons_BS.numpy()).astype(float)),
        patch.used_BS,
    )
    nearly = Patch(noisy.position_3BS, noisy.frame_33BS, noisy.photons_BS * (1 + 1e-9), noisy.used_BS)
    found = [fit_point(p, start, steps=5, smooth=True).uvw_B3 for p in (noisy, nearly)]
    assert float((found[0] - found[1]).abs().max()) < 1e-6


@pytest.mark.parametrize("photons", [0.0, 5.0, -3.0, 1e5])
def test_light_that_is_flat_or_absent_gives_finite_numbers(photons):
    for dtype in (torch.float32, torch.float64):
        patch = patch_of(POINTS)
        flat = torch.full_like(patch.photons_BS, photons)
        patch = Patch(*(t.to(dtype) for t in (patch.position_3BS, patch.frame_33BS, flat, patch.used_BS)))
        fit = fit_point(patch, torch.from_numpy(POINTS).to(dtype), steps=5)
        for name in fit.__dataclass_fields__:
            assert getattr(fit, name).isfinite().all(), name


def test_without_any_sensor_the_start_is_kept():
    patch = patch_of(POINTS)
    patch = Patch(patch.position_3BS, patch.frame_33BS, patch.photons_BS, torch.zeros_like(patch.used_BS))
    fit = fit_point(patch, torch.from_numpy(POINTS), steps=4)
    assert fit.uvw_B3.numpy() == pytest.approx(POINTS)
    assert fit.amplitude_B.tolist() == [0] * len(POINTS)


def test_an_unused_sensor_influences_nothing():
    patch, start = patch_of(POINTS), torch.from_numpy(POINTS + 0.2)
    used = patch.used_BS.clone()
    used[:, 24] = 0
    found = []
    for value in (0.0, 1e7):
        photons = patch.photons_BS.clone()
        photons[:, 24] = value
        found.append(fit_point(Patch(patch.position_3BS, patch.frame_33BS, photons, used), start, steps=5).uvw_B3)
    assert torch.equal(*found)


def test_profiled_light_is_a_weighted_straight_line():
    generator = np.random.default_rng(3)
    omega, photons, root = (generator.random((2, 30)) for _ in range(3))
    amplitude, background, residual = (t.numpy() for t in profile(*map(torch.from_numpy, (photons, omega, root))))
    for k in range(2):
        slope, offset = np.polyfit(omega[k], photons[k], 1, w=root[k])
        assert (amplitude[k, 0], background[k, 0]) == pytest.approx((slope, offset))
        assert residual[k] == pytest.approx(root[k] * (photons[k] - slope * omega[k] - offset))

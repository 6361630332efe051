"""Solid angles against numerical integration over the sensor's surface, which knows nothing of the closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import geometry as geo
from shards.geometry import solidangle

CHIP_CENTRES = (-0.32, 0.32)
LEGENDRE = np.polynomial.legendre.leggauss(10)


def graded(low: float, high: float, peak: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Composite Gauss-Legendre nodes on [low, high], panels doubling in width away from `peak`."""
    steps = scale * 2.0 ** np.arange(-1, 60)
    edges = np.concatenate([peak - steps[::-1], [peak], peak + steps])
    edges = np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]])
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    nodes = middle[:, None] + half[:, None] * LEGENDRE[0]
    return nodes.ravel(), (half[:, None] * LEGENDRE[1]).ravel()


def rectangle_by_integration(x: float, y: float, h: float, a: float, b: float) -> float:
    """∫ h / s³ dA over the surface."""
    px, wx = graded(-a, a, x, h)
    py, wy = graded(-b, b, y, h)
    s2 = (px[:, None] - x) ** 2 + (py - y) ** 2 + h * h
    return float(wx @ (h / s2**1.5) @ wy)


def chips_by_integration(x: float, y: float, h: float) -> float:
    return sum(rectangle_by_integration(x - cx, y - cy, h, 0.295, 0.295) for cx in CHIP_CENTRES for cy in CHIP_CENTRES)


def disc_by_integration(rho: float, h: float, radius: float) -> float:
    """∫ h / s³ r dr dα in the polar coordinates of the disc, source on its x axis."""
    r, wr = graded(0, radius, rho, h)
    angle, wa = graded(-np.pi, np.pi, 0, h / max(rho, radius))
    s2 = (r[:, None] * np.cos(angle) - rho) ** 2 + (r[:, None] * np.sin(angle)) ** 2 + h * h
    return float((wr * r) @ (h / s2**1.5) @ wa)


HEIGHTS = [1e-4, 1e-2, 0.3, 2.0, 15.0, 80.0]


@pytest.mark.parametrize("h", HEIGHTS)
@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (0.3, -0.2), (0.59, 0.1), (0.5899, 0.5901), (-0.7, 0.59), (3, -4), (-40, 25)]
)
def test_square_and_rectangle(x: float, y: float, h: float) -> None:
    assert geo.square(x, y, h) == pytest.approx(rectangle_by_integration(x, y, h, 0.59, 0.59), rel=1e-9, abs=1e-13)
    assert geo.rectangle(x, y, h, 0.3, 1.1) == pytest.approx(
        rectangle_by_integration(x, y, h, 0.3, 1.1), rel=1e-9, abs=1e-13
    )


@pytest.mark.parametrize("h", HEIGHTS)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (0.024, 0.3), (0.026, 0.3), (0.615, 0.615), (0.7, 0), (2, -1), (-30, 50)])
def test_the_four_chips_of_a_sipm(x: float, y: float, h: float) -> None:
    assert geo.chips(x, y, h) == pytest.approx(chips_by_integration(x, y, h), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("h", [1e-6, *HEIGHTS])
@pytest.mark.parametrize("rho", [0, 1e-7, 1.0, 2.2, 2.3 - 1e-6, 2.3, 2.3 + 1e-6, 2.5, 7.0, 16.0, 17.0, 120.0])
@pytest.mark.parametrize("radius", [2.3, 2.25])
def test_disc(rho: float, h: float, radius: float) -> None:
    assert geo.disc(rho, h, radius) == pytest.approx(disc_by_integration(rho, h, radius), rel=1e-7, abs=1e-11)


@given(rho=st.floats(0, 200), h=st.floats(1e-3, 200))
def test_the_two_ways_to_the_disc_agree_where_both_hold(rho: float, h: float) -> None:
    if rho**2 + h**2 + 1 > 2 * 3.6 * rho:
        arguments = np.array([rho]), np.array([h])
        assert solidangle._disc_quadrature(*arguments) == pytest.approx(
            solidangle._disc_elliptic(*arguments), rel=1e-6, abs=1e-13
        )


def test_disc_on_its_axis_and_at_its_rim() -> None:
    h = np.array([0.01, 1.0, 30.0, 1000.0])
    assert geo.disc(0, h) == pytest.approx(2 * np.pi * (1 - h / np.hypot(h, 2.3)), rel=1e-9)
    assert geo.disc(2.3, 1e-9) == pytest.approx(np.pi, abs=1e-6)
    assert geo.disc(2.2999, 1e-9) == pytest.approx(2 * np.pi, abs=1e-4)
    assert geo.disc(2.3001, 1e-9) == pytest.approx(0, abs=1e-4)
    assert geo.disc(-1.0, 1.0) == geo.disc(1.0, 1.0)


@pytest.mark.parametrize("primitive", [geo.square, geo.chips, lambda x, y, h: geo.disc(np.hypot(x, y), h)])
def test_nothing_is_seen_in_or_behind_the_plane_and_half_of_everything_close_before_it(primitive) -> None:  # type: ignore[no-untyped-def]
    behind = primitive(np.array([0.3, 5.0]), np.array([0.3, 1.0]), np.array([[0.0], [-1e-9], [-0.4], [-50.0]]))
    assert behind.shape == (4, 2)
    assert (behind == 0).all()
    assert primitive(0.3, 0.3, 1e-9) == pytest.approx(2 * np.pi, abs=1e-6)
    assert np.isnan(primitive(np.array([np.nan, 0.0]), 0.0, np.array([1.0, np.nan]))).all()


@given(st.tuples(*[st.floats(-0.999, 0.999)] * 3), st.tuples(*[st.floats(0.1, 10)] * 3))
def test_the_six_sides_of_a_box_fill_the_sphere(
    place: tuple[float, float, float], half: tuple[float, float, float]
) -> None:
    position = np.array(place) * half
    total = 0.0
    for axis in range(3):
        p, q = [i for i in range(3) if i != axis]
        for side in (-1, 1):
            height = half[axis] - side * position[axis]
            total += float(geo.rectangle(position[p], position[q], height, half[p], half[q]))
    assert total == pytest.approx(4 * np.pi, abs=1e-9)


def test_the_square_stands_for_the_chips_unless_the_source_is_close() -> None:
    x = np.linspace(-8, 8, 81)
    worst = {h: np.abs(geo.square(x[:, None], x, h) / geo.chips(x[:, None], x, h) - 1).max() for h in (0.5, 2.0, 5.0)}
    assert worst[5.0] < 0.003
    assert worst[2.0] < 0.02
    assert worst[0.5] > 0.05


def test_float32_in_float32_out() -> None:
    x = np.linspace(-30, 30, 7, dtype=np.float32)
    assert geo.square(x, x, np.float32(9)).dtype == np.float32
    assert np.abs(geo.square(x, x, np.float32(9)) - geo.square(x.astype(float), x.astype(float), 9.0)).max() < 1e-6


# ---------------------------------------------------------------------------------------------------- whole detector

POINTS = geo.xyz_from_uvw([[0.1, 0.2, 0.05], [3, -40, 2], [-20, 60, 20], [30, 70.9, 40], [-33.4, 5, 0.4], [2, 1, 41.2]])
SOME = np.array(
    [0, 43, 2045, 2046, 3000, 4091, 4092, 4107, 4203, 4308, 4400, 4451, 4452, 4595, 4596, 4668, 4741, 4751, 4759]
)


def surface_points(geometry: geo.Geometry, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and area weights on the sensitive surface of a sensor, in space."""
    normal = geometry.normals[channel]
    across = np.cross(normal, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    along = np.cross(across, normal)
    if channel < 4092:
        node, weight = graded(0, 0.59, 0.295, 0.01)
        line = np.concatenate([node + 0.025, -node - 0.025])
        both = np.concatenate([weight, weight])
        p, q, area = line[:, None] + 0 * line, line + 0 * line[:, None], both[:, None] * both
    else:
        r, wr = graded(0, 2.3, 2.3, 0.05)
        angle, wa = graded(-np.pi, np.pi, 0, 0.05)
        p, q, area = r[:, None] * np.cos(angle), r[:, None] * np.sin(angle), (wr * r)[:, None] * wa
    points = geometry.positions[channel] + p[..., None] * across + q[..., None] * along
    return points.reshape(-1, 3), area.ravel()


@pytest.mark.parametrize("tilted", [False, True])
def test_sensors_in_space_against_integration_over_their_surface(tilted: bool) -> None:
    nominal = geo.nominal()
    geometry = nominal
    if tilted:
        rng = np.random.default_rng(3)
        normals = nominal.normals + rng.normal(0, 0.02, (4760, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        geometry = geo.Geometry(nominal.positions + rng.normal(0, 0.2, (4760, 3)), normals, nominal.face, "tilted")
    omega = geo.solid_angle(POINTS[1:3], geometry, SOME)
    for column, channel in enumerate(SOME):
        surface, area = surface_points(geometry, int(channel))
        for row, point in enumerate(POINTS[1:3]):
            to_source = point - surface
            height = to_source @ geometry.normals[channel]
            expected = (area * height / np.linalg.norm(to_source, axis=1) ** 3).sum() if height[0] > 0 else 0.0
            assert omega[row, column] == pytest.approx(expected, rel=1e-6, abs=1e-12), channel


def test_selection_of_sensors_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = geo.solid_angle(POINTS)
    assert everything.shape == (6, 4760)
    assert everything.dtype == np.float64
    assert np.array_equal(geo.solid_angle(POINTS, sensors=SOME), everything[:, SOME])
    assert np.array_equal(geo.solid_angle(POINTS, sensors=slice(4000, 4200)), everything[:, 4000:4200])
    assert np.array_equal(geo.solid_angle(POINTS, geo.nominal(), range(4760)), everything)
    assert geo.solid_angle(POINTS, sensors=slice(0, 0)).shape == (6, 0)
    assert geo.solid_angle(np.empty((0, 3))).shape == (0, 4760)
    monkeypatch.setattr(solidangle, "PAIRS_AT_ONCE", 100)
    assert np.array_equal(geo.solid_angle(POINTS), everything)


def test_mirrored_sources_see_the_mirrored_detector() -> None:
    key = np.round(geo.nominal().positions, 4) + 0.0
    place = {tuple(p): i for i, p in enumerate(key)}
    partner = np.array([place[tuple(p)] for p in key * [1, 1, -1] + 0.0])
    assert np.allclose(geo.solid_angle(POINTS)[:, partner], geo.solid_angle(POINTS * [1, 1, -1]), rtol=1e-9, atol=1e-13)


def test_a_source_before_the_inner_face_is_behind_it() -> None:
    outside = geo.xyz_from_uvw([[0.0, 0.0, -0.2], [0, 0, -60]])
    assert (geo.solid_angle(outside, sensors=slice(0, 4092)) == 0).all()
    omega = geo.solid_angle(geo.xyz_from_uvw([[0, 0, 10.0]]))[0]
    uvw = geo.uvw_from_xyz(geo.nominal().positions)
    tangent = np.arccos(geo.R_INNER / (geo.R_INNER + 10))  # a tangent plane of the cylinder passes through the source
    seen = np.abs(uvw[:4092, 1]) / geo.R_INNER < tangent
    assert np.array_equal(omega[:4092] > 0, seen)


def test_a_source_in_the_xenon_sees_at_most_the_whole_sphere_and_most_close_by() -> None:
    omega = geo.solid_angle(POINTS)
    assert (omega >= 0).all()
    assert (omega.sum(axis=1) < 4 * np.pi).all()
    pmts = SOME[SOME >= 4092]
    touching = geo.solid_angle(geo.nominal().positions[pmts] + 1e-6 * geo.nominal().normals[pmts])
    assert np.array_equal(touching.argmax(axis=1), pmts)
    assert touching[np.arange(len(pmts)), pmts] == pytest.approx(2 * np.pi, abs=1e-4)


def test_square_sensors_and_the_radius_of_the_analysis_software() -> None:
    one = geo.solid_angle(POINTS[2:3])
    other = geo.solid_angle(POINTS[2:3], sipm="square", pmt_radius=2.25)
    lit = one[0, 4092:] > 1e-6
    assert other[0, 4092:][lit] / one[0, 4092:][lit] == pytest.approx((2.25 / 2.3) ** 2, rel=0.02)
    assert other[0, :4092].sum() == pytest.approx(one[0, :4092].sum(), rel=1e-3)
    assert not np.array_equal(other[0, :4092], one[0, :4092])


def test_points_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points: shape \(3,\), expected \(N, 3\)"):
        geo.local_coordinates([0.0, 1.0, 2.0])


def test_local_coordinates_are_distances_in_the_sensor_frame() -> None:
    x, y, height = geo.local_coordinates(POINTS, sensors=SOME)
    direct = np.linalg.norm(POINTS[:, None] - geo.nominal().positions[SOME], axis=2)
    assert np.sqrt(x**2 + y**2 + height**2) == pytest.approx(direct)
    inner = SOME < 4092
    assert x[:, inner] == pytest.approx(POINTS[:, 2:3] - geo.nominal().positions[SOME[inner], 2])

"""Light: solid angles, transmission, shadow, scattering and symmetry, each against a slower independent account."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingest.toymc import constants as c
from ingest.toymc import near, tracing
from ingest.toymc.direct import DirectLight
from ingest.toymc.fresnel import into_quartz, into_silicon, quartz, silicon_polynomial, transmission
from ingest.toymc.library import N_DEPOSITS
from ingest.toymc.light import light_model
from ingest.toymc.likelihood import expectation, signals
from ingest.toymc.scattered import read_table
from ingest.toymc.scattering import draw_sources, fit, make_table, mirrored, scattered_shares, write_table
from ingest.toymc.shadow import Shadow
from ingest.toymc.shower import Deposits
from ingest.toymc.study import checks
from shards import geometry as geo


def direct_shares(points: np.ndarray) -> np.ndarray:
    """Direct light of points (N, 3) at all sensors, (N, 4760)."""
    found = np.empty((len(points), geo.N_SENSORS))
    for share in DirectLight(geo.nominal(), len(points)).shares(points.astype(np.float32)):
        found[:, share.sensors] = share.light
    return found


@pytest.fixture(scope="module")
def traced() -> checks.Traced:
    return checks.trace_light(np.random.default_rng(1), 200_000)


def test_far_light_is_the_exact_solid_angle_times_transmission_and_extinction() -> None:
    row = checks.check_shares(np.random.default_rng(2))
    assert row.good, row


@pytest.mark.parametrize(
    ("x", "y", "h"), [(0.0, 0.0, 0.3), (0.5, 0.5, 0.3), (1.0, 0.2, 0.2), (1.5, 1.5, 1.0), (2.0, 0.0, 0.5)]
)
def test_close_square_against_numerical_integration(x: float, y: float, h: float) -> None:
    at, weight = np.polynomial.legendre.leggauss(400)
    a = geo.SIPM_SQUARE_HALF_SIDE
    u, v = np.meshgrid(at * a, at * a)
    away = np.sqrt((u - x) ** 2 + (v - y) ** 2 + h * h)
    expected = (np.outer(weight, weight) * a * a * h / away**3 * into_silicon(h / away)).sum()
    assert near.square(*np.array([[x], [y], [h]]))[0] == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(("x", "h"), [(0.0, 1.0), (2.0, 1.0), (3.0, 2.0), (8.0, 5.0)])
def test_close_disc_against_numerical_integration(x: float, h: float) -> None:
    at, weight = np.polynomial.legendre.leggauss(300)
    radius, around = np.meshgrid((at + 1) / 2 * geo.PMT_RADIUS, np.linspace(0, 2 * np.pi, 601)[:-1])
    area = weight * geo.PMT_RADIUS / 2 * radius * 2 * np.pi / 600
    away = np.sqrt((radius * np.cos(around) - x) ** 2 + (radius * np.sin(around)) ** 2 + h * h)
    expected = (area * h / away**3 * into_quartz(h / away)).sum()
    assert near.disc(*np.array([[x], [0.0], [h]]))[0] == pytest.approx(expected, rel=0.005)


def test_nothing_behind_a_sensor() -> None:
    assert near.square(np.zeros(1), np.zeros(1), np.array([-0.5]))[0] == 0
    assert near.disc(np.zeros(1), np.zeros(1), np.array([-0.5]))[0] == 0


def test_fresnel() -> None:
    assert transmission(np.ones(1), 1.0, 1.5)[0] == pytest.approx(0.96)
    assert transmission(np.ones(1), c.N_XENON, c.N_SILICON)[0] == pytest.approx(0.49, abs=0.005)
    brewster = np.cos(np.arctan(c.N_QUARTZ / c.N_XENON))
    # at Brewster's angle only perpendicular light is reflected, by ((n1² − n2²)/(n1² + n2²))²
    lost = ((c.N_XENON**2 - c.N_QUARTZ**2) / (c.N_XENON**2 + c.N_QUARTZ**2)) ** 2 / 2
    assert transmission(np.array([brewster]), c.N_XENON, c.N_QUARTZ)[0] == pytest.approx(1 - lost, rel=1e-9)
    critical = np.sqrt(1 - (c.N_QUARTZ / c.N_XENON) ** 2)
    assert critical == pytest.approx(0.32, abs=0.003)
    assert into_quartz(np.array([critical - 0.01]))[0] == pytest.approx(0, abs=1e-12)
    x = np.linspace(0, 1, 501)
    fast = np.polynomial.polynomial.polyval(x, (0.0, *silicon_polynomial()))
    assert np.abs(fast - into_silicon(x)).max() < 0.0006
    assert np.abs(quartz(x.astype(np.float32)) - into_quartz(x)).max() < 0.002


def test_shadow_of_the_inner_cylinder_against_straight_lines() -> None:
    rng = np.random.default_rng(3)
    points = draw_sources(rng, 60)
    visible = Shadow(geo.nominal()).visible(points.astype(np.float32))
    first, second = (t[geo.N_SIPM :] for t in geo.nominal().tangents)
    radius, around = geo.PMT_RADIUS * np.sqrt(rng.random(300)), rng.uniform(0, 2 * np.pi, 300)
    on_disc = (
        geo.nominal().positions[geo.N_SIPM :, None]
        + (radius * np.cos(around))[:, None] * first[:, None]
        + (radius * np.sin(around))[:, None] * second[:, None]
    )
    errors = []
    for point, found in zip(points, visible, strict=True):
        a, b = point[:2], on_disc[..., :2]
        along = b - a
        t = np.clip(-(along @ a) / (along**2).sum(axis=-1), 0, 1)
        closest = np.linalg.norm(a + t[..., None] * along, axis=-1)
        errors.append((closest >= geo.R_INNER - 1e-9).mean(axis=1) - found)
    errors = np.array(errors)
    assert np.abs(errors).max() < 0.12
    assert np.sqrt((errors**2).mean()) < 0.02


def test_light_against_photon_tracing_by_face_and_block(traced: checks.Traced) -> None:
    for row in checks.check_light(traced):
        assert row.good, row


def test_traced_photons_scatter_and_vanish_as_they_should() -> None:
    rng = np.random.default_rng(4)
    direction = np.tile([0.0, 0.6, 0.8], (200_000, 1))
    turned = tracing.rayleigh(rng, direction)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-9)
    cosine = turned @ direction[0]
    assert cosine.mean() == pytest.approx(0, abs=0.005)
    assert (cosine**2).mean() == pytest.approx(0.4, abs=0.005)  # ∫x²·⅜(1 + x²)
    point = geo.xyz_from_uvw(np.array([[0.0, 0.0, 20.0]]))
    _, vertices = tracing.trace(rng, point, 20_000)
    _, first = np.unique(vertices.weight, return_index=True)
    assert len(first) > 1000
    assert geo.inside(vertices.position).all()


def test_walls_are_where_the_volume_ends() -> None:
    rng = np.random.default_rng(5)
    points, direction = draw_sources(rng, 5000), tracing.isotropic(rng, 5000)
    way = tracing.wall_distance(points, direction)
    assert geo.inside(points + (way - 1e-6)[:, None] * direction).all()
    assert not geo.inside(points + (way + 1e-6)[:, None] * direction).any()


def test_expected_scatterings_agree_with_counted_photons() -> None:
    rng = np.random.default_rng(6)
    points = geo.xyz_from_uvw(np.array([[5.0, 10.0, 10.0]]))
    hits, vertices = tracing.trace(rng, points, 20_000)
    expected = scattered_shares(vertices, 1)[0].sum()
    counted = hits.weight[hits.scatterings > 0]
    assert counted.sum() == pytest.approx(expected, abs=4 * np.sqrt((counted**2).sum()))


@pytest.mark.parametrize(("axis", "flip"), [(0, [1, 1, -1]), (1, [1, -1, 1])])
def test_light_is_symmetric(axis: int, flip: list[int]) -> None:
    rng = np.random.default_rng(8)
    points = draw_sources(rng, 4 * N_DEPOSITS).reshape(4, N_DEPOSITS, 3)
    energy, delay = (rng.exponential(size=(4, N_DEPOSITS)).astype(np.float32) for _ in range(2))
    here, there = (
        light_model(None).light(Deposits((points * f).astype(np.float32), energy, delay), np.full(4, 1e4))
        for f in (1, flip)
    )
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other[:, mirrored(axis)], one, rtol=2e-3, atol=1e-3)


def test_light_is_linear_and_adds_up() -> None:
    one = expectation([[3.0, 10.0, 4.0]], 20.0, shower=5000)
    np.testing.assert_allclose(expectation([[3.0, 10.0, 4.0]], 60.0, shower=5000), 3 * one, rtol=1e-5)


def test_light_grows_towards_the_sensor_in_front() -> None:
    depths = np.array([0.3, 1.0, 3.0, 10.0, 25.0])
    uvw = np.stack([np.zeros(5), np.zeros(5), depths], axis=1)
    mean = expectation(uvw, 52.83)
    front = mean[:, geo.face_grid("inner")[45:48, 20:24].ravel()].max(axis=1)
    assert (np.diff(front) < 0).all()
    total = mean.sum(axis=1)
    assert total.min() > 0.5 * total.max()


def test_arrival_follows_the_group_velocity() -> None:
    near_point, far_point = (signals([[0.0, 0.0, w]], 52.83) for w in (5.0, 15.0))
    central = geo.face_grid("inner")[46, 21]
    later = far_point.time[0, central] - near_point.time[0, central]
    walk = 45 * (np.maximum(0.045, 1 / far_point.mean[0, central]) - np.maximum(0.045, 1 / near_point.mean[0, central]))
    assert later - walk == pytest.approx(10 * 3.6 / 29.979, rel=0.01)


def test_surveyed_geometry_moves_the_light() -> None:
    moved = geo.nominal().positions.copy()
    moved[: geo.N_SIPM, 2] += 1.0
    shifted = geo.Geometry(moved, geo.nominal().normals, geo.nominal().face, "moved")
    point = geo.xyz_from_uvw(np.array([[0.0, 0.0, 3.0]]))
    there = geo.xyz_from_uvw(np.array([[1.0, 0.0, 3.0]]))
    found = np.empty((1, geo.N_SENSORS))
    for share in DirectLight(shifted, 1).shares(there.astype(np.float32)):
        found[:, share.sensors] = share.light
    inner = slice(0, geo.N_SIPM)
    np.testing.assert_allclose(found[:, inner], direct_shares(point)[:, inner], rtol=1e-3, atol=1e-9)


def test_fit_finds_a_known_function() -> None:
    from ingest.toymc.scattered import sensor_basis, source_basis
    from ingest.toymc.scattering import light_formula

    rng = np.random.default_rng(7)
    points = draw_sources(rng, 700)
    truth = read_table()
    shares = light_formula(points) * np.exp(source_basis(points) @ truth @ sensor_basis())
    noisy = (shares * rng.gamma(4, 0.25, shares.shape)).astype(np.float32)
    found = fit(points, noisy)
    inside = points[geo.in_fiducial(geo.uvw_from_xyz(points))][:100]
    ratio = np.exp(source_basis(inside) @ (found - truth) @ sensor_basis())
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.08


def test_table_is_made_from_traced_photons() -> None:
    table = make_table(seed=3, sources=400, photons=40)
    assert table.shape == read_table().shape
    assert np.isfinite(table).all()
    np.testing.assert_array_equal(table, make_table(seed=3, sources=400, photons=40))


def test_table_is_written_reproducibly(tmp_path: Path) -> None:

    table = read_table()
    for name in ("a.npz", "b.npz"):
        write_table(tmp_path / name, table)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    np.testing.assert_array_equal(read_table(tmp_path / "a.npz"), table)

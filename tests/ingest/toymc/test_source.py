"""Sources: truth columns agree with each other, and the distributions are those of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.toymc import ToyOptions, generate
from ingest.toymc import constants as c
from ingest.toymc.source import draw_energy, draw_gammas, emission_angles, mean_free_path, opening_angle
from shards import geometry as geo


@pytest.fixture(scope="module", params=["signal", "uniform", "cex"])
def columns(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    options = ToyOptions(energy="cex") if request.param == "cex" else ToyOptions(source=request.param, energy="flat")
    return dict(generate(200, options).columns)


def test_truth_is_consistent(columns: dict[str, np.ndarray]) -> None:
    uvw, xyz, direction, vertex = (columns[k] for k in ("uvwTruth", "xyzTruth", "emiVec", "xyzVTX"))
    np.testing.assert_allclose(geo.xyz_from_uvw(uvw), xyz, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-12)
    flight = xyz - vertex
    np.testing.assert_allclose(flight / np.linalg.norm(flight, axis=1, keepdims=True), direction, atol=1e-9)
    assert geo.inside(xyz).all()
    theta, phi = np.radians(columns["emiAng"]).T
    unit = np.stack([-np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1)
    np.testing.assert_allclose(unit, direction, atol=1e-9)
    assert (columns["energyDep"] <= columns["energyTruth"] * (1 + 1e-6)).all()
    assert (np.abs(columns["timeTruth"]) <= 10).all()


def test_signal_comes_from_the_target_into_the_window() -> None:
    rng = np.random.default_rng(1)
    gammas = draw_gammas(rng, np.full(20000, 52.83), ToyOptions())
    x, y, z = gammas.vertex.T
    np.testing.assert_allclose(x, z * np.tan(np.radians(15)), atol=1e-9)
    assert abs(z.std() / 4 - 1) < 0.03
    assert abs(y.std() - 1) < 0.03
    theta, phi = emission_angles(gammas.direction).T
    assert np.abs(np.cos(np.radians(theta))).max() <= 0.45
    assert np.abs(phi).max() <= 70
    # flat in cos θ, where nothing is lost at the ends
    counts, _ = np.histogram(np.cos(np.radians(theta)), np.linspace(-0.35, 0.35, 8))
    assert np.abs(counts / counts.mean() - 1).max() < 5 / np.sqrt(counts.mean())


def test_depth_is_exponential_along_the_flight() -> None:
    rng = np.random.default_rng(2)
    gammas = draw_gammas(rng, np.full(20000, 52.8), ToyOptions(source="uniform"))
    # keep gammas that could have flown 20 cm inside the detector, and look at the path up to there
    path = _path_inside(gammas.vertex, gammas.direction, gammas.first)
    exit_point = gammas.first + (20 - path)[:, None] * gammas.direction
    deep = geo.inside(exit_point) & (path < 20)
    mean = 5.5 - 20 * np.exp(-20 / 5.5) / (1 - np.exp(-20 / 5.5))
    assert path[deep].mean() == pytest.approx(mean, rel=0.03)


def _path_inside(vertex: np.ndarray, direction: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Length from the inner cylinder to the first interaction, by bisection."""
    low, high = np.zeros(len(first)), np.linalg.norm(first - vertex, axis=1)
    total = high.copy()
    for _ in range(60):
        middle = (low + high) / 2
        point = vertex + middle[:, None] * direction
        outside = np.hypot(point[:, 0], point[:, 1]) > geo.R_INNER
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return total - high


def test_uniform_source_is_flat_over_the_face_and_the_cone() -> None:
    rng = np.random.default_rng(3)
    gammas = draw_gammas(rng, np.full(20000, 52.8), ToyOptions(source="uniform"))
    path = _path_inside(gammas.vertex, gammas.direction, gammas.first)
    entry = gammas.first - path[:, None] * gammas.direction
    uvw = geo.uvw_from_xyz(entry)
    radial = entry * [1, 1, 0] / geo.R_INNER
    cosine = np.einsum("ij,ij->i", radial, gammas.direction)
    assert cosine.min() >= 0.5 - 1e-6
    middle = (np.abs(uvw[:, 0]) < 15) & (np.abs(uvw[:, 1]) < 50)
    for values, limits in ((uvw[middle, 0], (-15, 15)), (uvw[middle, 1], (-50, 50)), (cosine[middle], (0.5, 1))):
        counts, _ = np.histogram(values, np.linspace(*limits, 6))
        assert np.abs(counts / counts.mean() - 1).max() < 4 / np.sqrt(counts.mean())


def test_charge_exchange_has_two_lines_and_back_to_back_gammas() -> None:
    rng = np.random.default_rng(4)
    energy = draw_energy(rng, 20000, ToyOptions(energy="cex"))
    low = energy < 70
    assert low.mean() == pytest.approx(0.5, abs=0.02)
    assert energy[low].min() == pytest.approx(54.9, abs=0.1)
    assert energy[~low].max() == pytest.approx(82.9, abs=0.1)
    opening = np.degrees(opening_angle(energy))
    assert opening.min() >= 165 - 1e-6
    tight = opening > 170
    assert energy[low & tight].max() < 56.5
    assert energy[~low & tight].min() > 80.0
    np.testing.assert_allclose(
        2 * energy * (c.PION_ENERGY - energy) * (1 - np.cos(np.radians(opening))), c.PION_MASS**2, rtol=1e-9
    )


def test_charge_exchange_columns_and_patches() -> None:
    events = generate(480, ToyOptions(energy="cex", dead_fraction=0.02, seed=9))
    patch = events.columns["patch"]
    assert np.array_equal(np.unique(patch), np.arange(24))
    assert (np.diff(patch) >= 0).all()
    assert (events.columns["nDead"] == events.dead[0].sum()).all()
    assert set(np.unique(events.columns["gstatus"])) <= {0, 1, 2, 3}
    assert events.columns["Angle"].max() <= 180
    # the opposite gamma has what is left of the π⁰
    good = events.columns["gstatus"] < 2
    left = c.PION_ENERGY - 1e3 * events.columns["energyTruth"]
    assert np.std((events.columns["Ebgo"] / left - 1)[good]) == pytest.approx(0.045, rel=0.15)
    # patches count along u first, then along v
    v = events.columns["uvwTruth"][:, 1]
    assert v[patch < 3].max() < v[patch >= 21].min()


def test_spectra() -> None:
    rng = np.random.default_rng(5)
    flat = draw_energy(rng, 10000, ToyOptions(energy="flat", energy_range=(15, 65)))
    assert flat.min() >= 15
    assert flat.max() <= 65
    assert flat.mean() == pytest.approx(40, abs=0.5)
    assert (draw_energy(rng, 3, ToyOptions(energy="17.6")) == 17.6).all()
    assert (draw_energy(rng, 3, ToyOptions()) == c.SIGNAL_ENERGY).all()


@pytest.mark.parametrize(("energy", "length"), [(15, 7.5), (30, 6.2), (52.8, 5.5), (83, 5.0)])
def test_mean_free_path(energy: float, length: float) -> None:
    assert mean_free_path(np.array(energy)) == pytest.approx(length)

"""Classical methods on point sources whose light is known exactly."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import geometry as geo
from shards.base import InputError
from shards.normalization import PRESETS, normalize
from xectrain.baselines import MEAN, STRONG, Baselines, RawEvents, calibrate
from xectrain.baselines import localfit as lf
from xectrain.baselines.light import inner_uv, light_centre, window_photons, window_table
from xectrain.baselines.regression import Map, robust_least_squares

PER_MEV = 46000 / (4 * np.pi)


def point_sources(count: int, seed: int = 0, dead: float = 0.01, noise: bool = True) -> RawEvents:
    """Point sources with photon statistics, light that arrives on the straight path, and dead sensors."""
    rng = np.random.default_rng(seed)
    uvw = np.column_stack([rng.uniform(-20, 20, count), rng.uniform(-60, 60, count), rng.uniform(0.8, 15, count)])
    energy, start = rng.uniform(0.04, 0.06, count), rng.uniform(-10, 10, count)
    xyz = geo.xyz_from_uvw(uvw)
    mu = 1e3 * energy[:, None] * PER_MEV * geo.solid_angle(xyz, sipm="square") + 20
    npho = rng.poisson(mu * 0.12) / 0.12 if noise else mu
    path = np.linalg.norm(geo.nominal_positions()[None] - xyz[:, None], axis=2)
    time = (
        start[:, None]
        + path / geo.LIGHT_SPEED_XENON
        + (rng.normal(0, 20, mu.shape) / np.sqrt(mu * 0.12 + 1) if noise else 0)
    )
    lost = rng.random(npho.shape) < dead
    columns = {"energy": energy, "timing": start, **dict(zip("uvw", uvw.T, strict=True))}
    npho, time = np.where(lost, np.nan, npho), np.where(lost, np.nan, time * 1e-9)
    return RawEvents(npho.astype(np.float32), time.astype(np.float32), columns)


@pytest.fixture(scope="module")
def calibrated() -> Baselines:
    return calibrate(lambda: (point_sources(150, seed) for seed in range(4)), ["energy", "timing", "u", "v", "w"])


def test_windows_are_the_face_around_a_sensor():
    table = window_table(1)
    grid = geo.face_grid("inner")
    row, column = 10, 20
    assert table[grid[row, column]].reshape(3, 3).tolist() == grid[row - 1 : row + 2, column - 1 : column + 2].tolist()
    corner = table[grid[0, 0]].reshape(3, 3)
    assert (corner[0] == -1).all()
    assert (corner[:, 0] == -1).all()
    assert corner[1:, 1:].tolist() == grid[:2, :2].tolist()


def test_the_light_centre_finds_a_symmetric_spot():
    channel = geo.face_grid("inner")[40, 20]
    npho = np.full((1, 4760), 7.0, dtype=np.float32)
    npho[0, window_table(1)[channel]] = 500
    npho[0, channel] = 1000
    centre = light_centre(npho)
    assert centre.channel.tolist() == [channel]
    assert (centre.u[0], centre.v[0]) == pytest.approx(tuple(inner_uv()[channel]), abs=1e-6)
    assert centre.light[0] == pytest.approx(8 * 493 + 993)


def test_dead_sensors_do_not_pull_the_light_centre_away():
    events = point_sources(200, seed=5, dead=0.0)
    whole = light_centre(events.npho)
    some = light_centre(np.where(np.random.default_rng(0).random(events.npho.shape) < 0.02, np.nan, events.npho))
    assert np.median(np.hypot(some.u - whole.u, some.v - whole.v)) < 0.05


def test_an_event_without_light_or_sensors_gives_a_place_and_no_exception():
    npho = np.stack([np.zeros(4760), np.full(4760, np.nan)]).astype(np.float32)
    centre = light_centre(npho)
    assert np.isfinite(centre.u).all()
    assert np.isnan(window_photons(npho, centre.channel, 2)[1]).all()
    fit = lf.local_fit(npho, centre)
    assert np.isfinite(fit.w).all()
    assert np.isnan(fit.chi2[1])


def test_the_fit_returns_the_point_exactly_without_noise():
    events = point_sources(100, seed=3, dead=0.01, noise=False)
    fit = lf.local_fit(events.npho, light_centre(events.npho))
    for found, axis in zip((fit.u, fit.v, fit.w), "uvw", strict=True):
        assert np.quantile(np.abs(found - events.columns[axis]), 0.95) < 2e-3
    assert fit.background == pytest.approx(np.full(100, 20.0), abs=2.0)
    assert fit.amplitude == pytest.approx(1e3 * events.columns["energy"] * PER_MEV, rel=0.02)


def test_the_fit_with_photon_statistics():
    events = point_sources(300, seed=4)
    fit = lf.local_fit(events.npho, light_centre(events.npho))
    assert np.quantile(np.abs(fit.u - events.columns["u"]), 0.68) < 0.13
    assert np.quantile(np.abs(fit.w - events.columns["w"]), 0.68) < 1.5
    assert np.nanmedian(fit.chi2) < 2


def test_every_method_on_point_sources(calibrated):
    events = point_sources(300, seed=77)
    truth = events.columns
    found = calibrated.predict(events)
    assert set(STRONG.values()) | {MEAN} <= set(found)

    def width(method: str, column: str) -> float:
        return float(np.quantile(np.abs(found[method][column] - truth[column]), 0.68))

    assert width(MEAN, "u") > 5
    assert width("light_weighted", "u") < 0.5
    assert width("local_fit_corrected", "u") < 0.13
    assert width("local_fit_corrected", "w") < 0.5 * width("light_weighted", "w")
    assert width("face_weights", "energy") < 0.5 * width("photon_sum", "energy")
    assert width("face_weights", "energy") < 0.001
    assert width("light_path", "timing") < 0.1
    xyz = geo.xyz_from_uvw(np.column_stack([found["local_fit"][a] for a in "uvw"]))
    assert found["local_fit"]["x"] == pytest.approx(xyz[:, 0])
    theta = np.degrees(np.arccos(xyz[:, 2] / np.linalg.norm(xyz, axis=1)))
    assert found["local_fit"]["theta"] == pytest.approx(theta)


def test_the_maps_learn_what_moves_with_the_light():
    """A depth and a lateness that grow with the energy, which a map of position alone would leave as a bend."""

    def bent(seed: int) -> RawEvents:
        events = point_sources(200, seed)
        more = events.columns["energy"] - 0.05
        columns = {
            **events.columns,
            "w": events.columns["w"] + 60 * more,
            "timing": events.columns["timing"] - 20 * more,
        }
        return RawEvents(events.npho, events.time, columns)

    baselines = calibrate(lambda: (bent(seed) for seed in range(4)), ["energy", "timing", "u", "v", "w"])
    events = bent(99)
    found, energy = baselines.predict(events), events.columns["energy"]
    for method, column, slope in (("local_fit_corrected", "w", 60), ("light_path", "timing", 20)):
        left = np.polyfit(energy, found[method][column] - events.columns[column], 1)[0]
        assert abs(left) < 0.3 * slope, (method, left)


def test_calibrations_survive_json(calibrated):
    events = point_sources(20, seed=78)
    again = Baselines.from_dict(json.loads(json.dumps(calibrated.to_dict())))
    first, second = calibrated.predict(events), again.predict(events)
    for method, columns in first.items():
        for column, values in columns.items():
            np.testing.assert_array_equal(second[method][column], values)


def test_classical_methods_read_events_where_the_sensors_were_surveyed(calibrated):
    nominal, shift = geo.nominal(), np.array([0.0, 0.0, 1.5])
    moved = geo.Geometry(nominal.positions + shift, nominal.normals, nominal.face, "survey.txt")
    surveyed = dataclasses.replace(calibrated, geometry=moved)
    events = point_sources(20, seed=78)
    first, second = (each.predict(events)["local_fit"]["u"] for each in (calibrated, surveyed))
    np.testing.assert_allclose(second - first, 1.5, atol=0.01)
    again = Baselines.from_dict(json.loads(json.dumps(surveyed.to_dict())))
    assert again == surveyed
    assert again.geometry.name == "survey.txt"


def test_without_positions_only_the_mean_is_compared(caplog):
    def batches():
        events = point_sources(250, seed=1)
        yield RawEvents(events.npho, events.time, {"energy": events.columns["energy"]})

    baselines = calibrate(batches, ["energy"])
    assert "only the mean is compared" in caplog.text
    assert set(baselines.predict(point_sources(3))) == {MEAN}
    assert baselines.means["energy"] == pytest.approx(0.05, rel=0.05)
    assert Baselines.from_dict(baselines.to_dict()) == baselines


def test_no_training_events_are_refused():
    with pytest.raises(InputError, match="no training events"):
        calibrate(lambda: [], ["energy"])


def test_shards_and_raw_arrays_are_the_same_events():
    events = point_sources(3, seed=9)
    norm = PRESETS["standard"]
    sensors = normalize(events.npho, events.time, norm).sensors
    back = RawEvents.from_sensors(sensors, norm, events.columns)
    np.testing.assert_array_equal(np.isnan(back.npho), np.isnan(events.npho))
    np.testing.assert_allclose(back.npho, events.npho, rtol=1e-4, atol=0.2)


@settings(max_examples=25, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 1000))
def test_robust_regression_finds_a_line_through_outliers(slope, offset, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, 400)
    y = offset + slope * x + rng.normal(0, 0.01, 400)
    y[:40] += 3
    found = robust_least_squares(np.column_stack([np.ones(400), x]), y)
    assert found == pytest.approx([offset, slope], abs=0.02)


def test_a_map_is_held_at_the_border_of_its_training_range():
    x = np.linspace(-1, 1, 2000)[:, None]
    learned = Map.fit(x, x**3, degree=3)
    inside = np.array([[-0.9], [0.1], [0.7]])
    assert learned(inside) == pytest.approx(inside**3, abs=1e-4)
    assert learned(np.array([[5.0]])) == pytest.approx(0.99**3, abs=1e-2)

"""Classical fillings of dead sensors: photons and times of point sources whose light is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.toymc import ToyOptions, generate
from shards import geometry as geo
from xectrain.baselines import FILLS, RawEvents, fill, fill_baselines

SCATTERED = 60.0
"""Photons on every sensor, whatever its place."""


def source(count: int = 30, scattered: float = 0.0) -> RawEvents:
    """Point sources without noise: photons by solid angle, light on the straight path from time 0."""
    rng = np.random.default_rng(2)
    uvw = np.column_stack([rng.uniform(-15, 15, count), rng.uniform(-50, 50, count), rng.uniform(2, 6, count)])
    xyz = geo.xyz_from_uvw(uvw)
    npho = 2e5 * geo.solid_angle(xyz, sipm="square") + scattered
    path = np.linalg.norm(geo.nominal_positions()[None] - xyz[:, None], axis=2)
    return RawEvents(npho.astype(np.float32), (path / geo.LIGHT_SPEED_XENON * 1e-9).astype(np.float32), {})


def some(events: RawEvents, share: float = 0.05) -> np.ndarray:
    return np.random.default_rng(3).random(events.npho.shape) < share


def test_photons_where_the_light_falls_off_steeply():
    """Solid-angle weighting beats the plain mean, and the fit is exact."""
    events = source()
    hidden = some(events)
    truth = events.npho[hidden]
    bright = (truth > 200) & (np.nonzero(hidden)[1] < geo.N_SIPM)
    found = fill_baselines(events, hidden)
    error = {name: np.median(np.abs(f.npho - truth)[bright] / truth[bright]) for name, f in found.items()}
    assert error["local_fit"] < 1e-3
    assert error["ring_solid_angle"] < 2e-3
    assert error["ring_mean"] > 5 * error["ring_solid_angle"]
    assert error["near_mean"] > error["ring_mean"]


def test_the_local_fit_adds_the_scattered_light_of_each_place():
    """Far from the fit's window there is no direct light: right is the scattered light there, which is known."""
    events = source(scattered=SCATTERED)
    npho = events.npho.copy()
    far = np.zeros(geo.N_SENSORS, dtype=bool)
    far[: geo.N_SIPM] = geo.uvw_from_xyz(geo.nominal_positions()[: geo.N_SIPM])[:, 1] > 0
    dim = np.where(npho < SCATTERED + 20, 7.0, npho)  # the window's constant is not that of the rest of the face
    events = RawEvents(dim.astype(np.float32), events.time, {})
    hidden = some(events) & far
    truth = events.npho[hidden]
    found = fill_baselines(events, hidden, ("local_fit",))["local_fit"].npho
    assert np.abs(found - truth)[truth == 7.0].mean() < 5.0
    assert np.median(np.abs(found - truth)[truth > 1000]) < 0.01 * 1000


def test_the_local_fit_never_exceeds_what_the_ring_allows():
    """Where the brightest sensors are hidden the fitted amplitude is anything; its share of the ring's light is not."""
    toy = generate(60, ToyOptions(seed=4))
    events = RawEvents(toy.npho.copy(), toy.relative_time, {})
    brightest = np.argsort(-events.npho[:, : geo.N_SIPM], axis=1)
    hidden = np.zeros(events.npho.shape, dtype=bool)
    np.put_along_axis(hidden, brightest[:, [0, 1, 3]], True, axis=1)
    found = fill_baselines(events, hidden, ("local_fit", "ring_mean", "ring_solid_angle"))
    allowed = np.maximum(found["ring_mean"].npho, found["ring_solid_angle"].npho)
    assert (found["local_fit"].npho <= allowed * (1 + 1e-9)).all()


def test_a_late_neighbour_does_not_make_a_time_late():
    events = source()
    hidden = some(events)
    late = some(events, 0.1) != hidden  # independent of what is hidden
    time = np.where(late, events.time + np.float32(1e-8), events.time)
    found = fill_baselines(RawEvents(events.npho, time, {}), hidden, ("ring_solid_angle",))["ring_solid_angle"].time
    assert np.quantile(np.abs(found - events.time[hidden]), 0.9) < 1e-11


def test_times_follow_the_light():
    events = source()
    hidden = some(events)
    inner = np.nonzero(hidden)[1] < geo.N_SIPM
    truth = events.time[hidden]
    found = fill_baselines(events, hidden)
    error = {name: 1e9 * np.abs(f.time - truth) for name, f in found.items()}
    for name in FILLS:
        assert np.isfinite(found[name].time).all(), name
        assert np.median(error[name][inner]) < (1.0 if name == "near_mean" else 0.1), name
    for name in ("ring_solid_angle", "local_fit", "near_solid_angle"):
        assert np.quantile(error[name], 0.95) < 0.01, name


def test_hidden_values_are_not_looked_at():
    events = source(4)
    hidden = some(events)
    other = RawEvents(
        np.where(hidden, 1e5, events.npho).astype(np.float32), np.where(hidden, 1.0, events.time).astype(np.float32), {}
    )
    for name, found in fill_baselines(events, hidden).items():
        again = fill_baselines(other, hidden, (name,))[name]
        np.testing.assert_array_equal(found.npho, again.npho)
        np.testing.assert_array_equal(found.time, again.time)


def test_a_neighbour_without_a_time_does_not_take_part():
    events = source(1)
    hidden = np.zeros_like(events.npho, dtype=bool)
    hidden[0, 2000] = True
    ring = geo.ring().of(2000)
    time = events.time.copy()
    time[0, ring[1:]] = np.nan
    found = fill_baselines(RawEvents(events.npho, time, {}), hidden, ("ring_mean",))["ring_mean"]
    assert found.time == pytest.approx([time[0, ring[0]]])
    assert found.npho == pytest.approx([events.npho[0, ring].mean()])


def test_without_valid_neighbours_a_filling_does_not_know():
    events = RawEvents(np.full((1, 4760), 5.0, dtype=np.float32), np.zeros((1, 4760), dtype=np.float32), {})
    hidden = np.zeros((1, 4760), dtype=bool)
    hidden[0, geo.face_channels("top")] = True
    for name in ("ring_mean", "near_mean"):
        assert np.isnan(fill_baselines(events, hidden, (name,))[name].npho).all()


def test_filling_changes_the_dead_alone():
    events = source(2)
    dead = [500, 4200, 4400, 4600, 4700]
    npho = events.npho.copy()
    npho[1, dead] = np.nan
    filled = fill(RawEvents(npho, events.time, {"run": np.ones(2)}), "ring_mean")
    for channel in dead:
        assert filled.npho[1, channel] == pytest.approx(events.npho[1, geo.ring().of(channel)].mean())
    assert np.delete(filled.npho, dead, axis=1).tobytes() == np.delete(events.npho, dead, axis=1).tobytes()
    assert np.delete(filled.time, dead, axis=1).tobytes() == np.delete(events.time, dead, axis=1).tobytes()
    assert filled.columns["run"].tolist() == [1, 1]
    assert fill(events) is events


def test_filling_when_whole_regions_are_dead():
    npho = np.full((1, 4760), 5.0, dtype=np.float32)
    npho[0, geo.face_channels("top")] = np.nan
    centre = geo.face_grid("inner")[50, 20]
    npho[0, [centre, *geo.ring().of(int(centre))]] = np.nan
    filled = fill(RawEvents(npho, np.full((1, 4760), 1e-8, dtype=np.float32), {}), "ring_mean")
    assert filled.npho[0, centre] == pytest.approx(5.0)
    assert filled.time[0, centre] == pytest.approx(1e-8)
    assert (filled.npho[0, geo.face_channels("top")] == 0).all()
    assert np.isnan(filled.time[0, geo.face_channels("top")]).all()

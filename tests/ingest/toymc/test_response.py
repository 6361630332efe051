"""Sensors: counts, charge, time, saturation, and the response of a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, poisson

from ingest.toymc import constants as c
from ingest.toymc import counts
from ingest.toymc.likelihood import emission_time, time_variance
from ingest.toymc.options import ToyOptions
from ingest.toymc.response import Response, detect, draw_response, per_kind
from ingest.toymc.study import checks
from shards import geometry as geo

QUIET = Response(per_kind(1, 1), per_kind(1, 1), per_kind(0, 0), np.zeros(geo.N_SENSORS, dtype=bool))


@pytest.mark.parametrize("mean", [0.05, 0.9, 1.1, 3.9, 4.1, 11.9, 12.1, 40.0, 300.0])
def test_counts_follow_poisson(mean: float) -> None:
    rng = np.random.Generator(np.random.SFC64(int(100 * mean)))
    n = 300_000
    found = counts.poisson(rng, np.full(n, mean, dtype=np.float32))
    assert found.dtype == np.float32
    assert (found == np.rint(found)).all()
    assert found.min() >= 0
    low, high = poisson.ppf([1e-4, 1 - 1e-4], mean)
    k = np.arange(low, high + 1)
    expected = n * poisson.pmf(k, mean)
    observed = np.array([(found == value).sum() for value in k])
    enough = expected > 10
    statistic = ((observed - expected)[enough] ** 2 / expected[enough]).sum()
    assert statistic < chi2.ppf(1 - 1e-5, enough.sum())


def test_counts_of_very_faint_and_very_bright_sensors() -> None:
    rng = np.random.Generator(np.random.SFC64(1))
    assert (counts.poisson(rng, np.zeros(1000, dtype=np.float32)) == 0).all()
    bright = counts.poisson(rng, np.full(100_000, 1e6, dtype=np.float32)).astype(np.float64)
    assert bright.mean() == pytest.approx(1e6, abs=5 * 1000 / np.sqrt(1e5))
    assert bright.std() == pytest.approx(1000, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.floats(0, 1e5, width=32), min_size=1, max_size=50))
def test_counts_keep_shape_and_are_reproducible(seed: int, means: list[float]) -> None:
    mean = np.array(means, dtype=np.float32)[None]
    first, second = (counts.poisson(np.random.Generator(np.random.SFC64(seed)), mean) for _ in range(2))
    assert first.shape == mean.shape
    np.testing.assert_array_equal(first, second)
    assert (np.abs(first - mean) <= 7 * np.sqrt(mean) + 12).all()


def test_widths_of_charge_and_time() -> None:
    rng = np.random.Generator(np.random.SFC64(2))
    for row in [*checks.check_counts(rng), *checks.check_times(rng)]:
        assert row.good, row


def test_time_has_the_mean_and_variance_of_the_likelihood() -> None:
    rng = np.random.Generator(np.random.SFC64(3))
    for mean in (100.0, 1000.0):
        light = np.full((200, geo.N_SENSORS), mean, dtype=np.float32)
        _, time = detect(rng, light, np.full_like(light, 3.0), QUIET, saturation=False)
        inner = time[:, : geo.N_SIPM].astype(np.float64)
        shape = np.full(geo.N_SENSORS, mean)
        assert inner.mean() == pytest.approx(3 + emission_time(shape)[0], abs=0.01)
        expected = time_variance(shape)[0] - c.TIME_OFFSET_SPREAD**2
        assert inner.var() == pytest.approx(expected, rel=0.04)


def test_no_time_below_one_photoelectron() -> None:
    rng = np.random.Generator(np.random.SFC64(4))
    light = np.full((20, geo.N_SENSORS), 1.0, dtype=np.float32)
    charge, time = detect(rng, light, np.zeros_like(light), QUIET, saturation=False)
    np.testing.assert_array_equal(np.isnan(time), charge < 1)


def test_pixels_saturate() -> None:
    rng = np.random.Generator(np.random.SFC64(5))
    light = np.full((4, geo.N_SENSORS), 30000.0, dtype=np.float32)
    charge, _ = detect(rng, light, np.zeros_like(light), QUIET, saturation=True)
    fired = c.SIPM_PIXELS * (1 - np.exp(-30000 / c.SIPM_PIXELS))
    assert charge[:, : geo.N_SIPM].mean() == pytest.approx(fired, rel=0.002)
    assert charge[:, geo.N_SIPM :].mean() == pytest.approx(30000, rel=0.002)


def test_response_of_a_run() -> None:
    options = ToyOptions(dead_fraction=0.05, dead_channels=(7, 4759))
    one, again, other = draw_response(3, options), draw_response(3, options), draw_response(4, options)
    np.testing.assert_array_equal(one.efficiency, again.efficiency)
    assert (one.efficiency != other.efficiency).mean() > 0.99
    assert (one.offset != other.offset).all()
    assert (one.dead != other.dead).any()
    assert one.dead[[7, 4759]].all()
    assert one.dead.mean() == pytest.approx(0.05, abs=0.015)
    sipm = one.efficiency[: geo.N_SIPM] / 0.12
    assert sipm.mean() == pytest.approx(1, abs=0.01)
    assert sipm.std() == pytest.approx(0.12, rel=0.05)
    assert one.efficiency[geo.N_SIPM :].mean() == pytest.approx(0.16, rel=0.02)
    assert (one.calibrated / one.efficiency).std() == pytest.approx(0.03, rel=0.05)
    assert one.offset.std() == pytest.approx(0.05, rel=0.05)

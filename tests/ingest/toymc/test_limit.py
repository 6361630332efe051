"""Limits: a case with a closed form, a fit that reaches the bound, and the orders of magnitude of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.toymc import constants as c
from ingest.toymc.likelihood import signals
from ingest.toymc.response import Response, detect, per_kind
from ingest.toymc.study.limit import STEP, bounds, fisher, kept_limits, limits, unknown_errors
from shards import geometry as geo
from shards.base import ConfigError


def test_lateral_position_above_a_plane_has_a_closed_form() -> None:
    """Pixels on an infinite plane at distance h see µ ∝ h/r³; then σ_x = h/√(0.6·N), with numerical derivatives too."""
    height, photons, pitch = 5.0, 1e4, 0.25
    at = (np.arange(-800, 800) + 0.5) * pitch
    x, y = np.meshgrid(at, at)

    def expected(x0: float, h: float) -> np.ndarray:
        return photons * pitch**2 * h / (2 * np.pi * ((x - x0) ** 2 + y**2 + h**2) ** 1.5)

    mean = expected(0.0, height).ravel()
    slope_x = (expected(STEP, height) - expected(-STEP, height)).ravel() / (2 * STEP)
    information = fisher(slope_x[None], mean)
    assert bounds(information)[0] == pytest.approx(height / np.sqrt(0.6 * photons), rel=1e-3)


def test_energy_of_a_point_is_known_as_well_as_the_photons_can_be_counted() -> None:
    """With one excess-noise factor, no noise and known place: σ_E/E = √(F/Σµ)."""
    event = signals([[0.0, 0.0, 5.0]], 52.83)
    found = bounds(fisher(event.mean[:1], 1.3 * event.mean[0]))[0]
    assert found == pytest.approx(np.sqrt(1.3 / event.mean.sum()), rel=1e-9)


def test_information_of_two_parameters_is_that_of_a_straight_line() -> None:
    x = np.linspace(-1, 2, 7)
    found = bounds(fisher(np.stack([np.ones(7), x]), np.full(7, 0.25)))
    spread = ((x - x.mean()) ** 2).sum()
    np.testing.assert_allclose(found, [0.5 * np.sqrt((x**2).sum() / 7 / spread), 0.5 / np.sqrt(spread)])


def test_maximum_likelihood_fit_reaches_the_bound() -> None:
    """Point sources, detected by the generator's own sensors, fitted by Fisher's scoring in u, v, w and ln E."""
    truth, energy, toys = np.array([4.0, -12.0, 6.0]), 52.83, 60
    perfect = Response(
        per_kind(c.PDE_SIPM, c.QE_PMT), per_kind(1, 1), per_kind(0, 0), np.zeros(geo.N_SENSORS, dtype=bool)
    )
    mean = signals([truth], energy).mean
    rng = np.random.Generator(np.random.SFC64(7))
    light = np.repeat(mean / perfect.efficiency, toys, axis=0).astype(np.float32)
    charge, _ = detect(rng, light, np.zeros_like(light), perfect, saturation=False)
    shifts = np.vstack([np.zeros(3), STEP * np.eye(3), -STEP * np.eye(3)])
    fitted, first_bound = np.empty((toys, 4)), None
    for toy in range(toys):
        place, log_energy = truth + np.array([0.3, -0.3, 0.3]), np.log(energy) + 0.02
        for _ in range(4):
            event = signals(place + shifts, np.exp(log_energy))
            slopes = np.vstack([(event.mean[1:4] - event.mean[4:7]) / (2 * STEP), event.mean[:1]])
            information = fisher(slopes, event.variance[0])
            step = np.linalg.solve(information, (slopes / event.variance[0]) @ (charge[toy] - event.mean[0]))
            place, log_energy = place + step[:3], log_energy + step[3]
        fitted[toy] = [*place, log_energy]
        first_bound = bounds(information) if first_bound is None else first_bound
    assert first_bound is not None
    pulls = (fitted - [*truth, np.log(energy)]) / first_bound
    assert np.abs(pulls.mean(axis=0)).max() < 4.5 / np.sqrt(toys)
    # 60 toys know a width to 9 %
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.35)


@pytest.mark.parametrize("case", ["point", "known"])
def test_photon_statistics_limits(case: str) -> None:
    for row in limits([1.0, 4.0, 15.0], case=case):
        assert min(row.u, row.v, row.w) > 0.003
        assert max(row.u, row.v, row.w) < 0.1
        assert row.energy == pytest.approx(0.0036, rel=0.1)
        assert row.time == pytest.approx(0.031, rel=0.25)


def test_limits_grow_with_depth_and_shrink_with_energy() -> None:
    shallow, deep = limits([1.0, 10.0], case="point")
    assert shallow.u < deep.u
    (weak,) = limits([10.0], case="point", energy=52.83 / 4)
    assert weak.energy == pytest.approx(2 * deep.energy, rel=0.1)


@pytest.mark.parametrize("seed", [0])
def test_unknown_showers_limit_more_than_photons(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.toymc.study.limit.UNKNOWN_SHOWERS", 600)
    (row,), (known,) = limits([4.0], case="unknown"), limits([4.0], case="known")
    for value, least in ((row.u, known.u), (row.v, known.v), (row.w, known.w)):
        assert 3 * least < value
        assert 0.1 < value < 0.8
    assert 0.01 < row.energy < 0.05
    assert known.time < row.time < 0.1


def test_unknown_case_is_named() -> None:
    with pytest.raises(ConfigError, match=r"case: is not known .*did you mean 'known'"):
        limits([1.0], case="knwon")


def test_kept_places_are_known_worse_the_deeper_they_are() -> None:
    """One shower in hundreds that ends next to a sensor must not decide what "unbiased" means."""
    for gamma in (20.0, 52.83):
        rows = [row for row in kept_limits() if row.gamma == gamma]
        assert [row.depth for row in rows] == [1.0, 3.0, 8.0, 20.0]
        for name in ("u", "v", "w"):
            values = [getattr(row, name) for row in rows]
            assert values == sorted(values), (gamma, name, values)


@pytest.mark.slow
def test_no_single_shower_decides_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.toymc.study.limit.UNKNOWN_SHOWERS", 1000)
    place = np.array([0.0, 0.0, 8.0])
    widths = []
    for seed in (20, 21, 22):
        errors = unknown_errors(np.random.default_rng(seed), place, 52.83)
        low, high = np.quantile(errors[:, :3], [0.15865, 0.84135], axis=0)
        widths.append((high - low) / 2)
    assert np.max(np.std(widths, axis=0) / np.mean(widths, axis=0)) < 0.15

"""Peak fits on samples drawn from the shapes themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from shards.base import ConfigError
from xectrain.evaluation.peaks import SHAPES, density, fit_peak


def leaking(count: int, seed: int = 0, sigma: float = 0.8) -> np.ndarray:
    """A line at 54.9, of which 45 % leak, few of them little, as in the toy."""
    rng = np.random.default_rng(seed)
    loss = np.where(rng.random(count) < 0.45, rng.gamma(3, 0.5, count), 0.0)
    return 54.9 + rng.normal(0, sigma, count) - loss


def test_a_gaussian_is_found_with_honest_errors():
    pulls = []
    for seed in range(25):
        x = np.random.default_rng(seed).normal(54.9, 0.7, 2000)
        fit = fit_peak(x, 54.0, "single")
        assert fit is not None
        pulls.append([(fit.mean - 54.9) / fit.mean_error, (fit.sigma - 0.7) / fit.sigma_error])
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.7
    assert 0.6 < np.std(pulls) < 1.4


@pytest.mark.parametrize("shape", SHAPES)
def test_densities_are_normalized_in_the_window(shape):
    parameters = {"single": (54.9, 0.8), "expgauss": (54.9, 0.8, 0.9), "double": (54.9, 0.8, 0.3, 0.7, 2.0)}[shape]
    window = (51.9, 56.4)
    total, _ = quad(lambda x: float(density(shape, np.array([x]), parameters, window)[0]), *window)
    assert total == pytest.approx(1, rel=1e-6)


def test_the_tail_is_described_and_the_peak_stays():
    x = leaking(20_000)
    fits = {shape: fit_peak(x, 54.9, shape) for shape in SHAPES}
    assert all(fit is not None for fit in fits.values())
    assert fits["single"].sigma > 1.0 > fits["double"].sigma
    assert fits["double"].mean == pytest.approx(54.9, abs=0.15)
    assert fits["double"].sigma == pytest.approx(0.8, abs=0.12)
    assert fits["single"].mean < fits["double"].mean


def test_goodness_tells_the_shape_that_describes_the_peak():
    x = leaking(5000, sigma=0.3)
    double, expgauss, single = (fit_peak(x, 54.9, shape) for shape in SHAPES)
    assert double.ndf == 44
    assert double.chi2 < 2 * double.ndf
    assert expgauss.chi2 > 4 * expgauss.ndf
    assert single.chi2 > expgauss.chi2
    assert double.mean == pytest.approx(54.9, abs=0.05)
    assert double.sigma == pytest.approx(0.3, abs=0.03)
    assert double.sigma < double.width < expgauss.width


def test_goodness_and_width_of_a_gaussian_are_what_they_say():
    fits = [fit_peak(np.random.default_rng(seed).normal(54.9, 0.7, 500), 54.9, "single") for seed in range(40)]
    assert np.mean([fit.chi2 / fit.ndf for fit in fits]) == pytest.approx(1, abs=0.1)
    for fit in fits:
        assert fit.width == pytest.approx(fit.sigma, rel=1e-4)
        assert fit.width_error == pytest.approx(fit.sigma_error, rel=1e-3)


def test_the_window_of_a_wide_peak_is_wider():
    x = np.random.default_rng(0).normal(54.9, 4.0, 5000)
    fit = fit_peak(x, 54.9, "single")
    assert fit is not None
    assert fit.window[1] - fit.window[0] == pytest.approx(4.5 * 4.0 / 1.5, rel=0.05)
    assert fit.sigma == pytest.approx(4.0, abs=0.2)


def test_the_window_follows_a_peak_that_is_elsewhere():
    x = leaking(5000) - 1.5
    fit = fit_peak(x, 54.9)
    assert fit is not None
    assert fit.mean == pytest.approx(53.4, abs=0.3)
    assert fit.window[0] == pytest.approx(fit.mean - 3, abs=0.15)


def test_too_few_events_and_unknown_shapes():
    assert fit_peak(leaking(30), 54.9) is None
    assert fit_peak([np.nan] * 100, 54.9) is None
    with pytest.raises(ConfigError, match=r"no such peak shape .*did you mean 'double'"):
        fit_peak(leaking(100), 54.9, "duoble")

"""Metrics against cases whose answer is known on paper."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xectrain import metrics
from xectrain.metrics.statistics import median, quantile, skewness, spread

N = 40_000
rng = np.random.default_rng(20)
GAUSSIAN = np.sort(rng.normal(0.3, 2.0, N))


def gaussian_quantiles(n: int = 4000) -> np.ndarray:
    """An ideal unit Gaussian sample: no statistical noise, so that identities hold tightly."""
    from scipy.stats import norm

    return np.asarray(norm.ppf((np.arange(n) + 0.5) / n))


@pytest.mark.parametrize(
    "width",
    [metrics.effective_sigma, metrics.half_width_68, metrics.upper_half_width, metrics.core_sigma, spread],
)
def test_every_width_of_a_gaussian_is_its_sigma(width):
    assert width(3.0 * gaussian_quantiles()) == pytest.approx(3.0, rel=3e-3)


def test_percentile_68_of_absolute_residuals_of_a_gaussian():
    x = np.sort(np.abs(gaussian_quantiles()))
    assert metrics.percentile_68(x) == pytest.approx(0.99446, rel=2e-3)  # solves erf(x/√2) = 0.68


def test_leakage_tail_shows_in_the_right_widths_only():
    """A fifth of the events leak: core and upper half width stay, 68 % and effective σ grow."""
    ideal = gaussian_quantiles()
    x = np.sort(np.concatenate([ideal, -3 - 2 * np.abs(ideal[:1000])]))
    assert metrics.core_sigma(x) == pytest.approx(1.0, abs=0.05)
    assert metrics.upper_half_width(x) < 1.2
    assert metrics.effective_sigma(x) > 1.25
    assert metrics.half_width_68(x) > 1.5


def test_effective_sigma_of_a_uniform_and_of_an_exponential():
    uniform = np.linspace(0, 1, 10_001)
    assert metrics.effective_sigma(uniform) == pytest.approx(0.6827 / 2, abs=2e-4)
    exponential = -np.log(1 - (np.arange(10_000) + 0.5) / 10_000)
    assert metrics.effective_sigma(exponential) == pytest.approx(-math.log(1 - 0.6827) / 2, abs=1e-3)


def test_quantile_is_numpys():
    x = np.sort(rng.normal(size=101))
    for q in (0.0, 0.1, 0.5, 0.683, 1.0):
        assert quantile(x, q) == pytest.approx(np.quantile(x, q))
    assert median(x) == pytest.approx(np.median(x))


def test_bootstrap_uncertainties_agree_with_the_textbook():
    mean, width = metrics.estimate(GAUSSIAN, lambda x: float(np.mean(x)), spread, resamples=300)
    assert mean.error == pytest.approx(2.0 / math.sqrt(N), rel=0.2)
    assert width.error == pytest.approx(2.0 / math.sqrt(2 * N), rel=0.2)
    (middle,) = metrics.estimate(GAUSSIAN, median, resamples=300)
    assert middle.error == pytest.approx(2.0 * math.sqrt(math.pi / 2 / N), rel=0.25)


def test_too_few_events_give_nan_not_an_exception():
    for sample in ([], [1.0], [np.nan, np.inf]):
        for e in metrics.estimate(
            sample, median, spread, skewness, metrics.effective_sigma, metrics.core_sigma, metrics.half_width_68
        ):
            assert math.isnan(e.error)
    assert math.isnan(metrics.estimate([], metrics.effective_sigma)[0].value)


samples = hnp.arrays(np.float64, st.integers(3, 60), elements=st.floats(-1e3, 1e3, width=32))


@settings(max_examples=60, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_order_of_events_does_not_matter(sample, random):
    shuffled = list(sample)
    random.shuffle(shuffled)
    one = metrics.estimate(sample, spread, metrics.effective_sigma, metrics.core_sigma, resamples=10)
    two = metrics.estimate(shuffled, spread, metrics.effective_sigma, metrics.core_sigma, resamples=10)
    assert one == two


@settings(max_examples=60, deadline=None)
@given(samples, st.sampled_from([0.25, 2.0, 1024.0]), st.floats(-100, 100))
def test_widths_scale_and_do_not_shift(sample, factor, shift):
    for width in (metrics.effective_sigma, metrics.half_width_68, metrics.upper_half_width):
        before, after = width(np.sort(sample)), width(np.sort(sample * factor))
        assert after == pytest.approx(before * factor, rel=1e-12)
        assert width(np.sort(sample + shift)) == pytest.approx(before, rel=1e-9, abs=1e-9)


def test_energy_fit_recovers_its_terms():
    energy = np.linspace(0.015, 0.06, 10)
    truth = np.sqrt((0.3 / np.sqrt(energy)) ** 2 + 1.2**2 + (0.02 / energy) ** 2)
    fit = metrics.fit_energy_resolution(energy, truth, 1e-4 * truth)
    assert fit is not None
    assert (fit.a.value, fit.b.value, fit.c.value) == pytest.approx((0.3, 1.2, 0.02), rel=1e-3)
    assert fit(energy) == pytest.approx(truth, rel=1e-6)
    assert fit.chi2 == pytest.approx(0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 3), min_size=3, max_size=3), st.integers(0, 2**31))
def test_energy_fit_is_the_best_of_the_non_negative_ones(terms, seed):
    """Against SciPy's NNLS on the same weighted problem, with scattered points."""
    from scipy.optimize import nnls

    generator = np.random.default_rng(seed)
    energy = np.linspace(0.015, 0.06, 8)
    a, b, c = terms[0] / 5, terms[1] + 0.3, terms[2] / 50
    value = np.sqrt(a**2 / energy + b**2 + c**2 / energy**2) * generator.normal(1, 0.05, 8)
    error = 0.05 * value
    fit = metrics.fit_energy_resolution(energy, value, error, resamples=3)
    assert fit is not None
    design = np.stack([1 / energy, np.ones(8), 1 / energy**2], axis=1) / (2 * value * error)[:, None]
    scale = np.linalg.norm(design, axis=0)
    _, norm = nnls(design / scale, value**2 / (2 * value * error))
    assert fit.chi2 <= norm**2 * (1 + 1e-6) + 1e-9


def test_energy_fit_needs_two_bins():
    assert metrics.fit_energy_resolution([0.05], [2.0], [0.1]) is None
    assert metrics.fit_energy_resolution([0.05, 0.06], [2.0, np.nan], [0.1, 0.1]) is None


def test_opening_angle_is_exact_where_arccos_is_not():
    theta = np.array([90.0, 90.0, 90.0, 0.0])
    other = np.array([90.0 + 1e-6, 91.0, 180.0 - 90.0, 180.0])
    psi = metrics.opening_angle(
        metrics.direction_from_angles(theta, np.zeros(4)), metrics.direction_from_angles(other, np.zeros(4))
    )
    assert psi == pytest.approx([1e-6, 1.0, 0.0, 180.0], rel=1e-6, abs=1e-12)


def test_emission_angles_follow_the_convention():
    vector = metrics.direction_from_angles([90.0, 90.0, 0.0], [0.0, 90.0, 0.0])
    assert vector == pytest.approx(np.array([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), abs=1e-15)
    theta, phi = 70.0, -35.0
    x, y, z = metrics.direction_from_angles(theta, phi)
    assert (math.degrees(math.acos(z)), math.degrees(math.atan2(y, -x))) == pytest.approx((theta, phi))


def test_azimuth_residual_wraps():
    assert metrics.residual("phi", [179.0], [-179.0]) == pytest.approx([-2.0])
    assert metrics.residual("theta", [179.0], [-179.0]) == pytest.approx([358.0])


def test_task_metrics_speak_the_units_of_people():
    truth = {"energy": np.full(5000, 0.0528), "timing": np.zeros(5000)}
    predicted = {
        "energy": 0.0528 + 0.001 * (1 + gaussian_quantiles(5000)),
        "timing": 0.07 * gaussian_quantiles(5000),
    }
    energy = metrics.task_metrics("energy", predicted, truth, resamples=5)
    assert energy["energy_bias"].value == pytest.approx(1.0)
    assert energy["energy_bias"].unit == "MeV"
    assert energy["energy_effective_sigma"].value == pytest.approx(1.0, rel=0.01)
    assert energy["energy_relative_effective_sigma"].value == pytest.approx(100 / 52.8, rel=0.01)
    timing = metrics.task_metrics("timing", predicted, truth, resamples=5)
    assert timing["timing_core_sigma"].value == pytest.approx(70, rel=0.01)
    assert timing["timing_core_sigma"].unit == "ps"


def test_position_metrics_have_the_documented_names():
    zeros = dict.fromkeys("uvw", np.zeros(1000))
    shifted = {"u": np.full(1000, 0.3), "v": np.full(1000, -0.4), "w": np.full(1000, 1.2)}
    result = metrics.task_metrics("uvwFI", shifted, zeros, resamples=3)
    assert result["uvw_dist_68pct"].value == pytest.approx(1.3)
    assert result["uvw_v_bias"].value == pytest.approx(-0.4)
    assert result["uvw_w_res_68pct"].value == pytest.approx(1.2)
    assert result["uvw_w_res_68pct_about_median"].value == pytest.approx(0.0, abs=1e-12)
    assert {m.name for m in metrics.headline(result)} >= {"uvw_u_res_68pct", "uvw_dist_68pct"}
    with pytest.raises(KeyError):
        result["uvw_w_luck"]


def test_angle_metrics():
    theta = np.full(1000, 90.0)
    result = metrics.task_metrics(
        "angle", {"theta": theta + 3, "phi": np.full(1000, 4.0)}, {"theta": theta, "phi": np.zeros(1000)}, resamples=3
    )
    assert result["theta_bias"].value == pytest.approx(3.0)
    psi = math.degrees(math.acos(math.cos(math.radians(3)) * math.cos(math.radians(4))))
    assert result["angle_resolution_68pct"].value == pytest.approx(psi)
    assert result["angle_cosine_loss"].value == pytest.approx(1 - math.cos(math.radians(psi)))


def test_missing_truth_and_predictions_are_left_out_and_counted():
    truth = {"u": np.array([0, 1, np.nan, 3.0]), "v": np.zeros(4), "w": np.zeros(4)}
    predicted = {"u": np.array([0, np.nan, 2, 4.0]), "v": np.zeros(4), "w": np.zeros(4)}
    result = metrics.task_metrics("uvwFI", predicted, truth, resamples=0)
    assert (result.events, result.missing_truth, result.missing_prediction) == (2, 1, 1)
    assert result["uvw_u_bias"].value == pytest.approx(0.5)
    assert math.isnan(result["uvw_u_bias"].error)


def test_predicted_uncertainties_are_judged():
    r = 2.0 * gaussian_quantiles()
    right = metrics.uncertainty_metrics(r, np.full(r.size, 2.0), resamples=5)
    assert right["pull_width"].value == pytest.approx(1, rel=0.01)
    assert right["calibration"].value == pytest.approx(1, rel=0.01)
    assert right["coverage_68"].value == pytest.approx(0.6827, abs=2e-3)
    assert right["coverage_95"].value == pytest.approx(0.95, abs=2e-3)
    boastful = metrics.uncertainty_metrics(r, np.full(r.size, 1.0), resamples=5)
    assert boastful["pull_width"].value == pytest.approx(2, rel=0.01)
    assert boastful["calibration"].value == pytest.approx(0.5, rel=0.01)
    assert boastful["coverage_68"].value < 0.4
    columns = {"theta": r, "phi": r}
    judged = metrics.task_metrics(
        "angle", columns, dict.fromkeys(columns, np.zeros(r.size)), {"theta": np.full(r.size, 2.0)}, resamples=3
    )
    assert judged["theta_pull_width"].value == pytest.approx(1, rel=0.01)
    assert "phi_pull_width" not in judged


def test_predicted_intervals_are_judged():
    r = gaussian_quantiles()
    zeros, ends = np.zeros(r.size), {0.68: (r - 0.9945, r + 0.9945), 0.95: (r - 1.96, r + 10.0)}
    judged = metrics.task_metrics("timing", {"timing": r}, {"timing": zeros}, resamples=0, intervals={"timing": ends})
    assert judged["timing_coverage_68"].value == pytest.approx(0.68, abs=2e-3)
    assert judged["timing_coverage_95"].value == pytest.approx(0.975, abs=2e-3)
    assert judged["timing_coverage_95"].error == pytest.approx(math.sqrt(0.975 * 0.025 / r.size), rel=0.05)


def test_number_of_gammas_is_judged_by_accuracy():
    result = metrics.task_metrics("n_gamma", {"n_gamma": [1, 2, 0, 1]}, {"n_gamma": [1, 1, 0, 1]})
    assert result["n_gamma_accuracy"].value == 0.75


def test_profile_finds_a_bias_that_depends_on_position():
    x = rng.uniform(-20, 20, N)
    r = 0.1 * x + rng.normal(0, 1 + 0.05 * np.abs(x))
    found = metrics.profile(x, r, edges=np.linspace(-20, 20, 9), resamples=20)
    assert found.bias == pytest.approx(0.1 * found.centre, abs=5 * float(np.max(found.bias_error)))
    assert found.sigma == pytest.approx(1 + 0.05 * np.abs(found.centre), rel=0.1)
    assert found.count.sum() == N
    nearly_empty = metrics.profile([0.1, 0.2, 5.0], [1, 2, 3], edges=[0, 1, 2], resamples=2)
    assert nearly_empty.count.tolist() == [2, 0]
    assert np.isnan(nearly_empty.sigma).all()


def test_edges_of_a_sample_without_spread():
    assert metrics.default_edges(np.full(10, 52.83)).size == 2
    assert metrics.profile(np.full(100, 52.83), GAUSSIAN[:100], resamples=2).count.tolist() == [100]


def test_the_flat_summary_for_logs():
    x = gaussian_quantiles(500)
    outputs = {"pred_energy": 0.05 + 1e-3 * x, "true_energy": np.full(500, 0.05), "sigma_energy": np.full(500, 1e-3)}
    flat = metrics.summary(outputs, ["energy"])
    assert flat["energy_effective_sigma"] == pytest.approx(1.0, rel=0.01)
    assert flat["energy_pull_width"] == pytest.approx(1.0, rel=0.01)
    assert all(math.isfinite(value) for value in flat.values())


@pytest.mark.parametrize("width", [metrics.effective_sigma, metrics.half_width_68, metrics.upper_half_width])
def test_one_event_has_no_width(width):
    assert math.isnan(width(np.array([3.0])))
    assert width(np.array([3.0, 3.0])) == 0

"""Factors of uncertainties: right in all and around each knot, whatever the order of the events."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xectrain.models.factors import ENOUGH_EVENTS, EVENTS_PER_KNOT, KNOTS, Factor, bent, fit_factor

Array = np.ndarray


def sample(events: int, seed: int, slope: float = 0.0) -> tuple[Array, Array]:
    """Values, some of them equal, and ratios whose spread grows with the value."""
    draw = np.random.default_rng(seed)
    value = np.round(draw.normal(size=events), 2)
    return value, (1 + slope * np.arctan(value)) * draw.standard_t(4, size=events)


def at(factor: Factor, value: Array) -> Array:
    return np.asarray(factor.scale * np.interp(value, factor.knots, factor.bend))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(ENOUGH_EVENTS, 4 * EVENTS_PER_KNOT),
    st.integers(0, 10**6),
    st.floats(0, 0.6),
    st.sampled_from((0.68, 0.84, 0.975)),
)
def test_calibrating_events_are_covered_exactly_and_their_order_does_not_matter(
    events: int, seed: int, slope: float, fraction: float
) -> None:
    value, ratio = sample(events, seed, slope)
    ratio[::50] = np.nan
    factor = fit_factor(value, ratio, fraction)
    good = np.isfinite(ratio)
    if np.count_nonzero(good) >= ENOUGH_EVENTS:
        below = np.count_nonzero(ratio[good] < at(factor, value[good]))
        assert abs(below - fraction * np.count_nonzero(good)) <= 1
    shuffled = np.random.default_rng(seed).permutation(events)
    again = fit_factor(value[shuffled], ratio[shuffled], fraction)
    assert factor.scale == again.scale
    assert (factor.knots == again.knots).all()
    assert (factor.bend == again.bend).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 0.6))
def test_a_larger_fraction_has_no_smaller_factor(seed: int, slope: float) -> None:
    value, ratio = sample(1500, seed, slope)
    grid = np.linspace(value.min() - 1, value.max() + 1, 50)
    inner, outer = (at(fit_factor(value, np.abs(ratio), fraction), grid) for fraction in (0.68, 0.95))
    assert (inner < outer).all()


def test_every_bin_is_covered_where_one_factor_would_not_do() -> None:
    value, ratio = sample(20_000, seed=1, slope=0.5)
    unseen, other = sample(20_000, seed=2, slope=0.5)
    factor = fit_factor(value, ratio, 0.84)
    for k in range(10):
        low, high = np.quantile(value, (k / 10, (k + 1) / 10))
        some = (unseen > low) & (unseen <= high)
        assert np.mean(other[some] < at(factor, unseen)[some]) == pytest.approx(0.84, abs=0.035)
    one = np.quantile(ratio, 0.84)
    lowest = unseen < np.quantile(value, 0.1)
    assert np.mean(other[lowest] < one) > 0.95


def test_few_events_give_one_factor_and_very_few_none() -> None:
    value, ratio = sample(2 * EVENTS_PER_KNOT - 1, seed=0, slope=0.5)
    factor = fit_factor(value, ratio, 0.84)
    assert (factor.bend == 1).all()
    assert factor.scale == np.quantile(ratio, 0.84)  # as before factors could bend
    assert fit_factor(value[: ENOUGH_EVENTS - 1], ratio[: ENOUGH_EVENTS - 1], 0.84).scale == 1
    assert fit_factor(value, ratio - 100, 0.84).scale == 0  # no distance is small enough


def test_chance_bends_nothing() -> None:
    bends = [fit_factor(*sample(6000, seed), 0.84).bend for seed in range(20)]
    assert sum(bool((bend != 1).any()) for bend in bends) <= 1


def test_equal_values_have_one_knot() -> None:
    ratio = np.random.default_rng(0).normal(size=4000)
    assert (fit_factor(np.full(4000, 7.0), ratio, 0.84).bend == 1).all()
    half = fit_factor(np.repeat([7.0, 7.0 + 1e-9], 2000), ratio * np.repeat([1, 2], 2000), 0.84)
    assert (half.bend == 1).all()  # the same in single precision


def test_the_graph_computes_what_was_fitted() -> None:
    value, ratio = sample(8000, seed=3, slope=0.5)
    factor = fit_factor(value, ratio, 0.84)
    assert len(factor.knots) == len(factor.bend) == KNOTS
    knots_PRK, bend_PRK = (torch.from_numpy(table)[:, None, None] for table in (factor.knots, factor.bend))
    found = bent(torch.from_numpy(value)[:, None], knots_PRK, bend_PRK)[:, 0, 0]
    np.testing.assert_allclose(factor.scale * found.numpy(), at(factor, value), rtol=1e-5)

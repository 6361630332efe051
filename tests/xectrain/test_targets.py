import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.base import ConfigError
from xectrain.targets import TargetOptions, absolute_time, check_columns, fit_statistics, targets, true_values
from xectrain.tasks import TASKS

COLUMNS = [
    "run",
    "timing",
    "time_min_used",
    "x",
    "y",
    "z",
    "vtx_x",
    "vtx_y",
    "vtx_z",
    "energy",
    "n_gamma",
    "u",
    "v",
    "w",
]


def truth(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(column, 0.0) for column in COLUMNS]], dtype=torch.float64)


def test_the_time_is_relative_and_at_the_conversion_point_in_full_precision() -> None:
    """A run's absolute times need more digits than float32 has: 29 cm are flown in 0.967 ns, after a day."""
    day_ns = 86400e9
    row = truth(timing=day_ns + 5.0, time_min_used=day_ns * 1e-9, x=-20.0, y=21.0, z=0.0)
    flight = 29.0 / 29.9792458
    relative = targets(TASKS["timing"], row, COLUMNS, TargetOptions())
    assert float(relative) == pytest.approx(5.0 + flight, abs=0.05)  # float64 holds a day to 0.02 ns
    at_vertex = targets(TASKS["timing"], row, COLUMNS, TargetOptions(timing_at="vertex"))
    assert float(relative - at_vertex) == pytest.approx(flight, abs=1e-9)
    absolute = true_values(TASKS["timing"], row, COLUMNS, TargetOptions())
    assert float(absolute) == pytest.approx(day_ns + 5.0 + flight, abs=0.05)
    shown = absolute_time(relative.numpy()[:, 0], row[:, COLUMNS.index("time_min_used")].numpy())
    assert shown[0] == pytest.approx(float(absolute), abs=0.05)
    unsubtracted = targets(TASKS["timing"], row, COLUMNS, TargetOptions(relative_time=False))
    assert float(unsubtracted) == pytest.approx(float(absolute), abs=1e-3)


def test_an_unknown_earliest_time_leaves_no_number() -> None:
    """The mark for "missing" is 1e10, which would become 1e19 ns."""
    marks = np.array([1e10, np.nan, np.inf, -np.inf, -1e10, 2e-7])
    np.testing.assert_allclose(absolute_time(np.full(6, 3.0), marks), [*[np.nan] * 5, 203.0])


def test_an_event_with_any_missing_value_has_no_target() -> None:
    row = truth(u=1.0, v=float("nan"), w=2.0, energy=0.05)
    assert targets(TASKS["uvwFI"], row, COLUMNS, TargetOptions()).isnan().all()
    assert float(targets(TASKS["energy"], row, COLUMNS, TargetOptions())) == 0.05


@pytest.mark.parametrize(("count", "known"), [(0, True), (4, True), (5, False), (-1, False), (1.5, False)])
def test_only_zero_to_four_gammas_are_classes(count: float, known: bool) -> None:
    assert bool(targets(TASKS["n_gamma"], truth(n_gamma=count), COLUMNS, TargetOptions()).isfinite()) == known


@pytest.mark.parametrize(
    ("task", "missing", "message"),
    [
        (
            "angle",
            "theta",
            "tasks.angle: needs the truth column 'theta', which the data do not have; switch the task off",
        ),
        ("timing", "vtx_x", r"tasks.timing: needs the truth column 'vtx_x'.*set tasks.timing_at=vertex"),
        ("timing", "time_min_used", "needs the truth column 'time_min_used'"),
    ],
)
def test_absent_truth_is_refused_by_name(task: str, missing: str, message: str) -> None:
    columns = [column for column in COLUMNS if column != missing]
    with pytest.raises(ConfigError, match=message):
        check_columns([task], columns, TargetOptions())
    with pytest.raises(ConfigError, match=f"needs the truth column '{missing}'"):
        targets(TASKS[task], torch.zeros(1, len(columns), dtype=torch.float64), columns, TargetOptions())


def test_what_a_task_does_not_need_may_be_absent() -> None:
    check_columns(["timing", "energy"], ["timing", "energy"], TargetOptions(relative_time=False, timing_at="vertex"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_statistics_describe_the_events_that_have_truth(seed: int, scale: float, shift: float) -> None:
    values = np.random.default_rng(seed).normal(shift, scale, (200, 3))
    values[::7] = np.nan
    found = fit_statistics(TASKS["uvwFI"], values)
    good = values[np.isfinite(values).all(axis=1)]
    np.testing.assert_allclose(found.mean, good.mean(axis=0))
    np.testing.assert_allclose(found.spread, good.std(axis=0))
    np.testing.assert_allclose(found.quantiles[:, [0, -1]], np.stack([good.min(axis=0), good.max(axis=0)], axis=1))
    assert found.count == len(good)


def test_what_cannot_be_learned_is_refused_by_name() -> None:
    mono = np.full((10, 1), 0.05283)
    with pytest.raises(
        ConfigError, match=r"tasks.energy: the truth column 'energy' has no spread.*0.05283 in all 10 events"
    ):
        fit_statistics(TASKS["energy"], mono)
    flat_v = np.stack([np.arange(10.0), np.zeros(10), np.arange(10.0)], axis=1)
    with pytest.raises(ConfigError, match="'v' has no spread"):
        fit_statistics(TASKS["uvwFI"], flat_v)
    with pytest.raises(ConfigError, match="no event has truth"):
        fit_statistics(TASKS["energy"], np.full((3, 1), np.nan))
    with pytest.raises(ConfigError, match="log_transform needs positive values of 'energy'"):
        fit_statistics(TASKS["energy"], np.array([[0.0], [1.0]]), log_transform=True)
    with pytest.raises(ConfigError, match="'n_gamma' has no spread"):
        fit_statistics(TASKS["n_gamma"], np.ones((5, 1)))


def test_logarithms_are_standardized_and_quantiles_stay_physical() -> None:
    values = np.exp(np.random.default_rng(0).normal(1.0, 0.3, (500, 1)))
    found = fit_statistics(TASKS["energy"], values, log_transform=True)
    assert found.mean[0] == pytest.approx(np.log(values).mean())
    assert found.quantiles[0, -1] == pytest.approx(values.max())

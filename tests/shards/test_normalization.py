"""Normalization: exact inverses, marked bad values, and the same numbers from NumPy and torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.base import ConfigError
from shards.normalization import (
    NPHO_THRESHOLD,
    PRESETS,
    SCHEMES,
    Normalization,
    SensorCounts,
    apply_threshold,
    check_remap,
    classify,
    denormalize,
    mark_dead,
    normalize,
    preset,
    remap,
    rounding,
    valid,
)
from shards.normalization.sensors import BLOCK

SENSORS = 24
schemes = st.sampled_from(
    [*PRESETS.values(), preset("standard", scheme="anscombe"), preset("standard", scheme="linear")]
)
dtypes = st.sampled_from(["float32", "float16"])

bad = st.sampled_from([np.nan, np.inf, -np.inf, 1e10, 9.1e9])
photons = st.one_of(st.floats(-50, 2e5), st.integers(-3, 300).map(float), st.just(0.0))
seconds = st.floats(-1e-7, 3e-7)
npho_arrays = hnp.arrays(np.float64, (8,), elements=st.one_of(photons, bad), fill=st.nothing())
time_arrays = hnp.arrays(np.float64, (8,), elements=st.one_of(seconds, bad, st.just(-1e10)), fill=st.nothing())


@given(schemes, st.floats(0, 5e5))
def test_inverse_undoes_forward(norm: Normalization, x: float) -> None:
    back = norm.inverse_npho(norm.forward_npho(np.float64(x)))
    assert back == pytest.approx(x, rel=1e-12, abs=1e-9)


@given(schemes, st.floats(-1e-6, 1e-6))
def test_inverse_undoes_forward_in_time(norm: Normalization, t: float) -> None:
    assert norm.inverse_time(norm.forward_time(np.float64(t))) == pytest.approx(t, rel=1e-12, abs=1e-20)


@pytest.mark.parametrize(
    ("scheme", "x", "y"),
    [
        ("log1p", 1000.0, np.log(2.0) / 4.08),
        ("anscombe", 24.625, np.sqrt(25 / 1000.375)),
        ("sqrt", 250.0, 0.5),
        ("linear", -250.0, -0.25),
    ],
)
def test_the_formulas_are_those_of_the_specification(scheme: str, x: float, y: float) -> None:
    assert preset("standard", scheme=scheme).forward_npho(np.float64(x)) == pytest.approx(y, rel=1e-14)


def test_time_formula() -> None:
    assert preset("standard").forward_time(np.float64(1.14e-7)) == pytest.approx(1.46, rel=1e-14)


@pytest.mark.parametrize(("scheme", "lowest"), [("log1p", -999.0), ("anscombe", -0.375), ("sqrt", 0.0)])
def test_predictions_below_the_domain_are_clamped_and_not_folded_back(scheme: str, lowest: float) -> None:
    norm = preset("standard", scheme=scheme)
    assert norm.domain_minimum == lowest
    got = norm.inverse_npho(np.array([-30.0, -2.5]))
    np.testing.assert_allclose(got, lowest, rtol=1e-9, atol=1e-12)
    assert norm.inverse_npho(torch.tensor([-30.0])).item() == pytest.approx(lowest, rel=1e-5, abs=1e-6)


def test_linear_has_no_domain_minimum() -> None:
    assert preset("standard", scheme="linear").inverse_npho(np.array([-3.0])) == -3000.0


def test_each_class_is_written_as_the_table_says() -> None:
    norm = preset("sqrt")
    npho = np.array([200.0, 200.0, -3.0, -3.0, np.nan, 1e10, 50.0])
    time = np.array([1e-8, np.nan, 1e-8, 1e10, 1e-8, 1e-8, 1e-8])
    batch = normalize(npho, time, norm, dead=np.arange(7) == 6)
    t = np.float32(1e-8 / 1.14e-7 + 0.46)
    expected = [[0.1, t], [0.1, -5], [0, t], [0, -5], [-1, -5], [-1, -5], [-1, -5]]
    np.testing.assert_array_equal(batch.sensors, np.array(expected, np.float32))
    assert batch.counts.totals() == {
        "good": 1,
        "dead": 3,
        "out_of_domain": 2,
        "time_invalid": 2,
        "nudged": 0,
        "saturated": 0,
    }


def test_legacy_takes_nonpositive_photons_for_dead_and_reads_validity_from_the_time() -> None:
    norm = preset("legacy")
    batch = normalize(np.array([0.0, -1.0, 5.0, 5.0]), np.array([1e-8, 1e-8, 1e-8, np.nan]), norm)
    assert batch.classes.dead.tolist() == [True, True, False, False]
    npho_valid, time_valid = valid(batch.sensors, norm)
    assert npho_valid.tolist() == time_valid.tolist() == [False, False, True, False]
    assert norm.validity_from_time
    assert not preset("standard").validity_from_time
    zero_but_timed = np.array([[[0.0, 0.3]]], np.float32)
    assert valid(zero_but_timed, norm)[0].item(), "0 is a physical value when the time is good"


@given(schemes, npho_arrays, time_arrays, dtypes)
def test_sentinels_mark_exactly_the_bad_sensors(
    norm: Normalization, npho: np.ndarray, time: np.ndarray, dtype: str
) -> None:
    batch = normalize(npho, time, norm, dtype=dtype)
    npho_valid, time_valid = valid(batch.sensors, norm)
    np.testing.assert_array_equal(time_valid, ~batch.classes.time_invalid)
    expected = ~batch.classes.time_invalid if norm.validity_from_time else ~batch.classes.dead
    np.testing.assert_array_equal(npho_valid, expected)
    assert batch.sensors.dtype == dtype
    assert np.isfinite(batch.sensors.astype(np.float64)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_valid_value_that_would_equal_a_sentinel_is_nudged_and_counted(dtype: str) -> None:
    norm = preset("standard", scheme="linear", npho_scale=10.0)
    time_at_sentinel = float(norm.inverse_time(norm.sentinel_time))
    batch = normalize(np.array([-10.0, 5.0]), np.array([1e-8, time_at_sentinel]), norm, dtype=dtype)
    kind = np.dtype(dtype).type
    assert batch.sensors[0, 0] == np.nextafter(kind(-1), kind(0))
    assert batch.sensors[1, 1] == np.nextafter(kind(-5), kind(0))
    assert all(v.all() for v in valid(batch.sensors, norm))
    assert batch.counts.nudged.tolist() == [1, 1]


def test_zero_photons_are_told_from_a_sentinel_of_zero_when_zero_is_not_dead() -> None:
    norm = preset("legacy", nonpositive_is_dead=False)
    batch = normalize(np.array([0.0, np.nan]), np.array([0.0, 0.0]), norm)
    assert valid(batch.sensors, norm)[0].tolist() == [True, False]
    assert batch.counts.nudged.tolist() == [1, 0]
    assert denormalize(batch.sensors, norm)[0][0] == pytest.approx(0.0, abs=1e-6)


def test_values_beyond_float16_are_written_as_its_largest_number_and_counted() -> None:
    norm = preset("standard", scheme="linear", npho_scale=1.0)
    batch = normalize(np.array([1e6, 10.0]), np.array([0.0, 1.0]), norm, dtype="float16")
    assert batch.sensors[0, 0] == 65504
    assert batch.counts.saturated.tolist() == [1, 1]
    assert np.isfinite(batch.sensors).all()


@given(schemes, npho_arrays, time_arrays)
def test_denormalize_gives_back_good_values_and_nan_for_bad_ones(
    norm: Normalization, npho: np.ndarray, time: np.ndarray
) -> None:
    batch = normalize(npho, time, norm)
    got_npho, got_time = denormalize(batch.sensors, norm)
    npho_valid, time_valid = valid(batch.sensors, norm)
    np.testing.assert_array_equal(np.isnan(got_npho), ~npho_valid)
    np.testing.assert_array_equal(np.isnan(got_time), ~time_valid)
    expected = np.where(batch.classes.out_of_domain, 0.0, npho)
    np.testing.assert_allclose(got_npho[npho_valid], expected[npho_valid], rtol=3e-6, atol=2e-3)
    np.testing.assert_allclose(got_time[time_valid], time[time_valid], atol=2e-13)


@pytest.mark.parametrize("name", list(PRESETS))
def test_numpy_rounds_once_from_float64_whatever_it_writes_into(name: str) -> None:
    norm, rng = preset(name), np.random.default_rng(0)
    npho = rng.exponential(300, (BLOCK * 2 + 3, 50)).astype(np.float32)  # more than a block
    time = rng.uniform(0, 1e-7, npho.shape).astype(np.float32)
    time[rng.random(time.shape) < 0.4] = 1e10
    npho[rng.random(npho.shape) < 0.1] = np.nan
    place = np.zeros((len(npho), 51, 2), np.float32)[:, 1:]
    batch = normalize(npho, time, norm, out=place)
    assert batch.sensors is place
    for i, (values, forward, sentinel, bad) in enumerate(
        (
            (npho, norm.forward_npho, norm.sentinel_npho, np.isnan(npho)),
            (time, norm.forward_time, norm.sentinel_time, np.isnan(npho) | (time == 1e10)),
        )
    ):
        expected = np.where(bad, np.float32(sentinel), forward(values.astype(np.float64)).astype(np.float32))
        np.testing.assert_array_equal(place[..., i], expected)
    np.testing.assert_array_equal(normalize(npho, time, norm).sensors, place)


@settings(deadline=None)
@given(schemes, npho_arrays, time_arrays, dtypes)
def test_torch_gives_what_numpy_gives(norm: Normalization, npho: np.ndarray, time: np.ndarray, dtype: str) -> None:
    mine = normalize(npho, time, norm, dtype=dtype)
    theirs = normalize(torch.from_numpy(npho), torch.from_numpy(time), norm, dtype=dtype)
    spacing = 2e-3 if dtype == "float16" else 2e-7
    np.testing.assert_allclose(theirs.sensors.float().numpy(), mine.sensors.astype(np.float32), rtol=spacing, atol=1e-6)
    for field in dataclasses.fields(SensorCounts):
        if field.name != "nudged":  # the last bit of a logarithm may differ
            np.testing.assert_array_equal(getattr(mine.counts, field.name), getattr(theirs.counts, field.name))
    stored = torch.from_numpy(mine.sensors)
    for a, b in zip(valid(stored, norm), valid(mine.sensors, norm), strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    for a, b in zip(denormalize(stored, norm), denormalize(mine.sensors, norm), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-3)


@given(schemes, schemes, npho_arrays, time_arrays)
def test_remapping_gives_what_converting_with_the_target_would(
    source: Normalization, target: Normalization, npho: np.ndarray, time: np.ndarray
) -> None:
    npho = np.where(np.abs(npho) < 0.5, 0.5, np.abs(npho))  # where every scheme keeps the whole information
    if source.validity_from_time or target.validity_from_time:
        time = np.where(np.abs(time) > 1, 0.0, time)  # these lose photons whose time is bad, by definition
        time = np.where(np.isnan(time), 0.0, time)
    got = remap(normalize(npho, time, source).sensors, source, target)
    direct = normalize(npho, time, target).sensors
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, direct, rtol=5e-6, atol=2e-6)
    for a, b in zip(valid(got, target), valid(direct, target), strict=True):
        np.testing.assert_array_equal(a, b)


@given(npho_arrays, time_arrays)
def test_remapping_there_and_back_is_exact(npho: np.ndarray, time: np.ndarray) -> None:
    source, target = preset("standard"), preset("standard", scheme="anscombe", npho_scale=500.0, time_scale=6.5e-8)
    sensors = normalize(np.where(npho < 0, 0, npho), time, source).sensors
    back = remap(remap(sensors, source, target), target, source)
    np.testing.assert_array_equal(back == -1, sensors == -1)
    np.testing.assert_array_equal(back == -5, sensors == -5)
    np.testing.assert_allclose(back, sensors, rtol=1e-6, atol=1e-6)


def test_float16_is_not_remapped() -> None:
    sensors = np.zeros((1, 3, 2), np.float16)
    with pytest.raises(ConfigError, match="float16 shards cannot be remapped"):
        remap(sensors, preset("standard"), preset("sqrt"))
    with pytest.raises(ConfigError, match="float16 shards cannot be remapped"):
        check_remap(preset("standard"), preset("sqrt"), "float16")
    assert remap(sensors, preset("sqrt"), preset("sqrt")) is sensors


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_threshold_invalidates_times_below_it_and_keeps_those_at_it(name: str) -> None:
    norm = preset(name)
    sensors = normalize(np.array([99.9, 100.0, 100.1, 1e5]), np.full(4, 1e-8), norm).sensors
    got = apply_threshold(sensors, norm, 100.0)
    assert valid(got, norm)[1].tolist() == [False, True, True, True]
    np.testing.assert_array_equal(got[..., 0], sensors[..., 0])
    np.testing.assert_array_equal(got, apply_threshold(torch.from_numpy(sensors), norm, 100.0).numpy())
    assert apply_threshold(sensors, norm, None) is sensors
    np.testing.assert_array_equal(apply_threshold(sensors, norm, NPHO_THRESHOLD["legacy"]), sensors)


def test_marking_dead_sets_both_sentinels() -> None:
    norm = preset("standard")
    sensors = np.full((2, 3, 2), 0.5, np.float32)
    got = mark_dead(sensors, norm, np.array([True, False, False]))
    assert got[:, 0].tolist() == [[-1, -5]] * 2
    assert valid(got, norm)[0].tolist() == [[False, True, True]] * 2
    np.testing.assert_array_equal(mark_dead(torch.from_numpy(sensors), norm, torch.tensor([True, False, False])), got)


def test_integer_photons_are_taken() -> None:
    batch = normalize(np.array([0, 7], np.int32), np.array([0, 1], np.float32), preset("standard"))
    assert denormalize(batch.sensors, preset("standard"))[0] == pytest.approx([0.0, 7.0], abs=1e-3)


def test_counts_add_up() -> None:
    one = normalize(np.full((5, 3), np.nan), np.zeros((5, 3)), preset("standard")).counts
    assert (one + one + SensorCounts.zero(3)).dead.tolist() == [10, 10, 10]


class Chain(torch.nn.Module):
    """Cleaning, threshold, masks and remapping, as a network's input stage has them."""

    def __init__(self, norm: Normalization) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, npho: torch.Tensor, time: torch.Tensor, dead: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sensors = apply_threshold(normalize(npho, time, self.norm, dead).sensors, self.norm, 100.0)
        return remap(sensors, self.norm, PRESETS["sqrt"]), *valid(sensors, self.norm), *denormalize(sensors, self.norm)


def awkward_input(events: int, sensors: int = SENSORS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photons, times and dead flags with everything bad in them, and photons exactly at the threshold."""
    rng = np.random.default_rng(events)
    npho = (rng.exponential(300, (events, sensors)) - 5).astype(np.float32)
    time = rng.uniform(0, 1e-7, npho.shape).astype(np.float32)
    for value in (np.nan, np.inf, 1e10):
        npho[rng.random(npho.shape) < 0.05] = value
        time[rng.random(npho.shape) < 0.05] = value
    npho[:, :3] = 100.0
    return npho, time, rng.random(npho.shape) < 0.05


def tensors(events: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array).to(device) for array in awkward_input(events))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_tensor_path_is_traced_whole(scheme: str) -> None:
    chain = Chain(preset("standard", scheme=scheme))
    compiled = torch.compile(chain, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors(4)), chain(*tensors(4)), equal_nan=True)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_the_tensor_path_exports_to_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    chain, names = Chain(preset("standard")).eval(), ["npho", "time", "dead"]
    shapes = tuple({0: torch.export.Dim("events")} for _ in names)
    path = str(tmp_path / "chain.onnx")
    torch.onnx.export(chain, tensors(3), path, dynamo=True, dynamic_shapes=shapes, input_names=names, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for events in (1, 2, 7, 64):
        got = session.run(None, dict(zip(names, awkward_input(events), strict=True)))
        for a, b in zip(got, chain(*tensors(events)), strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=2e-4 if np.nanmax(a) > 100 else 1e-6)


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives() -> None:
    for norm in PRESETS.values():
        chain = Chain(norm)
        for a, b in zip(chain(*tensors(64, "cuda")), chain(*tensors(64)), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheme": "log"}, "unknown npho scheme 'log'.*'log1p'"),
        ({"npho_scale": 0.0}, "normalization.npho_scale: must be positive"),
        ({"sentinel_npho": -1.1}, "a sentinel must be exact in every storage type"),
        ({"npho_skale": 1.0}, "unknown normalization parameter 'npho_skale'.*'npho_scale'"),
        ({"npho_scale": "1000"}, "normalization.npho_scale: has the wrong type"),
        ({"npho_scale": True}, "normalization.npho_scale: has the wrong type"),
        ({"time_shift": float("nan")}, "normalization.time_shift: must be finite"),
    ],
)
def test_wrong_parameters_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("standard", **values)


def test_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown normalization 'standart'; did you mean 'standard'"):
        preset("standart")


@given(schemes)
def test_dictionaries_round_trip(norm: Normalization) -> None:
    assert Normalization.from_dict(norm.to_dict()) == norm


def test_rounding_is_that_of_the_specification() -> None:
    """float16 on log-compressed counts: up to about 0.2 % at 1e5 photons, 16–32 ps rms (worst 28–56) in time."""
    norm = preset("standard")
    rng = np.random.default_rng(1)
    sensors = normalize(rng.uniform(9e4, 1e5, (50, SENSORS)), rng.uniform(0, 1.1e-7, (50, SENSORS)), norm).sensors
    report = rounding(sensors, norm)
    assert report.measured
    assert 1e-3 < report.npho_relative.worst < 2.2e-3
    assert 16e-12 < report.time.rms < 32e-12
    assert 28e-12 < report.time.worst < 57e-12
    assert report.npho_statistics.worst == pytest.approx(report.npho.worst / np.sqrt(9.5e4), rel=0.05)
    estimated = rounding(sensors.astype(np.float16), norm)
    assert not estimated.measured
    assert estimated.time.rms == pytest.approx(report.time.rms, rel=0.1)
    assert estimated.npho.rms == pytest.approx(report.npho.rms, rel=0.1)


def test_classes_need_no_copy_of_the_dead_list() -> None:
    classes = classify(np.ones((2, 3)), np.ones((2, 3)), preset("standard"), dead=np.array([False, True, False]))
    assert classes.dead.tolist() == [[False, True, False]] * 2

"""Pre-training and inpainting in use: hidden sensors in files and numbers, dead sensors filled, others untouched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import uproot
from support.synthetic import make_events
from support.trained import COLUMNS, EVENTS, Trained
from typer.testing import CliRunner

from shards import geometry as geo
from shards.base import ConfigError, InputError
from shards.normalization import denormalize
from xectrain.baselines import FILLS, STRONG_FILL, fill
from xectrain.cli import compare as compare_cli
from xectrain.cli import evaluate as evaluate_cli
from xectrain.evaluation.sensors import evaluate_sensors
from xectrain.inference.events import Events
from xectrain.inference.infer import infer
from xectrain.inference.load import load
from xectrain.inference.request import Request
from xectrain.inference.root_output import read_metadata
from xectrain.inference.sensors import SensorPredictor, filled
from xectrain.inference.sources import ReadOptions, Wanted, open_parts
from xectrain.metrics.sensors import filled_light, relative_errors, sensor_metrics
from xectrain.modes.chosen_masks import chosen_masks


@pytest.fixture(scope="module")
def place(trained: Trained) -> Path:
    """`data`, `a.root` (its first source), and the runs `regress`, `mae` and `inpaint`."""
    assert trained.data.parent == trained.roots[0].parent == trained.regress.parent
    assert trained.mae.parent == trained.inpaint.parent
    return trained.folder


@pytest.fixture(scope="module")
def inpainter(place: Path) -> SensorPredictor:
    found = load(place / "inpaint", device="cpu", precision="fp32", batch_size=5)
    assert isinstance(found, SensorPredictor)
    return found


@pytest.fixture(scope="module")
def autoencoder(place: Path) -> SensorPredictor:
    found = load(place / "mae", device="cpu", precision="fp32", batch_size=5)
    assert isinstance(found, SensorPredictor)
    return found


def tree(path: Path) -> dict[str, np.ndarray]:
    with uproot.open(path) as file:
        return dict(file["predictions"].arrays(library="np"))


def test_filling_changes_dead_sensors_only_and_bit_for_bit_nothing_else(inpainter):
    npho, time, _ = make_events(7, 3, COLUMNS)
    extra = np.zeros(4760, dtype=bool)
    extra[100:110] = True
    found = inpainter.fill(npho, time, dead=extra)
    dead = ~(npho <= 9e9) | extra
    np.testing.assert_array_equal(found.filled, dead)
    assert found.npho[~dead].tobytes() == npho[~dead].tobytes()
    assert found.time[~dead].tobytes() == time[~dead].tobytes()
    assert np.isfinite(found.npho[dead]).all()
    assert np.isfinite(found.time[dead]).all()  # a bright sensor without a time is nothing a regressor has seen
    assert not np.isfinite(npho[dead & ~extra]).all() or (npho[dead & ~extra] > 9e9).any()


def test_what_a_model_does_not_predict_is_filled_classically(inpainter):
    npho, time, _ = make_events(3, 5, COLUMNS)
    dead = np.zeros((3, 4760), dtype=bool)
    dead[:, 2000:2010] = True
    events = Events.of_raw(npho, time, dead)
    norm = inpainter.facts.normalization
    found = filled(events, dead, {"npho": np.full(npho.shape, 7.0)}, norm)
    expected = fill(events.photons(norm), missing=dead)
    assert (found.npho[dead] == 7).all()
    np.testing.assert_array_equal(found.time[dead], expected.time[dead])
    assert np.isfinite(found.time[dead]).all()


def test_a_filled_sensor_does_not_depend_on_its_own_value(inpainter):
    npho, time, _ = make_events(2, 4, COLUMNS)
    dead = np.zeros(4760, dtype=bool)
    dead[[50, 4200]] = True
    other = npho.copy()
    other[:, dead] = 12345.0
    one, two = inpainter.fill(npho, time, dead), inpainter.fill(other, time, dead)
    np.testing.assert_array_equal(one.npho, two.npho)


def test_stored_sensors_come_out_as_they_are_stored(place, inpainter):
    from shards.opening import open_dataset

    dataset = open_dataset(place / "data")

    sensors, _ = dataset.read(np.arange(4))
    found = inpainter.fill_events(Events.stored(sensors, dataset.normalization))
    npho, _ = denormalize(sensors, dataset.normalization)
    np.testing.assert_array_equal(found.npho[~found.filled], npho.astype(np.float32)[~found.filled])


def test_real_data_inference_fills(place, inpainter, tmp_path):
    infer(inpainter, open_parts([place / "a.root"]), tmp_path / "p.root", Request())
    rows = tree(tmp_path / "p.root")
    npho, _, _ = make_events(EVENTS // 2, 0, COLUMNS)
    kept = ~rows["filled"]
    assert rows["npho"][kept].tobytes() == npho[kept].tobytes()
    assert rows["event"].tolist() == list(range(EVENTS // 2))
    assert {"true_energy", "vtx_x", "energyReco", "source", "entry"} <= set(rows)
    assert read_metadata(tmp_path / "p.root")["predict_channels"] == "npho,time"


def test_validation_inference_is_a_row_per_hidden_sensor(place, inpainter, tmp_path):
    result = infer(inpainter, open_parts([place / "data"]), tmp_path / "p.root", Request(hide=True))
    rows = tree(tmp_path / "p.root")
    assert result.events == EVENTS
    assert rows["event_idx"].max() == EVENTS - 1
    np.testing.assert_array_equal(rows["face"], geo.nominal_faces()[rows["sensor_id"]])
    assert np.isfinite(rows["truth_npho"]).all()
    np.testing.assert_allclose(rows["error_npho"], rows["pred_npho"] - rows["truth_npho"], rtol=1e-5, atol=1e-3)
    share = np.bincount(rows["event_idx"]) / 4760
    assert (share > 0.045).all()
    assert (share <= 0.05).all()
    for name in FILLS:
        assert np.isfinite(rows[f"baseline_{name}_npho"]).mean() > 0.99
    assert "0 random" in str(read_metadata(tmp_path / "p.root")["mask_types"])


def test_masks_depend_on_the_event_alone(place, inpainter):
    """The same event hides the same sensors in any batch, from shards or ROOT."""
    (shards,), (root,) = open_parts([place / "data"]), open_parts([place / "a.root"])
    wanted = Wanted(5, "cpu", inpainter.facts.normalization)
    hidden: dict[tuple[float, float], np.ndarray] = {}
    for part in (root, shards):
        for events in part.read(wanted, ReadOptions()):
            found = inpainter.hide_and_predict(events)
            for i, key in enumerate(zip(events.columns["run"], events.columns["event"], strict=True)):
                if key in hidden:
                    np.testing.assert_array_equal(found.hidden[i], hidden[key])
                hidden[key] = found.hidden[i]
    assert len(hidden) == EVENTS


def test_autoencoder_inference_is_a_row_per_event(place, autoencoder, tmp_path):
    infer(autoencoder, open_parts([place / "data"]), tmp_path / "p.root", Request(columns=()))
    rows = tree(tmp_path / "p.root")
    assert rows["mask"].shape == (EVENTS, 4760)
    for channel in ("npho", "time"):
        seen, truth = rows[f"masked_{channel}"], rows[f"truth_{channel}"]
        assert np.isnan(seen[rows["mask"]]).all()
        np.testing.assert_array_equal(seen[~rows["mask"]], truth[~rows["mask"]])
        np.testing.assert_array_equal(rows[f"err_{channel}"], rows[f"pred_{channel}"] - truth)
    valid = np.isfinite(rows["truth_npho"]).sum(axis=1)
    np.testing.assert_array_equal(rows["mask"].sum(axis=1), np.floor(0.6 * valid + 1e-9))


def test_hiding_belongs_to_the_inpainter(place, tmp_path):
    with pytest.raises(ConfigError, match="only an inpainter can hide sensors"):
        infer(
            load(place / "regress", device="cpu"), open_parts([place / "data"]), tmp_path / "p.root", Request(hide=True)
        )


def test_evaluation_numbers_are_those_of_the_table(place, inpainter, tmp_path):
    (result,) = evaluate_sensors({"network": inpainter}, open_parts([place / "data"]), tmp_path, ReadOptions(), 8)
    table = pl.read_parquet(tmp_path / "predictions_sensors.parquet")
    assert result.events == 8
    assert table["event_idx"].n_unique() == 8
    numbers = json.loads((tmp_path / "metrics.json").read_text())["data"]["data"]
    assert numbers["n_masked_total"] == len(table)
    assert numbers["actual_mask_ratio"] == pytest.approx(0.05, abs=0.001)
    inner = table.filter(pl.col("face") == geo.INNER)
    expected = float((inner["pred_npho"] - inner["truth_npho"]).abs().mean())
    assert numbers["metrics"]["network"]["mae_inner_npho"][0] == pytest.approx(expected, rel=1e-5)
    ring = float((inner["baseline_ring_mean_npho"] - inner["truth_npho"]).mean())
    assert numbers["metrics"]["ring_mean"]["bias_inner_npho"][0] == pytest.approx(ring, rel=1e-4)
    assert (tmp_path / "resolution_sensors.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_several_models_on_the_same_sensors(place, tmp_path):
    arguments = [str(place / "inpaint"), str(place / "mae"), "--data", str(place / "data"), "--out", str(tmp_path)]
    done = CliRunner().invoke(compare_cli.app, [*arguments, "--device", "cpu"], catch_exceptions=False)
    assert "of 2 models" in done.output
    assert STRONG_FILL in done.output
    table = pl.read_parquet(tmp_path / "predictions_sensors.parquet")
    assert {"pred_npho", "pred_npho:mae", "pred_time:mae"} <= set(table.columns)
    numbers = json.loads((tmp_path / "metrics.json").read_text())["data"]["data"]["metrics"]
    assert {"inpaint", "mae", *FILLS} == set(numbers)
    page = (tmp_path / "report.html").read_text()
    assert "Hidden sensors: inpaint, mae" in page
    for part in ("face", "decade of the true light [photons]"):
        assert f"Filled light over true light − 1, and bias in photons, per {part}" in page


def test_evaluate_takes_these_modes_too(place, tmp_path):
    arguments = [
        str(place / "mae"),
        str(place / "data"),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--max-events",
        "4",
    ]
    done = CliRunner().invoke(evaluate_cli.app, arguments, catch_exceptions=False)
    assert "network, npho (photons)" in done.output
    assert "network, time (ns)" in done.output


@pytest.mark.parametrize(
    ("masks", "share"), [("random:0.1", 0.1), ("flat:0.02", 0.02), ("fixed:7", 42 / 4760), ("pattern:LIST", 3 / 4760)]
)
def test_masks_can_be_chosen(place, inpainter, tmp_path, masks, share):
    (tmp_path / "list.txt").write_text("5\n4200\n4700\n")
    masker = chosen_masks(masks.replace("LIST", str(tmp_path / "list.txt")), inpainter.facts.normalization)
    batch = next(open_parts([place / "data"])[0].read(Wanted(5, "cpu", inpainter.facts.normalization), ReadOptions()))
    usual, inpainter.masker = inpainter.masker, masker
    try:
        hidden = inpainter.hide_and_predict(batch).hidden
    finally:
        inpainter.masker = usual
    assert hidden.mean() == pytest.approx(share, rel=0.02 if "pattern" not in masks else 0.5)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ("randm:0.1", r"masks: is not a way to hide sensors \(found randm:0.1\); did you mean 'random'"),
        ("random", r"masks: needs a fraction of the sensors \(found random, expected random:FRACTION"),
        ("flat:2", "needs a fraction of the sensors"),
        ("fixed:0", r"needs a number of sensors \(found fixed:0, expected fixed:N, N ≥ 1\)"),
        ("pattern", "needs a list of dead channels"),
        ("sensor-front:3", "takes no value"),
    ],
)
def test_masks_that_there_are_not(inpainter, masks, message):
    with pytest.raises(ConfigError, match=message):
        chosen_masks(masks, inpainter.facts.normalization)


def test_regression_options_do_not_apply(place, tmp_path):
    arguments = [str(place / "mae"), str(place / "data"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for option in (["--by", "run"], ["--sample", "a=w > 1"], ["--no-baselines"]):
        with pytest.raises(ConfigError, match="does not apply to a model that predicts sensors"):
            CliRunner().invoke(evaluate_cli.app, [*arguments, *option], catch_exceptions=False)


def test_filled_light_is_summed():
    truth, filled = np.array([5.0, 50, 500, 500, np.nan]), np.array([10.0, 50, 400, 500, 7])
    found = {e.place: e for e in filled_light(truth, filled, np.array([0, 0, 1, 1, 1]))}
    assert found["inner"].ratio == pytest.approx(60 / 55)
    assert found["outer"].ratio == pytest.approx(0.9)
    assert found["< 10"].bias == pytest.approx(5)
    assert (found["100–1000"].ratio, found["100–1000"].bias) == pytest.approx((0.9, -50))
    assert found["top"].count == 0
    assert np.isnan(found["top"].ratio)


def test_a_regressor_is_no_inpainter(place, tmp_path):
    arguments = [str(place / "regress"), "--data", str(place / "data"), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="does not predict sensors"):
        CliRunner().invoke(compare_cli.app, arguments, catch_exceptions=False)


def test_no_events_and_other_shapes_are_refused(inpainter):
    with pytest.raises(InputError, match="sensors have the wrong shape"):
        inpainter.fill(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="no events"):
        inpainter.fill_events(Events.of_raw(np.zeros((0, 4760)), np.zeros((0, 4760))))
    npho, time, _ = make_events(2, 0, COLUMNS)
    with pytest.raises(ConfigError, match="masks are drawn from 'run'"):
        inpainter.hide_and_predict(Events.of_raw(npho, time))


def test_sensor_metrics_in_known_cases():
    face = np.repeat([0, 1], 500)
    truth = np.full(1000, 100.0)
    predicted = truth + np.where(face == 0, 10.0, -4.0)
    found = {m.name: m.value for m in sensor_metrics("npho", truth, predicted, face)}
    assert found["bias_inner_npho"] == pytest.approx(10)
    assert found["bias_outer_npho"] == pytest.approx(-4)
    assert found["bias_all_npho"] == pytest.approx(3)
    assert found["rmse_all_npho"] == pytest.approx(np.sqrt(58))
    assert found["res_95pct_inner_npho"] == pytest.approx(10)
    assert "bias_top_npho" not in found
    times = {m.name: (m.value, m.unit) for m in sensor_metrics("time", truth * 1e-9, predicted * 1e-9, face)}
    assert times["mae_all_time"] == (pytest.approx(7), "ns")


def test_relative_errors_in_bins_of_light():
    truth = np.concatenate([np.full(50, 150.0), np.full(50, 2000.0), np.full(5, 9e4)])
    predicted = truth * np.concatenate([np.full(50, 1.1), np.tile([0.9, 1.1], 25), np.ones(5)])
    found = relative_errors(truth, truth, predicted)
    dim, bright = np.searchsorted(found.edges, 150.0) - 1, np.searchsorted(found.edges, 2000.0) - 1
    assert (found.bias[dim], found.mae[dim]) == pytest.approx((0.1, 0.1))
    assert (found.bias[bright], found.mae[bright], found.rms[bright]) == pytest.approx((0, 0.1, 0.1), abs=1e-9)
    assert np.isnan(found.bias[np.searchsorted(found.edges, 9e4) - 1])  # 5 entries are too few
    assert found.count.sum() == 105

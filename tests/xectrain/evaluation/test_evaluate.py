"""Evaluation from a trained model to the report: every number can be recomputed from the tables it leaves."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import uproot
from support.synthetic import make_dataset
from support.trained import COLUMNS, TASKS, Trained, tiny_run, write_root
from typer.testing import CliRunner

from shards.base import ConfigError, CorruptError, InputError, OutputError
from shards.opening import open_dataset
from xectrain.baselines import STRONG
from xectrain.cli.evaluate import app
from xectrain.evaluation.classical import calibrated_baselines, predict_part, training_views
from xectrain.evaluation.evaluate import evaluate
from xectrain.evaluation.report import render
from xectrain.evaluation.results import Evaluation, EvaluationOptions
from xectrain.evaluation.tables import TaskTable, read_table, task_table
from xectrain.evaluation.wording import compact, headline_label
from xectrain.inference.load import load
from xectrain.inference.regressor import Predictor
from xectrain.inference.sources import ReadOptions, open_parts
from xectrain.metrics import task_metrics

FAST = {"baseline_events": 200, "resamples": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other` and `small` (datasets, the last too small for plots) and `bare` (without truth)."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_dataset(folder / "other", 50, columns=COLUMNS, first_source=5)
    make_dataset(folder / "small", 25, columns=COLUMNS, first_source=9)
    make_dataset(folder / "bare", 20, columns=("run", "event", "time_min_used"), first_source=7)
    return folder


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> Predictor:
    return load(trained.regress, device="cpu", precision="fp32", batch_size=32)


@pytest.fixture(scope="module")
def result(place: Path, predictor: Predictor) -> Evaluation:
    parts = open_parts([place / "small", place / "other"])
    options = EvaluationOptions(samples={"east <b>": "u < 0"}, by=("energyReco",), **FAST)
    found = evaluate(predictor, parts, place / "report", options)
    assert found is not None
    return found


def test_the_number_of_workers_changes_no_bit(place, trained):
    model, part = load(trained.regress, device="cpu", precision="fp32", batch_size=8), open_parts([place / "other"])[0]
    baselines = calibrated_baselines(model.facts, events=200)
    tables = []
    for model.workers in (1, 3):
        tables.append(predict_part(model, part, ReadOptions(), baselines)[0])
    assert any(name.startswith("base_") for name in tables[0])
    for name, values in tables[0].items():
        np.testing.assert_array_equal(tables[1][name], values, err_msg=name)


def test_everything_is_written(place, result):
    for task in TASKS:
        for suffix in (".parquet", ".csv"):
            assert (place / "report" / "small" / f"predictions_{task}{suffix}").stat().st_size > 0
            assert (place / "report" / "other" / f"predictions_{task}{suffix}").stat().st_size > 0
        assert (place / "report" / "other" / f"resolution_{task}.pdf").read_bytes().startswith(b"%PDF")
        assert (place / "report" / "other" / f"resolution_{task}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(place.glob("report/**/*.part"))


def test_the_numbers_are_those_of_the_tables(place, result):
    numbers = json.loads((place / "report" / "metrics.json").read_text())["data"]["other"]["samples"]["all"]["metrics"]
    for task, methods in numbers.items():
        table = read_table(place / "report" / "other" / f"predictions_{task}.parquet")
        assert set(methods) == set(table.methods)
        assert STRONG[task] in methods
        for method, metrics in methods.items():
            again = task_metrics(task, table.prediction(method), table.truth(), resamples=5)
            for name, value in again.values().items():
                if np.isfinite(value):
                    assert metrics[name][0] == pytest.approx(value), (task, method, name)


def test_sub_samples_are_selections(place, result):
    (data,) = [d for d in result.data if d.name == "other"]
    samples = {s.name: s for s in data.samples}
    assert {"all", "fiducial", "signal energy", "east <b>"} <= set(samples)
    table = read_table(place / "report" / "other" / "predictions_energy.parquet")
    east = table.selected(table.columns["true_u"] < 0)
    assert samples["east <b>"].events == len(east)
    assert samples["east <b>"].metrics["energy"]["network"]["energy_bias"].value == pytest.approx(
        east.metrics(resamples=0)["energy_bias"].value
    )


def test_csv_and_parquet_hold_the_same(place, result):
    stem = place / "report" / "other" / "predictions_uvwFI"
    one, two = pl.read_parquet(f"{stem}.parquet"), pl.read_csv(f"{stem}.csv")
    assert one.columns == two.columns
    assert {"run", "event", "true_u", "pred_u", "base_local_fit_u", "energyReco"} <= set(one.columns)
    assert one["event"].dtype == pl.Int64
    np.testing.assert_allclose(two["pred_w"].to_numpy(), one["pred_w"].to_numpy())


def test_the_mean_is_the_model_s_own(place, trained, predictor, result):
    table = read_table(place / "report" / "other" / "predictions_energy.parquet")
    means = table.prediction("mean")["energy"]
    assert np.ptp(means) == 0
    assert means[0] == pytest.approx(predictor.facts.means["energy"])
    assert means[0] == pytest.approx(np.mean(open_dataset(trained.train).column("energy")), rel=1e-6)


def test_the_report_stands_alone_and_escapes(place, result):
    page = (place / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 + 1 + 1 + 3 + 1  # angle, energy, timing, uvw, loss curves
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "east &lt;b&gt;" in page
    assert "east <b>" not in page
    strange = dataclasses.replace(result, data=(dataclasses.replace(result.data[0], name="<i>x</i>"),))
    assert "<i>x</i>" not in render(strange)


def test_the_same_evaluation_is_done_and_another_refused(place, predictor, result, tmp_path):
    parts = open_parts([place / "small", place / "other"])
    options = EvaluationOptions(samples={"east <b>": "u < 0"}, by=("energyReco",), **FAST)
    assert evaluate(predictor, parts, place / "report", options) is None
    with pytest.raises(OutputError, match="holds another evaluation, which differs in by"):
        evaluate(predictor, parts, place / "report", dataclasses.replace(options, by=()))
    with pytest.raises(OutputError, match="which differs in data"):
        evaluate(predictor, parts[:1], place / "report", options)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"metrics\.json: request: is missing"):
        evaluate(predictor, parts, broken, options)


def test_data_without_truth_gives_predictions_only(place, predictor, tmp_path, caplog):
    found = evaluate(predictor, open_parts([place / "bare"]), tmp_path / "out", EvaluationOptions(baselines=False))
    assert found is not None
    assert "no truth for energy" in caplog.text
    assert found.data[0].samples[0].metrics == {}
    table = pl.read_parquet(tmp_path / "out" / "predictions_energy.parquet")
    assert len(table) == 20
    assert "true_energy" not in table.columns
    assert "nothing could be compared with truth" in (tmp_path / "out" / "report.html").read_text()


def test_relative_and_absolute_times_are_not_compared(trained, tmp_path, caplog):
    run = tiny_run(tmp_path / "run", trained.data, tasks=("timing",))
    columns = tuple(c for c in COLUMNS if c != "time_min_used")
    make_dataset(tmp_path / "bare", 25, columns=columns, first_source=9)
    predictor = load(run, device="cpu")
    found = evaluate(predictor, open_parts([tmp_path / "bare"]), tmp_path / "out", EvaluationOptions(**FAST))
    assert found is not None
    assert found.data[0].samples[0].metrics == {}
    assert "has no time_min_used, so predicted times are relative and true ones absolute" in caplog.text


def test_root_files_give_the_same_numbers_as_their_shards(place, predictor, tmp_path):
    write_root(tmp_path / "five.root", 25, seed=5, first_event=5000)
    make_dataset(tmp_path / "five", 25, columns=COLUMNS, first_source=5, sources=1)
    options = EvaluationOptions(**FAST)
    tables = []
    for data in (tmp_path / "five.root", tmp_path / "five"):
        out = tmp_path / f"out_{data.suffix}"
        evaluate(predictor, open_parts([data]), out, options)
        tables.append(pl.read_parquet(out / "predictions_uvwFI.parquet").sort("event"))
    root, stored = tables
    assert set(root.columns) >= set(stored.columns)
    for name in stored.columns:
        a, b = root[name].to_numpy().astype(float), stored[name].to_numpy().astype(float)
        if "local_fit" in name:  # a fit of events without physics may end in another minimum
            assert np.median(np.abs(a - b)) < 0.01, name
        else:
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3, err_msg=name)


def test_without_training_data_only_the_mean_is_compared(trained, tmp_path, caplog):
    tiny_run(tmp_path / "run", shutil.copytree(trained.data, tmp_path / "gone"), tasks=("energy",))
    shutil.rmtree(tmp_path / "gone")
    facts = load(tmp_path / "run", device="cpu").facts
    found = calibrated_baselines(facts)
    assert found.position is None
    assert found.means == dict(facts.means)
    assert "only compared with their mean" in caplog.text
    with pytest.raises(
        InputError,
        match=r"run: the data of this run are neither where they were nor beside it \(found .*gone\); "
        r"give data that are there: `xec evaluate RUN DATA --baseline-data DATA`",
    ):
        training_views(facts)
    with pytest.raises(InputError):
        calibrated_baselines(facts, tmp_path / "gone")
    assert calibrated_baselines(facts, trained.train).position is not None


def test_no_event_left_is_an_error(place, predictor, tmp_path):
    from xectrain.inference.sources import ReadOptions

    with pytest.raises(InputError, match="no events are left to evaluate"):
        evaluate(
            predictor,
            open_parts([place / "other"]),
            tmp_path / "out",
            EvaluationOptions(ReadOptions(select="energy > 1"), baselines=False),
        )
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_events_that_were_learned_from_and_truth_in_another_unit_are_said(place, predictor, trained, tmp_path, caplog):
    options = EvaluationOptions(resamples=0, baseline_events=200)
    evaluate(predictor, open_parts([trained.train]), tmp_path / "train", options)
    assert "240 of 240 events are among those that the model or the classical methods learned from" in caplog.text

    caplog.clear()
    evaluate(predictor, open_parts([place / "other"]), tmp_path / "other", options)
    assert "learned from" not in caplog.text
    assert "implausible" not in caplog.text

    with uproot.recreate(tmp_path / "mev.root") as file:
        branches = uproot.open(trained.roots[0])["tree"].arrays(library="np")
        file["tree"] = {**branches, "energyTruth": 1e3 * branches["energyTruth"]}
    evaluate(predictor, open_parts([tmp_path / "mev.root"]), tmp_path / "mev", options)
    assert "mev.root: energy: 100 % of the values are implausible" in caplog.text
    assert "columns, names [energy], unit" in caplog.text


def test_tables_know_their_methods():
    columns = {
        **{f"{kind}_{c}": np.arange(3.0) for kind in ("true", "pred", "base_fit", "base_half") for c in "uvw"},
        "base_sum_energy": np.ones(3),
        "sigma_u": np.ones(3),
        "run": np.ones(3),
    }
    del columns["base_half_w"]
    table = task_table("uvwFI", columns)
    assert table.methods == ("network", "fit")
    assert "base_sum_energy" not in table.columns
    assert list(table.sigma()) == ["u"]
    assert table.has_truth
    assert not task_table("energy", columns).has_truth
    assert len(table.selected(np.array([True, False, True]))) == 2


def test_damaged_and_missing_tables(tmp_path):
    with pytest.raises(InputError, match="no such prediction table"):
        read_table(tmp_path / "predictions_energy.parquet")
    table = TaskTable("energy", {"pred_energy": np.ones(5), "true_energy": np.ones(5)})
    path = table.write(tmp_path)[1]
    assert read_table(path).columns.keys() == table.columns.keys()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptError, match="cannot be read"):
        read_table(path)


def test_words_and_brackets():
    from xectrain.metrics import Metric

    assert headline_label("uvw_w_res_68pct") == "w 68 %"
    assert headline_label("energy_relative_effective_sigma") == "σ/E, effective"
    assert headline_label("angle_resolution_68pct") == "opening 68 %"
    assert compact(Metric("m", 2.9863, 0.0801, "cm")) == "2.986(80)"
    assert compact(Metric("m", 534.86, 4.3, "ps")) == "534.9(4.3)"
    assert compact(Metric("m", 758.2, 12.3, "ps")) == "758(12)"
    assert compact(Metric("m", 1.5, float("nan"), "")) == "1.50"


def test_the_command(place, trained, tmp_path):
    runner = CliRunner()
    arguments = [str(trained.regress), str(place / "small"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--baseline-events", "200", "--sample", "deep=w > 10"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "uvwFI w 68 % (cm)" in done.output
    assert done.output.rstrip().endswith("metrics, tables and plots of small.")
    assert "Nothing to do" in runner.invoke(app, arguments, catch_exceptions=False).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["DATA", "--sample", "deep"], r"--sample: is not NAME=EXPRESSION \(found deep\)"),
        (["DATA"], "--out: is required when data are given; name the folder to write to"),
        (["--schema", "real"], "--schema: does not apply to the validation set, which is a shard dataset"),
        (["DATA", "--out", "X", "--masks", "fixed:3"], "--masks: does not apply to a regressor"),
        (["DATA", "--out", "X", "--max-events", "9"], "--max-events: does not apply to a regressor"),
        (
            ["DATA", "--out", "X", "--no-baselines", "--baseline-events", "300"],
            "--baseline-events: does not apply with --no-baselines",
        ),
        (
            ["DATA", "--line", "54.9"],
            r"--line: line studies have a command of their own; xec lines .* --energy 54.9 --out DIR",
        ),
    ],
)
def test_options_that_do_not_apply_are_refused(place, trained, tmp_path, options, message):
    arguments = [str(place / "small") if a == "DATA" else str(tmp_path / "out") if a == "X" else a for a in options]
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, [str(trained.regress), *arguments], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_the_training_data_are_found_from_anywhere(place, tmp_path, monkeypatch):
    shutil.copytree(place / "other", tmp_path / "home" / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    tiny_run(Path("runs/first"), open_dataset(Path("data")), tasks=("energy",))
    monkeypatch.chdir(tmp_path / "elsewhere")
    facts = load(tmp_path / "home" / "runs" / "first", device="cpu").facts
    ((dataset, rows),) = training_views(facts)
    assert len(rows) == 50
    assert dataset.path == tmp_path / "home" / "data"

"""Plots: the right pages for every kind of sample, published whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shards.base import CorruptError, InputError
from xectrain.evaluation.plots import data_uri, loss_curves, resolution_pages, save_pages
from xectrain.evaluation.tables import task_table
from xectrain.evaluation.wording import digits, plus_minus

N = 600


def table(task: str, energy: str = "flat", **extra: np.ndarray):
    """A sample with a network that is a little better than its rivals."""
    rng = np.random.default_rng(1)
    truth = {
        "energy": rng.uniform(0.015, 0.06, N) if energy == "flat" else np.full(N, 0.05283),
        "timing": rng.normal(0, 1, N),
        **{c: rng.uniform(-20, 20, N) for c in "uv"},
        "w": rng.exponential(4, N),
        "theta": rng.uniform(60, 120, N),
        "phi": rng.uniform(-60, 60, N),
    }
    methods = {"pred_": 1.0, "base_face_weights_": 1.5, "base_local_fit_corrected_": 1.5, "base_light_path_": 1.5}
    columns = {f"true_{c}": v for c, v in truth.items()}
    scale = {"energy": 0.001, "timing": 0.08}
    for prefix, factor in methods.items():
        columns.update({prefix + c: v + factor * scale.get(c, 0.5) * rng.normal(size=N) for c, v in truth.items()})
    return task_table(task, {**columns, **extra}, tuple(extra))


@pytest.mark.parametrize(
    ("task", "energy", "pages"), [("energy", "flat", 3), ("energy", "line", 1), ("angle", "flat", 3)]
)
def test_pages_of_each_kind_of_sample(task, energy, pages):
    assert len(resolution_pages(table(task, energy))) == pages


def test_a_page_shows_what_it_should(tmp_path):
    """Every page has residuals, prediction against truth, and pairs of resolution and bias panels."""
    (page,) = resolution_pages(table("timing", by_run=np.repeat([1.0, 2.0], N // 2)), "toy", by=("by_run",))
    titles = [axes.get_title(loc="left") for axes in page.axes]
    assert titles[:2] == ["Residuals", "Prediction against truth"]
    against = [t for t in titles if t.startswith("against")]
    assert against == [f"against true {s}" for s in ("t", "E", "u", "v", "w")] + ["against by_run"]
    assert sum(axes.get_xlabel().startswith("true w") for axes in page.axes) == 1
    assert "600 events" in page.get_suptitle()
    (legend,) = page.legends  # in no panel, where it would cover points
    assert [text.get_text() for text in legend.get_texts()] == ["network", "light path"]
    written = save_pages([page], tmp_path / "resolution_timing.pdf")
    assert [p.name for p in written] == ["resolution_timing.pdf", "resolution_timing.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resolution_timing.pdf", "resolution_timing.png"]
    assert data_uri(written[1]).startswith("data:image/png;base64,iVBOR")


def test_too_few_events_give_no_page():
    few = table("energy").selected(np.arange(N) < 20)
    assert resolution_pages(few) == []
    missing = table("energy")
    missing.columns["true_energy"][:] = np.nan
    assert resolution_pages(missing) == []


def test_panels_without_a_point_say_why(tmp_path):
    for events, empty in ((60, True), (N, False)):
        (page,) = resolution_pages(table("energy").selected(np.arange(N) < events))[:1]
        save_pages([page], tmp_path / f"{events}.pdf")
        against = [axes for axes in page.axes if axes.get_title(loc="left").startswith("against")]
        said = [[text.get_text() for text in axes.texts].count("too few events") for axes in against]
        assert said == [int(empty)] * len(against)


@pytest.mark.parametrize("kind", ["sigma", "quantiles"])
def test_predicted_intervals_have_a_page(tmp_path, kind):
    events = table("timing")
    predicted = events.columns["pred_timing"]
    if kind == "sigma":
        columns = {"sigma_timing": np.full(N, 0.08)}
    else:
        edges = {"q2p5": -0.157, "q16": -0.08, "q84": 0.08, "q97p5": 0.157}
        columns = {f"pred_timing_{suffix}": predicted + edge for suffix, edge in edges.items()}
    with_intervals = task_table("timing", {**events.columns, **columns})
    assert [round(k, 2) for k in with_intervals.intervals()["timing"]] in ([0.68, 0.95], [0.95, 0.68])
    metrics = with_intervals.metrics(resamples=0)
    assert metrics["timing_coverage_68"].value == pytest.approx(0.68, abs=0.05)
    assert metrics["timing_coverage_95"].value == pytest.approx(0.95, abs=0.03)
    page = resolution_pages(with_intervals, "toy")[-1]
    assert [axes.get_xlabel() for axes in page.axes] == ["true w [cm]", "true E [MeV]"]
    (drawn, _) = page.axes
    assert sum(len(c.lines[0].get_xdata()) for c in drawn.containers) == 2 * 6
    save_pages([page], tmp_path / "p.pdf")
    assert len(resolution_pages(events)) == len(resolution_pages(with_intervals)) - (2 if kind == "sigma" else 1)


def test_a_perfect_prediction_can_be_drawn(tmp_path):
    perfect = table("energy", "line")
    perfect.columns["pred_energy"][:] = perfect.columns["true_energy"]
    save_pages(resolution_pages(perfect), tmp_path / "p.pdf")
    assert (tmp_path / "p.png").exists()


def test_a_page_that_cannot_be_drawn_leaves_no_file(tmp_path):
    (page,) = resolution_pages(table("timing"))
    page.axes[0].set_title("$\\frac{$")
    with pytest.raises(ValueError, match="frac"):
        save_pages([page], tmp_path / "p.pdf")
    assert list(tmp_path.iterdir()) == []


def write_log(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps({"epoch": 1, "time": 0.0, **line}) + "\n" for line in lines))
    return path


def test_loss_curves(tmp_path):
    lines = [
        {"kind": "steps", "epoch": 0, "step": s, "train/loss": 10 / (s + 1), "train/loss_energy": 1.0}
        for s in range(30)
    ]
    lines += [
        {
            "kind": "epoch",
            "epoch": e,
            "step": 10 * e,
            "val/loss": 3 / e,
            "val/loss_raw": None,
            "val/energy_res_68pct": 2 / e,
        }
        for e in (1, 2, 3)
    ]
    (page,) = loss_curves(write_log(tmp_path / "metrics.jsonl", lines))
    titles = [axes.get_title(loc="left") for axes in page.axes]
    assert titles[0] == "Loss"
    assert page.axes[0].get_yscale() == "log"
    legend = page.axes[2].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["energy_res_68pct: 0.6667"]
    save_pages([page], tmp_path / "loss_curves.pdf")


def test_loss_curves_of_hidden_sensors_show_them_beside_the_mean_of_their_neighbours(tmp_path):
    parts = {"train/loss_bottom_npho": 0.1, "train/loss_npho": 0.2, "train/loss": 0.2}
    lines = [{"kind": "steps", "epoch": 0, "step": 5, **parts}]
    for epoch, own in ((1, 30.0), (2, 15.0)):
        line = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "val/loss": 1.0}
        lines.append(
            {**line, "val/mae_inner": own, "val/mae_ring_inner": 20.0, "val/mae_all": 1.0, "val/mae_ring_all": 1}
        )
    (page,) = loss_curves(write_log(tmp_path / "metrics.jsonl", lines))
    assert [text.get_text() for text in page.axes[1].get_legend().get_texts()] == ["npho"]
    panel = page.axes[2]
    assert panel.get_title(loc="left").startswith("Validation MAE of photons")
    assert panel.lines[0].get_ydata().tolist() == [1.5, 0.75]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["inner: 15 photons"]


def test_loss_curves_of_a_run_that_has_not_begun(tmp_path):
    with pytest.raises(InputError, match="no such log"):
        loss_curves(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="holds no records yet"):
        loss_curves(write_log(tmp_path / "metrics.jsonl", []))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.345, "12.3"), (-0.004567, "-0.00457"), (38060.0, "38060"), (float("nan"), "n/a")],
)
def test_digits(value, text):
    assert digits(value) == text


def test_plus_minus():
    assert plus_minus(2.9863, 0.0801) == "2.986 ± 0.080"
    assert plus_minus(534.86, 12.3) == "535 ± 12"
    assert plus_minus(15.5, 1e-16) == "15.5"
    assert plus_minus(15.5, float("nan")) == "15.5"


@pytest.mark.parametrize("name", ["report", "a [1] *?"])
def test_the_command_redraws_from_tables(tmp_path, name):
    """Also in a folder whose name would be a pattern."""
    from typer.testing import CliRunner

    from xectrain.cli.plots import app

    table("timing").write(tmp_path / name / "flat")
    write_log(tmp_path / name / "metrics.jsonl", [{"kind": "steps", "step": 1, "train/loss": 1.0}])
    call = [str(tmp_path / name), "--out", str(tmp_path / "out"), "--select", "true_u > 0"]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert "from 1 table and 1 log" in done.output
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")} == {
        *("flat/resolution_timing.pdf", "flat/resolution_timing.png", "loss_curves.pdf", "loss_curves.png")
    }
    with pytest.raises(InputError, match="holds neither prediction tables"):
        CliRunner().invoke(app, [str(tmp_path / "out")], catch_exceptions=False)


@pytest.mark.slow
def test_the_command_bins_as_the_evaluation_did(tmp_path, run_command):
    table("timing", run=np.repeat([1.0, 2.0], N // 2)).write(tmp_path / "flat")

    def redrawn(*options: str) -> bytes:
        run_command("xectrain.cli.plots:app", tmp_path, "--out", tmp_path / "out", *options)
        return (tmp_path / "out" / "flat" / "resolution_timing.png").read_bytes()

    plain, binned = redrawn(), redrawn("--by", "run")
    (tmp_path / "metrics.json").write_text(json.dumps({"request": {"by": ["run"]}, "data": {}}))
    assert redrawn() == binned != plain


def test_the_command_redraws_hidden_sensors(tmp_path):
    from typer.testing import CliRunner

    from xectrain.baselines.inpainting import FILLS
    from xectrain.cli.plots import app

    draw = np.random.default_rng(0)
    truth = draw.uniform(100, 1e4, 400)
    fills = {name: truth * draw.normal(1, 0.1, 400) for name in ("pred_npho", *(f"baseline_{f}_npho" for f in FILLS))}
    place = tmp_path / "runs" / "artifacts"
    place.mkdir(parents=True)
    rows = pl.DataFrame({"face": np.repeat([0, 1], 200), "truth_npho": truth, **fills})
    rows.write_parquet(place / "predictions_sensors.parquet")
    done = CliRunner().invoke(app, [str(tmp_path / "runs"), "--select", "truth_npho > 200"], catch_exceptions=False)
    assert f"Wrote 3 files of plots to {tmp_path / 'runs'}, from 1 table and 0 logs" in done.output
    done = CliRunner().invoke(app, [str(tmp_path / "runs"), "--out", str(tmp_path / "again")], catch_exceptions=False)
    assert f"to {tmp_path / 'again'}, from 1 table and 0 logs in {tmp_path / 'runs'}." in done.output
    (place / "predictions_sensors.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match=r"predictions_sensors\.parquet: cannot be read"):
        CliRunner().invoke(app, [str(tmp_path / "runs")], catch_exceptions=False)


def test_one_wild_method_does_not_spoil_the_axes_of_hidden_sensors():
    from xectrain.evaluation.plots.sensors import sensor_pages

    draw = np.random.default_rng(0)
    truth, face = draw.uniform(100, 1e4, 4000), np.repeat([0, 1], 2000)
    good = {f"m{i}": truth * draw.normal(1, 0.1, len(truth)) for i in range(9)}
    for page in sensor_pages(truth, face, {**good, "wild": truth * 1000}):
        mae, rms, bias = (page.axes[i].get_ylim() for i in (0, 2, 4))
        assert 0.08 < mae[1] < 1
        assert 0.1 < rms[1] < 1
        assert -bias[0] == bias[1] < 1
        _, labels = page.axes[1].get_legend_handles_labels()
        assert labels == [*good, "wild"], "each method is drawn"

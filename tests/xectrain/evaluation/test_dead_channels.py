"""Dead channels: what is taken from events, and that filling gives back what was lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.synthetic import make_dataset
from support.trained import COLUMNS, Trained
from typer.testing import CliRunner

from ingest.toymc import ToyOptions, write
from shards.base import ConfigError, InputError
from shards.dead import DeadEntry, DeadList
from shards.opening import open_dataset
from xectrain.cli.dead import app
from xectrain.evaluation.dead_channels import CLASSICAL, DeadOptions, strategy, study_dead
from xectrain.evaluation.plots.dead_channels import dead_pages
from xectrain.evaluation.tables import task_table
from xectrain.inference.load import load
from xectrain.inference.model import IN_RANGE, ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.sources import ReadOptions, open_parts

EVENTS = 120


class PhotonSum(Predictor):
    """Energy in proportion to the photons; a time that is off by the share of bright sensors without one."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = dataclasses.replace(facts, tasks=("energy", "timing"), columns=("pred_energy", "pred_timing"))
        self.batch_size, self.device = 64, "cpu"

    def _run(self, events):
        npho, time, _ = events.raw()
        photons = np.nan_to_num(npho)
        bright = photons > 500
        untimed = (bright & ~np.isfinite(time)).sum(axis=1) / bright.sum(axis=1)
        return {
            "pred_energy": photons.sum(axis=1, dtype=np.float64) * 1e-7,
            "pred_timing": 10 * untimed,
            IN_RANGE: np.ones(len(npho), bool),
        }


@pytest.fixture(scope="module")
def place(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy.root`, `data`, and the runs `run` and `fill`."""
    folder = tmp_path_factory.mktemp("dead")
    write(folder / "toy.root", EVENTS, ToyOptions(energy="signal"))
    make_dataset(folder / "data", 24, columns=COLUMNS)
    (folder / "run").symlink_to(trained.regress)
    (folder / "fill").symlink_to(trained.inpaint)
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> PhotonSum:
    return PhotonSum(load(place / "run", device="cpu").facts)


def test_no_filling_is_worse_than_missing_sensors(place, model, tmp_path):
    strategies = {name: strategy(name, {}) for name in CLASSICAL}
    parts = open_parts([place / "toy.root"])
    study = study_dead(model, parts, tmp_path, strategies, DeadOptions(fraction=0.05), ReadOptions(), EVENTS)
    assert study.methods == ("network", "raw", *CLASSICAL)
    assert study.missing == pytest.approx(0.05 * 4760, rel=0.05)
    assert study.lost == pytest.approx(0.05, rel=0.3)
    table = pl.read_parquet(tmp_path / "dead_events.parquet")
    assert len(table) == EVENTS
    whole = table["pred_energy"].to_numpy()

    def moved(method: str, column: str = "energy") -> float:
        return float(np.abs(table[f"base_{method}_{column}"].to_numpy() - table[f"pred_{column}"].to_numpy()).mean())

    assert moved("raw") == pytest.approx(np.mean(whole * table["light_lost"].to_numpy()), rel=1e-3)
    for name in CLASSICAL:
        assert moved(name) < 0.3 * moved("raw"), name
        assert moved(name, "timing") < 0.01, "filled bright sensors have times"
    numbers = json.loads((tmp_path / "dead.json").read_text())
    assert set(numbers["tasks"]["energy"]) == {"network", "raw", *CLASSICAL}
    shifts = numbers["shift_68pct"]["energy"]
    assert all(shifts[name]["energy"] <= shifts["raw"]["energy"] for name in CLASSICAL)
    page = (tmp_path / "report.html").read_text()
    assert "no sensor missing" in page
    assert "filled: solid-angle" in page
    assert page.count("data:image/png;base64,") == 2


def test_the_sensors_taken_away_follow_from_the_event(model):
    columns = {"run": np.array([1.0, 1, 2]), "event": np.array([5.0, 6, 5])}
    taken = DeadOptions(fraction=0.03).missing(columns, 3)
    again = DeadOptions(fraction=0.03).missing({n: v[::-1] for n, v in columns.items()}, 3)[::-1]
    np.testing.assert_array_equal(taken, again)
    assert (taken[0] != taken[1]).any()
    more = DeadOptions(fraction=0.06).missing(columns, 3)
    assert (more | ~taken).all(), "a larger share takes more sensors, none less"
    listed = DeadOptions(DeadList.of([DeadEntry(7, 2, 9)])).missing(columns, 3)
    assert listed[:, 7].tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="which sensors are removed follows from run and event number"):
        DeadOptions(fraction=0.03).missing({}, 3)


def test_the_command(place, tmp_path):
    arguments = [str(place / "run"), str(place / "data"), "--out", str(tmp_path), "--dead-fraction", "0.03"]
    arguments += ["--strategy", f"neighbours,inpaint:{place / 'fill'}", "--device", "cpu", "--max-events", "20"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "20 events, " in done.output
    assert "energy bias (MeV): no sensor missing" in done.output
    assert f"filled: inpaint:{place / 'fill'}" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"one choice of dead sensors is needed; give either --dead FILE or --dead-fraction FRACTION"),
        (["--dead-fraction", "0.1", "--dead", "LIST"], "one choice of dead sensors is needed"),
        (["--dead-fraction", "0.1", "--strategy", "neighbors"], r"strategy: is not a way to treat dead .*'neighbours'"),
        (
            ["--dead-fraction", "0.1", "--strategy", "inpaint:RUN"],
            "does not fill sensors .found regress, expected inpaint",
        ),
    ],
)
def test_what_cannot_be_studied(place, tmp_path, options, message):
    named = [o.replace("LIST", str(place / "list.txt")).replace("RUN", str(place / "run")) for o in options]
    arguments = [str(place / "run"), str(place / "data"), "--out", str(tmp_path / "out"), *named]
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_events_without_truth_or_none_at_all(place, tmp_path):
    model = load(place / "run", device="cpu")
    assert isinstance(model, Predictor)
    bare = open_dataset(make_dataset(tmp_path / "bare", 12, columns=("run", "event", "time_min_used")).path)
    some = DeadOptions(fraction=0.1)
    with pytest.raises(InputError, match="has no truth for any task of the model"):
        study_dead(model, open_parts([bare.path]), tmp_path / "a", {}, some, ReadOptions(), 12)
    with pytest.raises(InputError, match="no events are left to study"):
        study_dead(model, open_parts([place / "data"]), tmp_path / "b", {}, some, ReadOptions("energy > 1"), 12)


def test_few_events_give_empty_panels_and_no_error():
    values = np.linspace(0.04, 0.05, 8)
    columns = {"true_energy": values, "pred_energy": values, "base_raw_energy": values + 0.001}
    (page,) = dead_pages(task_table("energy", columns), ("network", "raw"), np.linspace(0.01, 0.05, 8))
    page.canvas.draw()

"""A charge-exchange line of the toy, fitted per patch with a stand-in for the network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ingest.toymc import ToyOptions, write
from shards.base import ConfigError, InputError
from xectrain.evaluation.lines import study_line
from xectrain.evaluation.peaks import fit_peak
from xectrain.evaluation.results import Line
from xectrain.inference.load import load
from xectrain.inference.model import IN_RANGE, ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, open_parts


class PhotonSum(Predictor):
    """Energy in proportion to the photons, with some scatter that depends on the event alone."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = dataclasses.replace(facts, tasks=("energy",), columns=("pred_energy",))
        self.batch_size, self.device = 64, "cpu"

    def _run(self, events):
        npho = events.raw().npho
        photons = np.where(np.isfinite(npho) & (npho < 9e9), npho, 0).sum(axis=1)
        rng = np.random.default_rng(int(photons[0]))
        return {
            "pred_energy": 0.0549 + 0.0004 * rng.normal(size=len(npho)) + 0 * photons,
            IN_RANGE: np.ones(len(npho), bool),
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    write(folder / "cex.root", 300, ToyOptions(energy="cex", dead_channels=(4000,)))
    write(folder / "whole.root", 60, ToyOptions(energy="cex"))
    return folder


@pytest.fixture(scope="module")
def parts(place: Path) -> list[Part]:
    return open_parts([place / "cex.root"], schema="cex")


def test_a_line_is_found_and_written(trained, parts, tmp_path):
    model = PhotonSum(load(trained.regress, device="cpu").facts)
    inpainter = load(trained.inpaint, device="cpu")
    assert isinstance(inpainter, SensorPredictor)
    study = study_line(model, parts, Line(54.9, shape="single"), tmp_path / "out", ReadOptions(), inpainter=inpainter)
    results = study.results
    assert study.events == study.passed == 300
    names = [r.name for r in results]
    assert names == ["network", "network, neighbours filled", "network, inpainted"]
    assert results[0].together is not None
    assert results[0].together.mean == pytest.approx(54.9, abs=0.15)
    assert results[0].together.sigma == pytest.approx(0.4, abs=0.08)
    numbers = json.loads((tmp_path / "out" / "line.json").read_text())
    assert numbers["estimators"]["network"]["together"]["sigma"] == pytest.approx(results[0].together.sigma)
    assert (tmp_path / "out" / "line.pdf").read_bytes().startswith(b"%PDF")
    table = pl.read_parquet(tmp_path / "out" / "line_events.parquet")
    assert table.columns[:3] == ["run", "event", "group"]
    assert len(table) == 300
    fit = fit_peak(table["network"].to_numpy(), 54.9, "single")
    assert fit is not None
    assert fit.mean == pytest.approx(numbers["estimators"]["network"]["as_is"]["mean"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Every estimator on the same 300 events of the 300 that pass the cut" in page
    assert "network, inpainted" in page


def test_where_no_sensor_is_dead_filling_is_left_out(trained, place, tmp_path):
    model = PhotonSum(load(trained.regress, device="cpu").facts)
    parts = open_parts([place / "whole.root"], schema="cex")
    study = study_line(model, parts, Line(54.9, shape="single"), tmp_path, ReadOptions())
    assert [r.name for r in study.results] == ["network"]
    assert "No sensor of these events is dead, so that filling would change nothing" in (
        tmp_path / "report.html"
    ).read_text().replace("\n", " ")


def test_groups_are_fitted_apart_and_their_bias_removed(trained, parts, tmp_path):
    class Biased(PhotonSum):
        """Odd batches read 1 MeV too much."""

        def predict_events(self, events):
            found = super().predict_events(events)
            found["pred_energy"] = found["pred_energy"] + 0.001 * (events.columns["event"] % 2)
            return found

    model = Biased(load(trained.regress, device="cpu").facts)
    (part,) = parts

    class Parity:
        """The part with a column that tells odd from even events."""

        def __getattr__(self, name):
            return getattr(part, name)

        columns = {**part.columns, "parity": part.columns["event"]}  # noqa: RUF012

        def read(self, wanted, settings):
            for events in part.read(wanted, settings):
                events.columns["parity"] = events.columns["event"] % 2
                yield events

    results = study_line(model, [Parity()], Line(54.9, "parity", "single"), tmp_path, ReadOptions())
    network = results.results[0]
    assert {g: round(f.mean, 0) for g, f in network.groups.items()} == {0.0: 55.0, 1.0: 56.0}
    assert network.groups[1.0].mean - network.groups[0.0].mean == pytest.approx(1.0, abs=0.15)
    assert network.together is not None
    assert network.together.mean == pytest.approx(54.9, abs=0.05)
    assert network.together.sigma == pytest.approx(0.4, abs=0.08)


def test_groups_that_are_too_small_are_fitted_as_one(trained, parts, tmp_path, caplog):
    model = PhotonSum(load(trained.regress, device="cpu").facts)
    study = study_line(model, parts, Line(54.9, "event", "single"), tmp_path, ReadOptions())
    network = study.results[0]
    assert network.groups == {}
    assert network.as_is is not None
    assert network.together is not None
    assert network.together.mean == 54.9
    assert network.together.sigma == network.as_is.sigma  # the same events, moved: no other peak may be found
    assert "no event has 50 events within the fit's window, so all are fitted together" in caplog.text


def test_what_cannot_be_studied(trained, parts, tmp_path):
    model = PhotonSum(load(trained.regress, device="cpu").facts)
    with pytest.raises(ConfigError, match=r"has no column 'pach'; did you mean 'patch'"):
        study_line(model, parts, Line(54.9, "pach"), tmp_path, ReadOptions())
    with pytest.raises(InputError, match=r"too few events near the line at 17\.6 MeV"):
        study_line(model, parts, Line(17.6), tmp_path, ReadOptions())
    with pytest.raises(InputError, match="no event passes the cut"):
        study_line(model, parts, Line(54.9), tmp_path, ReadOptions(select="Ebgo > 1000"))
    model.facts = dataclasses.replace(model.facts, tasks=("angle",))
    with pytest.raises(ConfigError, match="does not predict energies"):
        study_line(model, parts, Line(54.9), tmp_path, ReadOptions())

"""Data without truth: distributions, trends, and the conventional reconstruction beside the network."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic import make_events
from support.trained import COLUMNS

from shards.normalization import preset
from xectrain.evaluation.results import Trend
from xectrain.evaluation.without_truth import (
    conventional_columns,
    describe,
    disagreements,
    distance,
    predicted_columns,
    trends,
)
from xectrain.inference.events import Events
from xectrain.inference.sources import ReadOptions

N = 300


def table() -> dict[str, np.ndarray]:
    """A network that agrees with the conventional energy within 1 MeV, but for event 7; run 3 reads 2 MeV more."""
    rng = np.random.default_rng(1)
    run = np.repeat([1.0, 2, 3], N // 3)
    energy = 0.05 + 0.001 * rng.normal(size=N) + 0.002 * (run == 3)
    conventional = energy + 0.001 * rng.normal(size=N)
    conventional[7] += 0.03
    uvw = {f"pred_{a}": rng.normal(0, 10, N) for a in "uvw"}
    return {"run": run, "event": np.arange(N, dtype=float), "pred_energy": energy, "energyReco": conventional, **uvw}


def test_columns_are_in_the_units_people_use():
    predicted, conventional = predicted_columns(table()), conventional_columns(table())
    assert list(predicted) == ["energy", "u", "v", "w"]
    assert list(conventional) == ["energy"]
    assert np.median(predicted["energy"]) == pytest.approx(50.4, abs=0.5)
    assert conventional_columns({"energyReco": np.full(3, np.nan)}) == {}


def test_disagreement_in_numbers():
    predicted, conventional = predicted_columns(table()), conventional_columns(table())
    (found,) = disagreements(predicted, conventional)
    assert found.column == "energy"
    assert found.width == pytest.approx(1, rel=0.15)
    assert found.beyond == pytest.approx(1 / N)
    assert found.events == N
    apart = distance(predicted, conventional)
    assert apart is not None
    assert np.argmax(apart) == 7
    assert distance(predicted, {}) is None


def test_a_run_that_moves_is_seen():
    found = trends(predicted_columns(table()), table()["run"], "run")["energy"]
    assert isinstance(found, Trend)
    assert found.group.tolist() == [1, 2, 3]
    assert found.median[2] - found.median[0] == pytest.approx(2, abs=0.4)
    assert (found.median_error < 0.3).all()
    assert trends(predicted_columns(table()), np.ones(N), "run") == {}
    assert trends(predicted_columns(table()), np.arange(N, dtype=float), "event") == {}, "groups of one event"


class Chunks:
    """The events of the table, in two chunks."""

    def read(self, wanted, settings):
        npho, time, _ = make_events(4, 0, COLUMNS)
        for start in (0, 150):
            columns = {name: table()[name][start : start + 150] for name in ("run", "event")}
            yield Events.of_raw(np.resize(npho, (150, 4760)), np.resize(time, (150, 4760)), columns=columns)


def test_pages_and_displays(tmp_path):
    class Facts:
        normalization = preset("standard")

    some = table()
    some["energyReco"][2:] = np.nan  # two events with a conventional energy: two displays, which take their time
    found = describe(Facts(), "data", Chunks(), some, tmp_path, ReadOptions(), ())
    assert (tmp_path / "distributions.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((tmp_path / "disagreements").glob("disagreement_0[12].pdf"))) == 2
    assert len(found.images) == 3 + 2  # spectra, maps, by run; displays
    assert list(found.trends) == ["run"]

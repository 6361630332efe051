"""The channels' response is found from the data: miscalibrated, hot, weak and drifting channels of the toy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ingest.toymc import ToyOptions, generate, write
from ingest.toymc.response import draw_response
from shards import geometry as geo
from shards.base import InputError
from xectrain.baselines import RawEvents
from xectrain.cli.channels import app
from xectrain.evaluation.channels import solve, sums_of


def events(count: int, **options: object) -> tuple[RawEvents, ToyOptions]:
    chosen = ToyOptions(energy="signal", **options)  # type: ignore[arg-type]
    toy = generate(count, chosen)
    return RawEvents(toy.npho, toy.relative_time, {}), chosen


def test_miscalibration_is_found():
    """Spread of what is left after correcting by the found response, against the spread before."""
    reference, _ = events(500, calibration_spread=0.0, seed=7)
    data, options = events(500, calibration_spread=0.1, seed=8)
    response, error = solve(sums_of(data), sums_of(reference))
    made = draw_response(options.first_run, options)
    true = made.efficiency / made.calibrated
    well = np.isfinite(error) & (np.arange(geo.N_SENSORS) < geo.N_SIPM)
    assert well.sum() > 4000
    left = response[well] / true[well]
    assert np.std(true[well]) == pytest.approx(0.1, rel=0.1)
    assert np.std(left / np.median(left)) < 0.045
    assert np.corrcoef(response[well], true[well])[0, 1] > 0.9
    pulls = (left / np.median(left) - 1) / (error[well] / response[well])
    assert 0.7 < np.quantile(np.abs(pulls), 0.68) < 1.3, "errors are what they say"


def test_a_perfect_detector_shows_nothing():
    """Without noise the reference is the data, and every response is one."""
    data, _ = events(100, calibration_spread=0.0)
    sums = sums_of(data)
    response, _ = solve(sums, sums)
    assert np.nanmax(np.abs(response[np.isfinite(sums.ratio) & (sums.ratio > 0.05)] - 1)) < 1e-6


def test_remarkable_channels_are_named(tmp_path: Path):
    hot, weak, dying = 2000, 1000, 2500
    write(tmp_path / "reference.root", 150, ToyOptions(energy="signal", seed=3, calibration_spread=0.0))
    write(
        tmp_path / "data.root", 150, ToyOptions(energy="signal", seed=4, calibration_spread=0.0, dead_channels=(1500,))
    )
    import uproot

    with uproot.open(tmp_path / "data.root") as file:
        arrays = file["tree"].arrays(library="np")
    arrays["npho"][:, hot] *= 2
    arrays["npho"][:, weak] *= 0.4
    arrays["npho"][:, dying] *= 0.001
    with uproot.recreate(tmp_path / "changed.root") as file:
        kinds = {k: np.dtype((v.dtype, v.shape[1:])) if v.ndim > 1 else v.dtype for k, v in arrays.items()}
        file.mktree("tree", kinds).extend(arrays)
    arguments = [str(tmp_path / "changed.root"), "--reference", str(tmp_path / "reference.root")]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "150 events" in done.output
    (run,) = json.loads((tmp_path / "out" / "channels.json").read_text()).values()
    assert hot in run["hot"]
    assert weak in run["weak"]
    assert run["dead"] == [dying]
    table = pl.read_csv(tmp_path / "out" / "channels.csv")
    assert len(table) == geo.N_SENSORS
    assert table["response"][hot] == pytest.approx(2, rel=0.2)
    assert table["response"][weak] == pytest.approx(0.4, rel=0.2)
    for channel, state in ((hot, "hot"), (weak, "weak"), (dying, "dead")):
        beside = geo.ring().of(channel)
        pulls = (table["response"].to_numpy() - 1)[beside] / table["error"].to_numpy()[beside]
        assert abs(np.mean(pulls)) < 1, f"a {state} channel does not move its neighbours"
    assert "channel" in (page := (tmp_path / "out" / "report.html").read_text())
    assert page.count("<img") == 1
    with pytest.raises(InputError, match="no events are left to study"):
        arguments = [str(tmp_path / "changed.root"), "--select", "energy > 1", "--out", str(tmp_path / "no")]
        CliRunner().invoke(app, arguments, catch_exceptions=False)

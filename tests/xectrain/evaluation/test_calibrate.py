"""Biases that are put into energies are found on lines, and taken out of everything that loads the run; and undone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_dataset
from support.trained import tiny_run

from shards.base import ConfigError, InputError, OutputError
from shards.opening import open_dataset
from xectrain.checkpoint import BEST
from xectrain.evaluation.calibrate import LineChoice, calibrate, choose, out_of_fold, undo
from xectrain.evaluation.classical import sensor_frame
from xectrain.evaluation.line_fit import Form, LineEvents, corrected, fit_factor
from xectrain.evaluation.peaks import fit_peak
from xectrain.inference.calibration import CalibratedEnergy, calibration_path, read_calibration
from xectrain.inference.load import load
from xectrain.inference.model import IN_RANGE
from xectrain.inference.regressor import Predictor
from xectrain.inference.sources import ReadOptions, open_parts


def events_of_lines(
    count: int, lines: tuple[float, ...], seed: int = 1, size: float = 1.0
) -> tuple[LineEvents, np.ndarray]:
    """Lines with leakage, biased by position, run and energy (`size` times 1 to 2 %); and the bias's logarithm."""
    rng = np.random.default_rng(seed)
    uvw = np.column_stack([rng.uniform(-23, 23, count), rng.uniform(-70, 70, count), rng.uniform(0, 30, count)])
    run = rng.integers(430000, 430010, count).astype(float)
    line = rng.integers(0, len(lines), count)
    true = np.array(lines)[line]
    bias = 0.02 * (uvw[:, 0] / 23) ** 2 - 0.01 * uvw[:, 1] / 70 + 0.01 * uvw[:, 2] / 30 + 0.002 * (run - 430005)
    bias = size * (bias + 0.02 * np.log(true / 50))
    smear = rng.normal(0, 0.012, count) - (rng.random(count) < 0.3) * rng.exponential(0.03, count)
    return LineEvents(true * np.exp(bias + smear), uvw, run, line, lines), bias


def test_a_bias_over_position_run_and_energy_is_found():
    events, bias = events_of_lines(4000, (54.9, 17.6))
    form, trials = choose(events)
    assert form.degree == 2
    assert form.knots >= 2
    assert [t.form for t in trials if t.taken] == [form]
    factor = fit_factor(events, form)
    left = np.log(corrected(events, factor) / events.energy) + bias
    assert bias.std() > 0.01
    assert left.std() < 0.0015  # the bias is gone: an eighth of it is noise of the fit
    other, _ = out_of_fold(events, form)
    for k, line in enumerate(events.lines):
        before, after = (fit_peak(values[events.line == k], line) for values in (events.energy, other))
        assert before is not None
        assert after is not None
        assert after.mean == pytest.approx(line, abs=4 * after.mean_error + 0.001 * line)
        assert after.sigma < before.sigma
    unknown = LineEvents(events.energy, events.uvw, np.full(len(events), np.nan), events.line, events.lines)
    assert np.log(corrected(unknown, factor) / corrected(events, factor)).mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_without_a_bias_nothing_but_a_constant_is_found():
    events, _ = events_of_lines(2000, (54.9,), size=0.0)
    form, trials = choose(events)
    assert form == Form()
    assert len(trials) == 8
    assert fit_factor(events, form).constant == pytest.approx(0, abs=0.002)


def test_a_slope_does_not_squeeze_the_peaks():
    """Two lines without bias: what is measured too high stays too high."""
    events, _ = events_of_lines(3000, (54.9, 17.6), size=0.0)
    after = corrected(events, fit_factor(events, Form()))
    for k, line in enumerate(events.lines):
        before_fit, after_fit = (fit_peak(v[events.line == k], line) for v in (events.energy, after))
        assert after_fit is not None
        assert before_fit is not None
        assert after_fit.sigma == pytest.approx(before_fit.sigma, rel=0.03)


@pytest.mark.parametrize(
    ("seed", "spread", "said"),
    [
        (1, 3.0, r"near the line at 54.9 MeV \(found \d+ events at 5\d\.\d MeV, 68 % of them from 4\d\.\d to 5\d\.\d,"),
        (3, 15.5, r"near the line at 17.6 MeV \(found \d+ events at 3\d\.\d MeV, 68 % of them from "),
    ],
    ids=["few", "a network that has not learned it"],
)
def test_lines_without_a_peak_are_refused_with_what_is_there(seed, spread, said):
    rng = np.random.default_rng(seed)
    line = rng.integers(0, 2, 60 if spread < 5 else 424)
    energy = np.abs(rng.normal(np.array([52.0, 34.0])[line], spread)) + 1
    events = LineEvents(energy, np.zeros((len(line), 3)), np.ones(len(line)), line, (54.9, 17.6))
    with pytest.raises(InputError, match=f"there are too few events {said}"):
        fit_factor(events, Form())


class Biased(Predictor):
    """The predictions of `events_of_lines` for whatever is read, in the name of a real run."""

    def __init__(self, model: Predictor, events: LineEvents) -> None:
        self.facts, self.batch_size, self.device = model.facts, 64, "cpu"
        self.events, self.done = events, 0

    def _run(self, events):
        rows = (self.done + np.arange(len(events))) % len(self.events)
        self.done += len(events)
        events.columns["run"][:] = self.events.run[rows]
        found = dict.fromkeys(self.facts.columns, np.zeros(len(events)))
        found |= {f"pred_{axis}": self.events.uvw[rows, k] for k, axis in enumerate("uvw")}
        return {**found, "pred_energy": self.events.energy[rows] / 1e3, IN_RANGE: np.ones(len(events), dtype=bool)}


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained.regress, tmp_path / "run"))


@pytest.mark.slow
def test_a_calibration_is_reported_stored_recognised_and_refused(trained, run, tmp_path):
    events, _ = events_of_lines(240, (54.9,))
    plain = load(run, device="cpu", calibrated=False)
    assert isinstance(plain, Predictor)
    model, parts, lines = Biased(plain, events), open_parts([trained.train]), [LineChoice(54.9)]
    study = calibrate(model, parts, lines, tmp_path / "out", ReadOptions())
    assert study is not None
    assert study.after[0] is not None
    assert study.after[0].mean == pytest.approx(54.9, abs=0.4)
    numbers = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert numbers["lines"][0]["after"]["mean"] == study.after[0].mean
    assert set(numbers["spread"]) == {"u", "v", "w", "run"}
    for name in ("report.html", "calibration.pdf", "calibration_events.parquet"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert "after, on other events" in (tmp_path / "out" / "report.html").read_text()
    stored = read_calibration(plain.facts.file, plain.facts.digest)
    assert stored == study.calibration
    assert calibrate(model, parts, lines, tmp_path / "out", ReadOptions()) is None
    with pytest.raises(OutputError, match=r"is already calibrated, with other lines, .*; xec calibrate .*--undo"):
        calibrate(model, parts, [LineChoice(52.8)], tmp_path / "out", ReadOptions())
    assert undo(plain.facts.file)
    assert not undo(plain.facts.file)


def test_the_command_changes_what_a_run_predicts_and_takes_it_back(trained, run, run_command):
    before = load(run, device="cpu")
    npho = np.random.default_rng(0).exponential(300, (20, 4760))
    was = before.predict(npho, np.full_like(npho, 5e-8), run=430001)
    line = 1.1e3 * float(np.median(was["pred_energy"]))
    command = ("xectrain.cli.calibrate:app", run, trained.train)
    told = run_command(*command, "--line", f"{line:.4f}")
    assert "which is applied from now on" in told
    assert "Nothing to do" in run_command(*command, "--line", f"{line:.4f}")
    after = load(run, device="cpu")
    assert after.facts.calibration is not None
    assert after.facts.identity != before.facts.identity
    now = after.predict(npho, np.full_like(npho, 5e-8), run=430001)
    ratio = now["pred_energy"] / was["pred_energy"]
    assert ratio == pytest.approx(1.1, abs=0.05)
    for name, values in was.items():
        np.testing.assert_allclose(now[name], values * (ratio if "energy" in name else 1), rtol=1e-6)
    assert "Removed" in run_command("xectrain.cli.calibrate:app", run, "--undo")
    assert "is not calibrated" in run_command("xectrain.cli.calibrate:app", run, "--undo")
    for name, values in load(run, device="cpu").predict(npho, np.full_like(npho, 5e-8)).items():
        np.testing.assert_array_equal(values, was[name])


def test_what_is_refused(trained, run, run_command):
    app = "xectrain.cli.calibrate:app"
    with pytest.raises(ConfigError, match=r"--line: is required; give the energy in MeV, as in --line 54.9"):
        run_command(app, run, trained.train)
    with pytest.raises(ConfigError, match=r"--line: is not MeV or MeV=EXPRESSION \(found x=run\)"):
        run_command(app, run, trained.train, "--line", "x=run")
    with pytest.raises(
        ConfigError, match=r"an event belongs to two lines; say which events belong to a line with MeV=EXPRESSION"
    ):
        run_command(app, run, trained.train, "--line", "54.9", "--line", "82.9=run > 0")
    with pytest.raises(InputError, match=r"no event belongs to the line at 82.9 MeV \(found run < 0\)"):
        run_command(app, run, trained.train, "--line", "54.9=run > 0", "--line", "82.9=run < 0")
    with pytest.raises(ConfigError, match=r"does not predict energies \(found inpaint, expected a regressor\)"):
        run_command(app, trained.inpaint, trained.train, "--line", "54.9")
    with pytest.raises(ConfigError, match=r"DATA: are required; give the events of the lines"):
        run_command(app, run, "--line", "54.9")
    with pytest.raises(ConfigError, match=r"does not apply with --undo"):
        run_command(app, run, "--undo", "--select", "run > 0")
    with pytest.raises(ConfigError, match=r"is an exported model"):
        run_command(app, "model.onnx", trained.train, "--line", "54.9")


def test_uncertainties_are_calibrated_again_into_another_checkpoint(trained, tmp_path, run_command):
    app = "xectrain.cli.calibrate:app"
    losses = {"tasks__energy__loss": "quantile", "tasks__timing__loss": "gaussian_nll"}
    own = tiny_run(tmp_path / "run", trained.train, ("energy", "timing"), val=trained.data, **losses)
    before, out = (own / BEST).read_bytes(), tmp_path / "again.pt"
    arguments = (app, own, trained.train, "--uncertainties", "--out", out)
    assert "calibrated on 240 events" in run_command(*arguments)
    assert "Nothing to do" in run_command(*arguments)
    assert (own / BEST).read_bytes() == before
    data = open_dataset(trained.train)
    sensors, truth = data.read(data.rows())
    table = dict(zip(data.columns, truth.T, strict=True))
    model = load(out, device="cpu", precision="fp32")
    found = model.predict_normalized(sensors, data.normalization)  # relative times, as the network has them
    assert np.mean(table["energy"] < found["pred_energy_q84"]) == pytest.approx(0.84, abs=0.01)
    apart = np.abs(found["pred_timing"] - sensor_frame(model.facts, table)["timing"]) / found["sigma_timing"]
    assert np.mean(apart < 1) == pytest.approx(0.683, abs=0.01)
    was = load(own, device="cpu", precision="fp32").predict_normalized(sensors, data.normalization)
    np.testing.assert_array_equal(was["pred_timing"], found["pred_timing"])
    with pytest.raises(OutputError, match=r"again.pt: exists, and is not this result; remove it, or choose another"):
        run_command(*arguments, "--select", "event % 2 == 0")


def test_uncertainties_need_some_and_events_with_truth(trained, run, tmp_path, run_command):
    app, out = "xectrain.cli.calibrate:app", ("--out", tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"predicts no uncertainties; train with tasks.<name>.loss=quantile or gau"):
        run_command(app, run, trained.train, "--uncertainties", *out)
    with pytest.raises(ConfigError, match=r"predicts no uncertainties \(found inpaint, expected a regressor\)"):
        run_command(app, trained.inpaint, trained.train, "--uncertainties", *out)
    with pytest.raises(ConfigError, match=r"--out: is required; name the checkpoint to write, as in calibrated.pt"):
        run_command(app, run, trained.train, "--uncertainties")
    with pytest.raises(ConfigError, match=r"--line: does not apply with --uncertainties"):
        run_command(app, run, trained.train, "--uncertainties", "--line", "52.8", *out)
    with pytest.raises(OutputError, match=r"is an input of this command; choose another output"):
        run_command(app, run, trained.train, "--uncertainties", "--out", run / BEST)
    own = tiny_run(tmp_path / "own", trained.train, ("energy",), tasks__energy__loss="gaussian_nll")
    with pytest.raises(InputError, match=r"too few events with truth to calibrate on \(found 40, expected 100 or more"):
        run_command(app, own, trained.data, "--uncertainties", *out)
    with pytest.raises(InputError, match=r"no events are left to calibrate on \(found run < 0\)"):
        run_command(app, own, trained.data, "--uncertainties", "--select", "run < 0", *out)
    bare = make_dataset(tmp_path / "bare", 20, columns=("run", "event", "u"))
    with pytest.raises(InputError, match=r"bare: has no truth for energy"):
        run_command(app, own, bare.path, "--uncertainties", *out)
    assert not (tmp_path / "x.pt").exists()


def test_a_calibration_of_another_state_is_refused(run):
    events, _ = events_of_lines(500, (54.9,))
    plain = load(run, device="cpu")
    factor = fit_factor(events, Form(1, 2))
    document = {"model": 64 * "0", "request": "", "factor": factor.model_dump(), "lines": [], "code_version": ""}
    path = calibration_path(plain.facts.file)
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"made for an earlier state of the checkpoint \(found 0.*--undo` removes it"):
        load(run, device="cpu")
    path.write_text(json.dumps({**document, "model": plain.facts.digest}))
    found = load(run, device="cpu")
    assert found.facts.calibration is not None
    assert CalibratedEnergy(found.facts.calibration.factor).factor == factor

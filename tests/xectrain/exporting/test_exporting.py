"""ONNX: what the exported file says is what PyTorch says, from raw sensors, at any batch size."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
import uproot
from onnx import TensorProto, helper, numpy_helper
from support.pages import ROOT, blocks
from support.synthetic import make_dataset, make_events
from support.trained import COLUMNS, Trained, tiny_run, write_root
from typer.testing import CliRunner

from shards.base import ConfigError, CorruptError, InputError, OutputError
from shards.normalization import PRESETS, normalize
from xectrain import exporting
from xectrain.checkpoint import find_checkpoint, read_checkpoint, write_checkpoint
from xectrain.cli.evaluate import app as evaluate_app
from xectrain.cli.export import app
from xectrain.cli.infer import app as infer_app
from xectrain.exporting import GateEvents
from xectrain.exporting.gate import decided, largest_difference
from xectrain.inference.calibration import EnergyCalibration, EnergyFactor, calibration_path
from xectrain.inference.infer import infer
from xectrain.inference.load import load, load_mode
from xectrain.inference.model import IN_RANGE
from xectrain.inference.onnx import OnnxPredictor
from xectrain.inference.request import Request
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import ReadOptions, Wanted, open_parts
from xectrain.models.factors import KNOTS, Factor
from xectrain.tasks import TASKS


@pytest.fixture(scope="module")
def run(trained: Trained) -> Path:
    return trained.regress


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    done = CliRunner().invoke(app, [str(run), "--output", str(path)], catch_exceptions=False)
    assert "largest deviation" in done.output
    return path


def bare_network(path: Path, outputs: dict[str, int]) -> Path:
    """A network of the older kind: one normalized input, outputs (N, k) that are sums over the sensors."""
    nodes, values, weights = [helper.make_node("Flatten", ["x"], ["flat"], axis=1)], [], []
    for number, (name, width) in enumerate(outputs.items()):
        weight = np.full((9520, width), 1e-4 * (number + 1), dtype=np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", ["flat", f"w{number}"], [name]))
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4760, 2])
    graph = helper.make_graph(nodes, "old", [x], values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_raw_sensors_in_physical_units_out(run, exported):
    """Through onnxruntime alone, as a C++ user would, against the checkpoint; 0 is a photon number, dead is said."""
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["npho", "time", "dead", "time_min_used"]
    assert session.get_inputs()[-1].type == "optional(tensor(double))"
    reference = load(run, device="cpu", precision="fp32")
    for count in (1, 5, 70):
        npho, time, truth = make_events(count, 3, COLUMNS)
        dead = np.random.default_rng(0).random(npho.shape) < 0.02
        zeroed = np.where(dead, 0, npho).astype(np.float32)
        earliest = truth[:, COLUMNS.index("time_min_used")]
        feed = {"npho": zeroed, "time": time, "dead": dead}
        marked = np.resize([1e10, np.nan, np.inf, -1e10], count)
        assert np.isnan(reference.predict(npho, time, dead, marked)["pred_timing"]).all()
        for extra, expected in (
            ({}, reference.predict(npho, time, dead)),
            ({"time_min_used": earliest}, reference.predict(npho, time, dead, earliest)),
            ({"time_min_used": marked}, reference.predict(npho, time, dead, marked)),
        ):
            names = [o.name for o in session.get_outputs()]
            found = dict(zip(names, session.run(names, {**feed, **extra}), strict=True))
            assert list(found) == list(expected)
            for name, values in expected.items():
                assert found[name].shape == (count,)
                np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_factors_that_bend_with_the_prediction_are_exported(trained, tmp_path):
    losses = {"tasks__energy__loss": "quantile", "tasks__uvwFI__loss": "gaussian_nll"}
    own = tiny_run(tmp_path / "run", trained.train, ("energy", "uvwFI"), **losses)
    plain = load(own, device="cpu", precision="fp32")
    npho, time, _ = make_events(40, 3, COLUMNS)
    straight = plain.predict(npho, time)
    scales = plain.mode.model.standardization
    for name, prediction, rows in (("energy", "pred_energy", (0, 2)), ("uvwFI", "pred_u", (0,))):
        true_BK = torch.from_numpy(np.stack([straight[prediction]] * TASKS[name].size, axis=1))
        low, high = scales.standardized(name, true_BK)[:, 0].quantile(torch.tensor([0.1, 0.9])).tolist()
        for row in rows:
            knots = np.linspace(low, high, KNOTS)
            scales.set_factor(name, row, 0, Factor(1.5, knots, np.linspace(0.5, 2, KNOTS)))
    file = find_checkpoint(own)
    state = read_checkpoint(file)
    which = "ema" if state["ema"] else "model"
    write_checkpoint(file, {**state, which: {**state[which], **plain.mode.state_dict()}})
    path = tmp_path / "model.onnx"
    CliRunner().invoke(app, [str(own), "--output", str(path)], catch_exceptions=False)
    bent, from_file = load(own, device="cpu", precision="fp32"), load(path, device="cpu")
    for count in (1, 40):
        expected, got = (model.predict(npho[:count], time[:count]) for model in (bent, from_file))
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    wider = bent.predict(npho, time)["sigma_u"] / straight["sigma_u"]
    assert wider.max() / wider.min() == pytest.approx(4, rel=1e-3)


@pytest.mark.slow
def test_a_calibration_is_exported_with_the_network(run, tmp_path):
    """Over position and run, which is an optional input as the earliest time is."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    plain = load(own, device="cpu", precision="fp32")
    factor = EnergyFactor(constant=0.01, degree=2, position=tuple(0.002 * k for k in range(9)))
    factor = factor.model_copy(update={"low": (-20.0, -60.0, 0.0), "high": (20.0, 60.0, 30.0), "slope": 0.02})
    factor = factor.model_copy(update={"runs": (430000.0, 430004.0), "run": (-0.03, 0.03), "energies": (0.01, 0.09)})
    found = EnergyCalibration(model=plain.facts.digest, request="", factor=factor, lines=(), code_version="")
    calibration_path(plain.facts.file).write_text(found.model_dump_json())
    path = tmp_path / "model.onnx"
    done = CliRunner().invoke(app, [str(own), "--output", str(path)], catch_exceptions=False)
    assert "inputs npho, time, dead, time_min_used, run" in done.output
    calibrated, from_file = load(own, device="cpu", precision="fp32"), load(path, device="cpu")
    npho, time, _ = make_events(12, 3, COLUMNS)
    for runs in (None, np.linspace(429999, 430005, 12)):
        expected, got = (model.predict(npho, time, run=runs) for model in (calibrated, from_file))
        np.testing.assert_allclose(got["pred_energy"], expected["pred_energy"], rtol=1e-5)
        assert not np.allclose(expected["pred_energy"], plain.predict(npho, time)["pred_energy"], rtol=1e-3)
    assert from_file.facts.calibration == found
    with pytest.raises(ConfigError, match="its energy calibration needs the position; keep the task uvwFI"):
        CliRunner().invoke(
            app, [str(own), "--output", str(tmp_path / "e.onnx"), "--tasks", "energy"], catch_exceptions=False
        )


@pytest.mark.slow
def test_onnxruntime_loads_it_without_a_word(exported, capfd):
    onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    said = capfd.readouterr()
    assert said.out + said.err == ""


@pytest.mark.slow
def test_metadata_tell_a_user_everything(run, exported):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["tasks"] == "angle,energy,timing,uvwFI"
    assert properties["units"] == "theta:degree,phi:degree,energy:GeV,timing:ns,u:cm,v:cm,w:cm"
    assert properties["time_reference"] == "relative"
    assert properties["npho_scale"] == "1000.0"
    assert properties["npho_threshold"] == "100.0"
    assert json.loads(properties["xec"])["means"].keys() == {"theta", "phi", "energy", "timing", "u", "v", "w"}


@pytest.mark.slow
def test_inference_from_the_file_is_that_from_the_checkpoint(run, trained, exported, tmp_path):
    write_root(tmp_path / "a.root", 20)
    parts = [open_parts([tmp_path / "a.root"]), open_parts([trained.data])]
    for number, part in enumerate(parts):
        tables = []
        for model in (run, exported):
            out = tmp_path / f"{number}{model.suffix}.root"
            infer(load(model, device="cpu", precision="fp32"), part, out, Request())
            import uproot

            with uproot.open(out) as file:
                tables.append(file["predictions"].arrays(library="np"))
        torch_rows, onnx_rows = tables
        assert set(torch_rows) == set(onnx_rows)
        for name, values in torch_rows.items():
            np.testing.assert_allclose(onnx_rows[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_an_existing_file_is_kept_or_refused(run, exported, tmp_path):
    stamp = exported.stat().st_mtime_ns
    again = CliRunner().invoke(app, [str(run), "--output", str(exported)], catch_exceptions=False)
    assert "Nothing to do" in again.output
    assert exported.stat().st_mtime_ns == stamp
    with pytest.raises(OutputError, match=r"holds another model, which differs in .*tasks"):
        CliRunner().invoke(app, [str(run), "--output", str(exported), "--tasks", "energy"], catch_exceptions=False)
    (tmp_path / "x.onnx").write_bytes(b"\x08\xff nothing")
    with pytest.raises(OutputError, match="exists, but is not a readable ONNX file"):
        CliRunner().invoke(app, [str(run), "--output", str(tmp_path / "x.onnx")], catch_exceptions=False)


@pytest.mark.slow
def test_a_graph_that_deviates_is_not_published(run, tmp_path, monkeypatch):
    path = find_checkpoint(run)
    mode, facts = exporting.restricted(*load_mode(read_checkpoint(path), path), ["energy"])
    real = exporting.graph.onnx_bytes

    def altered(module):
        """The graph of a network whose last bias is off by a little."""
        module.mode.model.heads["energy"].last.bias.data += 0.01
        content = real(module)
        module.mode.model.heads["energy"].last.bias.data -= 0.01
        return content

    monkeypatch.setattr(exporting.graph, "onnx_bytes", altered)
    npho, time, _ = make_events(8, 1, COLUMNS)
    with pytest.raises(OutputError, match=r"is not published: onnxruntime deviates from PyTorch in pred_energy by"):
        exporting.export(exporting.module_for(mode, facts), tmp_path / "m.onnx", GateEvents.spoiled(npho, time))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_with_a_focus_is_exported_with_its_window_and_its_references(tmp_path):
    """Dead, negative and missing values at any batch size are the gate's; here also events without any light."""
    dataset = make_dataset(tmp_path / "data", 40, columns=COLUMNS)
    encoder = {"focus": 9, "focus_fit": 1, "inner_resolution": 4}
    focus = {f"model__encoder__{name}": value for name, value in encoder.items()}
    run = tiny_run(tmp_path / "run", dataset, **focus, model__regressor__time_mean=4)
    path = tmp_path / "focus.onnx"
    CliRunner().invoke(app, [str(run), "--output", str(path)], catch_exceptions=False)
    assert path.is_file()
    npho, time, _ = make_events(4, 5, COLUMNS)
    npho[0], npho[1], time[2] = 0, np.nan, np.nan
    expected = load(run, device="cpu", precision="fp32").predict(npho, time)
    found = load(path, device="cpu").predict(npho, time)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_bare_network_for_some_tasks(run, tmp_path):
    path = tmp_path / "bare.onnx"
    call = [str(run), "-o", str(path), "--normalized", "--tasks", "uvwFI"]
    CliRunner().invoke(app, call, catch_exceptions=False)
    bare = load(path, device="cpu")
    assert bare.facts.columns == ("pred_u", "pred_v", "pred_w")
    npho, time, _ = make_events(5, 4, COLUMNS)
    expected = load(run, device="cpu", precision="fp32").predict(npho, time)
    sqrt = normalize(npho, time, PRESETS["standard"]).sensors
    for found in (bare.predict(npho, time), bare.predict_normalized(sqrt, PRESETS["standard"])):
        for name in bare.facts.columns:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_differences_of_nan_and_shape_are_infinite():
    nan = np.array([1.0, np.nan])
    assert largest_difference(nan, nan) == 0
    assert largest_difference(nan, np.array([1.0, 2.0])) == np.inf
    assert largest_difference(nan, np.array([1.0])) == np.inf
    assert largest_difference(np.array([True, False]), np.array([True, True])) == 1


def test_what_rounding_alone_moves_as_far_is_no_deviation_of_the_graph() -> None:
    expected = np.array([[1.0, 2.0], [3.0, 4.0]])
    found = expected + np.array([[0.0, 0.5], [0.0, 1e-3]])
    shaken = expected + np.array([[0.1, 0.0], [0.0, 1e-6]])
    assert largest_difference(found, expected) == pytest.approx(0.5)
    assert largest_difference(found, expected, [expected, shaken]) == pytest.approx(1e-3)


def test_photons_on_the_threshold_are_decided_before_runtimes_are_compared(run):
    facts = load(run, device="cpu").facts
    npho = np.array([[99.99552, 100.0, 98.0, 101.0, np.nan, 1e10]], np.float32)
    moved = decided(npho, facts)
    assert (np.abs(moved[0, :2] - facts.npho_threshold) > 0.1).all()
    np.testing.assert_array_equal(moved[0, 2:], npho[0, 2:])


def test_spoiled_events_have_every_kind_of_bad_value():
    npho, time, _ = make_events(4, 1, COLUMNS)
    events = GateEvents.spoiled(np.nan_to_num(npho), np.nan_to_num(time))
    assert np.isnan(events.npho).any()
    assert np.isinf(events.npho).any()
    assert (events.npho < -1000).any()
    assert (events.npho == 1e10).any()
    assert np.isnan(events.time).any()
    assert events.dead.any()


def test_a_task_the_model_does_not_have(run):
    path = find_checkpoint(run)
    with pytest.raises(ConfigError, match="the model does not predict 'xyzFI'"):
        exporting.restricted(*load_mode(read_checkpoint(path), path), ["xyzFI"])


def test_encoder_weights_alone(run, tmp_path):
    import torch

    out = tmp_path / "encoder.pt"
    done = CliRunner().invoke(app, [str(run), "-o", str(out), "--encoder"], catch_exceptions=False)
    found = torch.load(out, weights_only=True)
    state = read_checkpoint(find_checkpoint(run))
    assert found["encoder"]
    for name, tensor in found["encoder"].items():
        assert torch.equal(tensor, state["ema"][f"model.encoder.{name}"])
    assert f"{len(found['encoder'])} tensors of the encoder" in done.output


def test_a_bare_network_from_elsewhere(tmp_path):
    path = bare_network(tmp_path / "old.onnx", {"energy": 1, "uvwFI": 3, "angleVec": 3})
    old = load(path, device="cpu", normalization="legacy", batch_size=4)
    assert old.facts.columns == ("pred_energy", "pred_u", "pred_v", "pred_w", "pred_emi_x", "pred_emi_y", "pred_emi_z")
    assert old.facts.npho_threshold == 0
    npho, time, _ = make_events(6, 1, COLUMNS)
    sensors = normalize(npho, time, PRESETS["legacy"]).sensors
    found = old.predict(npho, time)
    np.testing.assert_allclose(found["pred_energy"], 1e-4 * sensors.sum(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(found["pred_w"], 2 * found["pred_energy"], rtol=1e-4)
    assert found[IN_RANGE].all()
    stored = normalize(npho, time, PRESETS["standard"], dtype="float32").sensors
    again = old.predict_normalized(stored, PRESETS["standard"])
    np.testing.assert_allclose(again["pred_energy"], found["pred_energy"], rtol=1e-3)


def test_foreign_files_are_refused_by_what_they_lack(tmp_path):
    path = bare_network(tmp_path / "old.onnx", {"energy": 1})
    with pytest.raises(ConfigError, match="its normalization is unknown; state it with --normalization"):
        load(path, device="cpu")
    with pytest.raises(ConfigError, match="has no output named after a task"):
        load(bare_network(tmp_path / "odd.onnx", {"logits": 1}), device="cpu", normalization="legacy")
    with pytest.raises(InputError, match="no such ONNX file"):
        load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(CorruptError, match="onnxruntime cannot load it"):
        load(tmp_path / "bad.onnx", device="cpu")
    with pytest.raises(ConfigError, match="is an ONNX file, which computes in float32"):
        load(path, normalization="legacy", precision="bf16")


@pytest.mark.skipif(
    bool(onnxruntime.get_device() == "GPU" and __import__("torch").cuda.is_available()), reason="has CUDA"
)
def test_the_provider_asked_for_is_had_or_refused(tmp_path, caplog):
    path = bare_network(tmp_path / "old.onnx", {"energy": 1})
    with pytest.raises(
        ConfigError, match=r"CUDA is not available to onnxruntime here .*accept the CPU with --allow-cpu"
    ):
        load(path, device="cuda", normalization="legacy")
    accepted = load(path, device="cuda", normalization="legacy", allow_cpu=True)
    assert isinstance(accepted, OnnxPredictor)
    assert "running on the CPU, as allowed" in caplog.text


def test_a_checkpoint_takes_no_normalization(run):
    with pytest.raises(ConfigError, match="is a checkpoint, which has its own normalization"):
        load(run, normalization="legacy")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["per_face", "neighbours"])
def test_an_inpainter_fills_dead_sensors_and_passes_the_others_on(trained, tmp_path, head):
    path, run = tmp_path / "inpaint.onnx", trained.inpaint
    if head == "neighbours":
        focus = {"model__encoder__focus": 9, "model__encoder__focus_fit": 1, "model__encoder__inner_resolution": 4}
        run = tiny_run(tmp_path / "run", trained.train, mode="inpaint", model__inpainter__head=head, **focus)
    CliRunner().invoke(app, [str(run), "-o", str(path)], catch_exceptions=False)
    npho, time, _ = make_events(5, 4, COLUMNS)
    dead = np.arange(4760) % 50 == 0
    one, two = (load(m, device="cpu", batch_size=3).fill(npho, time, dead) for m in (run, path))
    np.testing.assert_array_equal(one.filled, two.filled)
    assert one.npho[~one.filled].tobytes() == two.npho[~one.filled].tobytes() == npho[~one.filled].tobytes()
    np.testing.assert_allclose(two.npho, one.npho, rtol=1e-3, atol=0.1)
    check_hidden(run, path, trained.data)
    evaluated = [numbers("evaluate", m, trained.data, tmp_path / f"report-{m.name}") for m in (run, path)]
    np.testing.assert_allclose(evaluated[1], evaluated[0], rtol=1e-3, atol=1e-2)
    hide = ("--hide", "--masks", "fixed:3", "--device", "cpu", "--output")
    tables = []
    for model in (run, path):
        target = tmp_path / f"{model.name}.root"
        CliRunner().invoke(infer_app, [*map(str, (model, trained.data)), *hide, str(target)], catch_exceptions=False)
        with uproot.open(target) as file:
            tables.append(file["predictions"].arrays(library="np"))
    assert list(tables[0]) == list(tables[1])
    for name, values in tables[0].items():
        np.testing.assert_allclose(tables[1][name], values, rtol=1e-3, atol=0.1, err_msg=name)


def check_hidden(run: Path, path: Path, data: Path) -> None:
    """An exported file hides the same sensors as its run, and predicts the same of them."""
    (part,) = open_parts([data])
    one, two = (load(m, device="cpu", precision="fp32", batch_size=7) for m in (run, path))
    assert isinstance(one, SensorPredictor)
    assert isinstance(two, SensorPredictor)
    events = next(iter(part.read(Wanted.of(one), ReadOptions())))
    hidden, again = (model.hide_and_predict(events) for model in (one, two))
    np.testing.assert_array_equal(hidden.hidden, again.hidden)
    for channel, values in hidden.predicted.items():
        tolerance = {"npho": 0.1, "time": 1e-12}[channel]
        found = again.predicted[channel][hidden.hidden]
        np.testing.assert_allclose(found, values[hidden.hidden], rtol=1e-3, atol=tolerance)


def numbers(command: str, model: Path, data: Path, out: Path, *options: str) -> np.ndarray:
    """Every value that a study writes into its JSON file, in order."""
    app = importlib.import_module(f"xectrain.cli.{command}").app
    arguments = [*map(str, (model, data)), "--out", str(out), "--device", "cpu", *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    name = {"evaluate": "metrics", "dead": "dead", "lines": "line"}[command]
    document = json.loads((out / f"{name}.json").read_text())
    for own in ("request", "model", "models"):
        document.pop(own, None)
    return np.array(list(leaves(document)), dtype=np.float64)


def leaves(tree: object) -> Iterator[float]:
    """The numbers in a document, but for χ²: an event beside the edge of a bin changes it by tenths."""
    if isinstance(tree, dict | list):
        for entry in [value for key, value in tree.items() if key != "chi2"] if isinstance(tree, dict) else tree:
            yield from leaves(entry)
    elif isinstance(tree, int | float):
        yield float(tree)


@pytest.mark.slow
def test_studies_of_an_exported_file_give_the_numbers_of_its_run(trained, exported, tmp_path):
    """Among them the classical methods, calibrated on the training set that the file names."""
    infer(load(exported, device="cpu"), open_parts([trained.train]), tmp_path / "p.root", Request(ReadOptions()))
    with uproot.open(tmp_path / "p.root") as file:
        peak = 1e3 * float(np.median(file["predictions"]["pred_energy"].array(library="np")))
    for command, data, options in (
        ("evaluate", trained.data, ()),
        ("dead", trained.data, ("--dead-fraction", "0.05")),
        ("lines", trained.train, ("--energy", f"{peak:.2f}", "--shape", "single")),
    ):
        places = [tmp_path / f"{command}-{name}" for name in ("run", "file")]
        given = zip((trained.regress, exported), places, strict=True)
        run, found = (numbers(command, model, data, place, *options) for model, place in given)
        np.testing.assert_allclose(found, run, rtol=5e-3, atol=1e-3, err_msg=command)
    run, found = (pl.read_parquet(place / "line_events.parquet") for place in places)
    assert len(run) == 240
    for name in run.columns:  # a photon number at the threshold for times may be decided otherwise, once in a while
        one, two = run[name].to_numpy(), found[name].to_numpy()
        np.testing.assert_array_equal(np.isnan(two), np.isnan(one), err_msg=name)
        apart = np.nan_to_num(np.abs(two - one) / np.maximum(np.abs(one), 1))
        assert np.quantile(apart, 0.98) < 1e-5, name
        assert apart.max() < 5e-3, name
    fits = json.loads((places[0] / "line.json").read_text())["estimators"]
    assert fits["network"]["together"] is not None, "there is a fit to compare"
    CliRunner().invoke(evaluate_app, [str(exported), "--out", str(tmp_path / "own")], catch_exceptions=False)
    assert {"report.html", "card.html", "predictions.root"} <= {path.name for path in (tmp_path / "own").iterdir()}


@pytest.mark.slow
def test_an_autoencoder_predicts_every_sensor(trained, tmp_path):
    path = tmp_path / "mae.onnx"
    done = CliRunner().invoke(app, [str(trained.mae), "-o", str(path)], catch_exceptions=False)
    assert "outputs pred_npho, pred_time" in done.output
    check_hidden(trained.mae, path, trained.data)


HEADERS = "onnxruntime_cxx_api.h"


def cpp_headers() -> Path | None:
    """Where onnxruntime's C++ headers are: `ONNXRUNTIME_INCLUDE`, or where distributions put them."""
    named = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = [Path(named)] if named else [Path(p) for p in ("/usr/include", "/usr/local/include")]
    places += [place / sub for place in places for sub in ("onnxruntime", "onnxruntime/core/session")]
    return next((place for place in places if (place / HEADERS).is_file()), None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
@pytest.mark.skipif(cpp_headers() is None, reason=f"no {HEADERS} here: name its folder in ONNXRUNTIME_INCLUDE")
def test_the_example_in_cpp_compiles_and_predicts_what_python_does(run, exported, tmp_path):
    """As docs/onnx.md has it, linked to the library in the Python package."""
    (example,) = (b.text for b in blocks(ROOT / "docs" / "onnx.md") if b.kind == "cpp")
    (tmp_path / "predict.cpp").write_text(example)
    shutil.copy(exported, tmp_path / "model.onnx")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    linked = tmp_path / "libonnxruntime.so.1"  # the name that it goes by at run time
    linked.symlink_to(library)
    command = ["g++", "-std=c++17", "predict.cpp", f"-I{cpp_headers()}", linked.name, "-Wl,-rpath,$ORIGIN"]
    subprocess.run([*command, "-o", "predict"], cwd=tmp_path, check=True)
    done = subprocess.run(["./predict"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stderr == "", "it is loaded without a warning"
    npho, time = np.full((2, 4760), 100.0), np.full((2, 4760), 2e-8)
    dead = np.zeros((2, 4760), dtype=bool)
    dead[0, 17] = True
    expected = load(run, device="cpu", precision="fp32").predict(npho, time, dead)["pred_energy"]
    found = [float(line.removesuffix(" MeV")) for line in done.stdout.splitlines()]
    assert found == pytest.approx(1e3 * expected, rel=1e-3)

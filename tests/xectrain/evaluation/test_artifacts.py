"""The files of a run: what the network looks at, its worst events, its card."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from support.synthetic import make_events
from support.trained import COLUMNS, Trained, tiny_run

from shards import geometry as geo
from shards.base import publish_text
from shards.opening import open_dataset
from xectrain.cli.train import Artifacts
from xectrain.evaluation.artifacts import validation_parts, write_artifacts
from xectrain.evaluation.card import write_card
from xectrain.evaluation.insight import WorstEvents, look_inside, spreads
from xectrain.evaluation.plots.insight import attention_page
from xectrain.evaluation.results import EvaluationOptions, Insight
from xectrain.inference.calibration import EnergyCalibration, EnergyFactor, calibration_path
from xectrain.inference.events import Events
from xectrain.inference.load import load
from xectrain.inference.regressor import TorchPredictor
from xectrain.inference.root_output import read_metadata
from xectrain.inference.sources import ReadOptions, ShardPart, Wanted, open_parts
from xectrain.modes import load_config


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> TorchPredictor:
    found = load(trained.regress, device="cpu", precision="fp32", batch_size=8)
    assert isinstance(found, TorchPredictor)
    return found


@pytest.mark.slow
def test_everything_of_a_run(trained, tmp_path):
    run = shutil.copytree(trained.regress, tmp_path / "run")
    options = EvaluationOptions(baseline_events=200, resamples=3)
    folder = write_artifacts(load(run, device="cpu"), options=options)
    assert folder == run / "artifacts"
    for name in ("saliency", "face_importance", "attention", "loss_curves", "resolution_energy", "resolution_uvwFI"):
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF"), name
    assert len(list((folder / "worst_events").glob("worst_0[1-5].pdf"))) == 5
    card = (folder / "card.html").read_text()
    assert "Model card: run" in card
    assert "Trained on toy events" not in card, "its data do not say so, whatever their folder is called"
    assert str(trained.train) in card
    with uproot.open(folder / "predictions.root") as file:
        assert file["predictions"].num_entries == 40
    assert (folder / "report.html").exists()
    before = (folder / "report.html").stat().st_mtime_ns
    write_artifacts(load(run, device="cpu"), options=options)
    assert (folder / "report.html").stat().st_mtime_ns == before
    (folder / "attention.pdf").unlink()  # as if it had been killed while looking inside
    write_artifacts(load(run, device="cpu"), options=options)
    assert (folder / "attention.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_artifacts_of_a_run_that_was_calibrated_since_are_set_aside(trained, tmp_path):
    run, options = shutil.copytree(trained.regress, tmp_path / "run"), EvaluationOptions(baselines=False, resamples=2)
    model = load(run, device="cpu")
    before = read_metadata(write_artifacts(model, options=options) / "predictions.root")
    found = EnergyCalibration(
        model=model.facts.digest, request="", factor=EnergyFactor(constant=0.01), lines=(), code_version=""
    )
    publish_text(calibration_path(model.facts.file), found.model_dump_json())
    write_artifacts(load(run, device="cpu"), options=options)
    assert read_metadata(run / "artifacts-1" / "predictions.root") == before
    assert read_metadata(run / "artifacts" / "predictions.root")["energy_calibration"] != "none"
    assert not (run / "artifacts-2").exists()


def test_the_card_says_that_the_training_data_are_of_the_toy(toy_dataset, tmp_path):
    """The toy's files say what they are, conversion records it, the card repeats it."""
    assert open_dataset(toy_dataset).manifest.settings.conversion["toy"] is True
    data = Path(shutil.copytree(toy_dataset, tmp_path / "data"))
    model = load(tiny_run(tmp_path / "run", data, ("energy",)), device="cpu")
    write_card(model, None, tmp_path / "card.html")
    assert "Trained on toy events: nothing can be said about real data." in (tmp_path / "card.html").read_text()


@pytest.mark.slow
def test_artifacts_of_an_epoch_lie_beside_those_of_the_end(trained, tmp_path):
    run = Path(shutil.copytree(trained.inpaint, tmp_path / "run"))
    Artifacts(run, load_config([run / "config.yaml"])).of_epoch(3)
    assert (run / "artifacts_ep3" / "report.html").exists()
    assert not (run / "artifacts").exists()


@pytest.mark.slow
def test_files_of_an_inpainter(trained, tmp_path):
    run = shutil.copytree(trained.inpaint, tmp_path / "run")
    folder = write_artifacts(load(run, device="cpu"))
    assert {"card.html", "metrics.json", "predictions.root", "resolution_sensors.pdf", "loss_curves.pdf"} <= {
        p.name for p in folder.iterdir()
    }
    assert "inpaint of npho" in (folder / "card.html").read_text()


def test_some_rows_of_a_dataset_are_a_part(trained, predictor):
    dataset = open_dataset(trained.data)
    rows = np.array([0, 3, 15, 16, 31, 39])
    part = ShardPart(dataset, rows)
    wanted = Wanted(4, "cpu", predictor.facts.normalization)

    def events(part: ShardPart, settings: ReadOptions) -> list[float]:
        return [e for chunk in part.read(wanted, settings) for e in chunk.columns["event"].tolist()]

    every = dataset.column("event")
    assert events(part, ReadOptions()) == every[rows].tolist()
    some = [r for r in rows if dataset.column("energy")[r] > 0.05]
    assert events(part, ReadOptions(select="energy > 0.05")) == every[some].tolist()
    assert part.events == 6
    assert part.identity() != ShardPart(dataset).identity()


def test_the_validation_set_is_what_the_run_was_validated_on(trained, tmp_path):
    run = tiny_run(tmp_path / "run", trained.data, tasks=("energy",), data__val="[]", data__val_fraction=0.3)
    (part,) = validation_parts(load(run, device="cpu").facts)
    assert 0 < part.events < 40
    (given,) = validation_parts(load(trained.regress, device="cpu").facts)
    assert given.events == 40


def test_hidden_faces_and_gradients_see_what_the_network_sees(trained, predictor):
    """A network that reads the inner face's photons only."""

    class Inner(torch.nn.Module):
        """Energy is the mean normalized npho of the visible inner sensors; all else is constant."""

        def __init__(self, network):
            super().__init__()
            self.tasks, self.standardization, self.encoder = network.tasks, network.standardization, network.encoder

        def predict(self, x_BN2, mask_BN):
            seen = torch.where(mask_BN, 0.0, x_BN2[..., 0])[:, : geo.N_SIPM]
            constant = {name: x_BN2.sum(dim=(1, 2)) * 0 for name in predictor.facts.columns}
            return {**constant, "pred_energy": seen.mean(dim=1)}

    mode = copy.deepcopy(predictor.mode)
    mode.model = Inner(mode.model)
    stand_in = TorchPredictor(mode, predictor.facts, predictor.compute, 8)
    (part,) = open_parts([trained.data])
    insight = look_inside(stand_in, part, ReadOptions(), events=16)
    energy = insight.columns.index("energy")
    assert insight.events == 16
    assert insight.saliency[energy, geo.INNER, 0] > 0
    assert insight.importance[energy, geo.INNER] > 0
    others = [code for code in range(6) if code != geo.INNER]
    assert (insight.saliency[energy, others] == 0).all()
    assert (insight.importance[energy, others] == 0).all()
    assert (insight.saliency[:, :, 1] == 0).all()
    np.testing.assert_allclose(insight.attention.sum(axis=-1), 1, atol=1e-4)


def test_a_network_without_fusion_layers_has_a_page_that_says_so():
    tokens = ("inner", "outer")
    insight = Insight(1, ("energy",), np.zeros((1, 2, 2)), np.zeros((1, 2)), np.zeros((0, 2, 2)), tokens)
    (axes,) = attention_page(insight).axes
    assert not axes.axison
    assert "Without fusion layers" in axes.texts[0].get_text()


def test_the_worst_events_are_kept_in_order(predictor):
    worst = WorstEvents({"energy": 0.01}, keep=3)
    rng = np.random.default_rng(0)
    errors = rng.permutation(40) * 0.001
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        npho, time, _ = make_events(8, start, COLUMNS)
        table = {
            "event": np.arange(start, start + 8.0),
            "true_energy": np.where(errors[part] == 0.039, np.nan, 0.05),  # the worst has no truth
            "pred_energy": 0.05 + errors[part],
        }
        worst.add(Events.of_raw(npho, time), table, predictor)
    found = worst.worst()
    assert [round(np.sqrt(e.loss) * 10) for e in found] == [38, 37, 36]
    assert found[0].values["event"] == np.flatnonzero(errors == 0.038)[0]
    npho, _, _ = make_events(8, int(found[0].values["event"]) // 8 * 8, COLUMNS)
    good = np.isfinite(found[0].npho)
    np.testing.assert_array_equal(found[0].npho[good], npho[int(found[0].values["event"]) % 8][good])


def test_spreads_are_those_of_the_training_set(trained, predictor):
    found = spreads(predictor)
    assert set(found) == {"theta", "phi", "energy", "timing", "u", "v", "w"}
    assert found["energy"] == pytest.approx(np.std(open_dataset(trained.train).column("energy")), rel=1e-6)

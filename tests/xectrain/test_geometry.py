"""Sensors that are not at their nominal places, from a survey's table to the exported network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import config

from shards import geometry as geo
from shards.base import ConfigError, CorruptError, InputError
from shards.dataset import Dataset
from shards.normalization import denormalize
from shards.opening import open_dataset
from xectrain.data import open_training_data
from xectrain.inference.load import load
from xectrain.inference.regressor import Predictor, TorchPredictor
from xectrain.modes.regress import Regress
from xectrain.training import session

SHIFT = np.array([0.0, 0.0, 1.5])


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sensor 1.5 cm further along z, and 0.1 mm anywhere."""
    nominal, file = geo.nominal(), tmp_path_factory.mktemp("survey") / "survey.txt"
    places = nominal.positions + SHIFT + np.random.default_rng(1).normal(0, 0.01, (4760, 3))
    geo.save(file, geo.Geometry(places, nominal.normals, nominal.face, file.name))
    return file


@pytest.fixture(scope="module")
def surveyed(survey: Path, toy_root: Path, tmp_path_factory: pytest.TempPathFactory, run_command) -> Dataset:
    out = tmp_path_factory.mktemp("shards") / "surveyed"
    run_command("ingest.cli:app", "root2shards", toy_root, "--geometry", survey, "--out", out)
    return open_dataset(out)


def test_a_dataset_knows_where_its_sensors_are(survey: Path, surveyed: Dataset, toy_dataset: Path) -> None:
    assert surveyed.geometry == geo.load(survey)
    assert surveyed.geometry.name == "survey.txt"
    assert open_dataset(toy_dataset).geometry == geo.nominal()


def test_positions_that_were_not_kept_are_missed(surveyed: Dataset) -> None:
    settings = dataclasses.replace(surveyed.manifest.settings, survey=None)
    older = Dataset(surveyed.path, dataclasses.replace(surveyed.manifest, settings=settings))
    with pytest.raises(InputError, match=r"geometry survey.txt: does not hold the positions of its sensors; convert"):
        _ = older.geometry


def test_a_damaged_survey_is_refused_with_the_file(surveyed: Dataset, tmp_path: Path) -> None:
    manifest = json.loads((surveyed.path / "manifest.json").read_text())
    manifest["survey"]["positions"].pop()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match=r"manifest\.json: .*expected 14280 positions and normals"):
        Dataset.at(tmp_path)


def test_two_geometries_do_not_make_one_training_set(surveyed: Dataset, toy_dataset: Path) -> None:
    mixed = config(surveyed).data
    mixed = mixed.model_copy(update={"val": (mixed.val[0].model_copy(update={"path": str(toy_dataset)}),)})
    with pytest.raises(ConfigError, match=r"has its sensors elsewhere than .* \(found nominal, expected survey.txt\)"):
        open_training_data(mixed, 0)


@pytest.mark.slow
def test_a_network_reads_events_where_its_sensors_are(
    surveyed: Dataset, toy_dataset: Path, tmp_path: Path, run_command
) -> None:
    """What it says of the light alone moves along with the sensors; the exported graph predicts the same."""
    few = {"train__epochs": 1, "data__batch_size": 16, "model__encoder.focus": 9, "model__encoder.inner_resolution": 4}
    sensors = surveyed.read(np.arange(40))[0]
    centres = []
    for name, data in (("surveyed", surveyed), ("nominal", open_dataset(toy_dataset))):
        session.train(config(data, **few), tmp_path / name)
        model = load(tmp_path / name, device="cpu")
        assert isinstance(model, TorchPredictor)
        assert isinstance(model.mode, Regress)
        scene = model.mode.model.encoder.look(torch.from_numpy(sensors))
        assert scene is not None
        centres.append(scene.uvw_B3[:, 0].numpy())
    np.testing.assert_allclose(centres[0] - centres[1], SHIFT[2], atol=0.05)
    run_command("xectrain.cli.export:app", tmp_path / "surveyed", "--output", tmp_path / "model.onnx")
    raw = denormalize(sensors, surveyed.normalization)
    both = [load(path, device="cpu") for path in (tmp_path / "surveyed", tmp_path / "model.onnx")]
    ours, exported = (model.predict(*raw)["pred_u"] for model in both if isinstance(model, Predictor))
    np.testing.assert_allclose(exported, ours, atol=1e-3)

"""A mode is one registration: a fourth one trains, resumes, predicts, is evaluated, exported and described."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.synthetic import make_dataset

from xectrain.inference.load import load
from xectrain.modes import MODES, ModeEntry


def test_a_fourth_mode_is_one_registration(
    tmp_path: Path, run_command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ModeEntry("support.light_mode:TotalLight", "predict the total light", defaults={"optim": {"lr": 1e-2}})
    monkeypatch.setitem(MODES, "light", entry)
    data = make_dataset(tmp_path / "data", 24, columns=["run", "event", "energy"]).path
    run, where = tmp_path / "run", ("--data", data, "--val", data, "--device", "cpu", "--batch-size", 8)
    few = ("--set", "tracking.mlflow=false", "--set", "data.epoch_events=16", "--set", "model.preset=tiny")
    few = (*few, "--set", "checkpoint.save_artifacts=false")
    run_command("xectrain.cli.train:app", *where, *few, "--mode", "light", "--out", run, "--epochs", 1)
    run_command("xectrain.cli.train:app", *where, *few, "--mode", "light", "--out", run, "--epochs", 2)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [row["val/bias_light"] for row in rows if "val/bias_light" in row]
    assert len(validations) == 2

    run_command("xectrain.cli.infer:app", run, data, "--output", tmp_path / "pred.root", "--device", "cpu")
    with uproot.open(tmp_path / "pred.root") as file:
        predicted = file["predictions"]["pred_light"].array(library="np")
    assert predicted.shape == (24,)
    assert np.isfinite(predicted).all()

    best = str(run / "checkpoint_last.pt")
    run_command("xectrain.cli.evaluate:app", best, data, "--out", tmp_path / "report", "--device", "cpu")
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["data"][data.name]
    assert found["bias_light"] == pytest.approx(validations[-1], rel=1e-3)

    run_command("xectrain.cli.export:app", run, "--output", tmp_path / "light.onnx", "--data", data)
    assert load(tmp_path / "light.onnx", device="cpu").facts.columns == ("pred_light",)
    assert "4,761" in run_command("xectrain.cli.model:app", "describe", run)

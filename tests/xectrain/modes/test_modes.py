"""The three modes from the configuration to a finished run, each starting from the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.networks import STANDARD, tiny

from shards.base import ConfigError
from xectrain.baselines.inpainting import neighbour_table
from xectrain.checkpoint import BEST, LAST, read_checkpoint, write_checkpoint
from xectrain.config.networks import TaskConfig, TasksConfig
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.modes.masked import _ring_mean
from xectrain.modes.regress import Regress
from xectrain.targets import TargetOptions
from xectrain.training import session
from xectrain.training.runfolder import RunFolder, read_metrics


def config(data: Path, mode: str, **sets: Any) -> Config:
    base: dict[str, Any] = {
        "mode": mode,
        "model.preset": "tiny",
        "train.epochs": 2,
        "data.batch_size": 15,
        "optim.lr": 5e-3,
        "schedule.warmup_epochs": 0,
        "train.ema_decay": 0.5,
        "tracking.mlflow": "false",
    }
    some = {"path": str(data), "select": "event % 3 == 0"}
    options = {"data": {"train": [{"path": str(data)}], "val": [some]}}
    changes = {k.replace("__", "."): v for k, v in sets.items()}
    return load_config(assignments=[f"{k}={v}" for k, v in {**base, **changes}.items()], options=options)


def epochs(run: Path) -> list[dict[str, Any]]:
    return [r for r in read_metrics(RunFolder(run).metrics) if r["kind"] == "epoch"]


@pytest.fixture(scope="module")
def pretrained(toy_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("mae")
    session.train(config(toy_dataset, "mae", train__epochs=4), run)
    return run


def test_pretraining_improves_and_reports_every_face(pretrained: Path) -> None:
    records = epochs(pretrained)
    assert records[-1]["val/loss"] < records[0]["val/loss"]
    assert records[-1]["val/actual_mask_ratio"] == pytest.approx(0.6, abs=1e-3)
    for face in ("inner", "outer", "upstream", "downstream", "top", "bottom"):
        assert records[-1][f"val/loss_{face}_npho"] > 0
        assert records[-1][f"val/mae_ring_{face}"] > 0
        assert records[-1][f"val/rmse_{face}"] >= records[-1][f"val/mae_{face}"] > 0


@pytest.mark.parametrize("head", ["per_face", pytest.param("cross_attention", marks=pytest.mark.slow)])
def test_inpainting_from_a_frozen_pretrained_encoder(
    pretrained: Path, toy_dataset: Path, tmp_path: Path, head: str
) -> None:
    sets = {"checkpoint.init_from": str(pretrained), "model.inpainter.head": head, "masking.loss": "smooth_l1"}
    session.train(config(toy_dataset, "inpaint", train__epochs=5, **sets), tmp_path)
    records = epochs(tmp_path)
    assert records[-1]["val/loss"] < 0.5 * records[0]["val/loss"]
    assert records[-1]["val/actual_mask_ratio"] == pytest.approx(0.05, abs=1e-3)
    before, after = read_checkpoint(pretrained / BEST)["ema"], read_checkpoint(tmp_path / LAST)["model"]
    encoder = [name for name in after if name.startswith("model.encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in encoder)


def test_regression_from_a_pretrained_encoder_trains_it(pretrained: Path, toy_dataset: Path, tmp_path: Path) -> None:
    session.train(
        config(toy_dataset, "regress", train__epochs=1, **{"checkpoint.init_from": str(pretrained)}), tmp_path
    )
    before, after = read_checkpoint(pretrained / BEST)["ema"], read_checkpoint(tmp_path / LAST)["model"]
    moved = [n for n in after if n.startswith("model.encoder.") and not torch.equal(before[n], after[n])]
    assert len(moved) > 10


@pytest.mark.parametrize("mode", ["mae", "inpaint"])
def test_resuming_is_exact_in_every_mode(toy_dataset: Path, tmp_path: Path, mode: str) -> None:
    exact = {
        "train__deterministic": "true",
        "schedule__kind": "constant",
        "data__batch_size": 5,
        "data__epoch_events": 10,
    }
    session.train(config(toy_dataset, mode, **exact), tmp_path / "two")
    for epochs_so_far in (1, 2):
        session.train(config(toy_dataset, mode, **exact, train__epochs=epochs_so_far), tmp_path / "one")
    one, two = (read_checkpoint(tmp_path / run / LAST)["model"] for run in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("sets", "logged"),
    [
        ({"tasks.uvwFI.enabled": "true", "tasks.angle_position": 0.1}, "train/loss_angle_position"),
        ({"tasks.energy.enabled": "true", "tasks.energy_light": 0.1}, "train/loss_energy_light"),
    ],
)
def test_physics_terms_enter_the_loss(toy_dataset: Path, tmp_path: Path, sets: dict[str, Any], logged: str) -> None:
    session.train(config(toy_dataset, "regress", train__epochs=1, data__epoch_events=15, **sets), tmp_path)
    records = [r for r in read_metrics(RunFolder(tmp_path).metrics) if r["kind"] == "steps"]
    tasks = [v for k, v in records[0].items() if k.startswith("train/loss_") and k != logged]
    assert records[0][logged] >= 0
    assert records[0]["train/loss"] == pytest.approx(sum(tasks) + records[0][logged], rel=1e-5)


def test_learned_balance_is_saved_and_leaves_validation_comparable(toy_dataset: Path, tmp_path: Path) -> None:
    sets = {"tasks.energy.enabled": "true", "tasks.balance": "auto", "tasks.energy.weight": 2, "train.epochs": 1}
    session.train(config(toy_dataset, "regress", **sets), tmp_path)
    learned = read_checkpoint(tmp_path / LAST)["model"]["balance.log_variance"]
    assert learned.shape == (2,)
    assert bool((learned != 0).all())
    last = epochs(tmp_path)[-1]
    assert last["val/loss"] == pytest.approx(last["val/loss_angle"] + 2 * last["val/loss_energy"], rel=1e-5)


def test_defaults_depend_on_the_mode() -> None:
    assert (load_config(assignments=["mode=inpaint"]).train.epochs, Config().train.epochs) == (50, 20)
    assert load_config(assignments=["mode=mae"]).optim.lr == 1e-4
    assert load_config(assignments=["mode=inpaint", "checkpoint.init_from=x"]).optim.freeze_encoder
    chosen = load_config(assignments=["mode=inpaint", "checkpoint.init_from=x", "optim.freeze_encoder=false"])
    assert not chosen.optim.freeze_encoder


def test_state_says_done(pretrained: Path) -> None:
    assert json.loads((pretrained / "state.json").read_text())["state"] == "done"


def test_init_from_something_else_is_refused(toy_dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    other = {**read_checkpoint(pretrained / LAST), "model": {"a": torch.zeros(2)}, "ema": None}
    write_checkpoint(tmp_path / "other.pt", other)
    with pytest.raises(ConfigError, match="has no tensors that fit this network"):
        session.train(
            config(toy_dataset, "mae", **{"checkpoint.init_from": str(tmp_path / "other.pt")}), tmp_path / "r"
        )


def test_uncertainties_are_calibrated_on_the_validation_set() -> None:
    settings = TasksConfig(angle=TaskConfig(), uvwFI=TaskConfig(enabled=True, loss="gaussian_nll"))
    mode = Regress(tiny(), settings, STANDARD, ["u", "v", "w"], TargetOptions())
    draw = np.random.default_rng(0)
    outputs = {f"true_{c}": draw.normal(size=4000) for c in "uvw"}
    outputs |= {f"sigma_{c}": draw.uniform(0.5, 2, 4000) for c in "uvw"}
    for c, factor in zip("uvw", (1.0, 2.0, 0.5), strict=True):
        outputs[f"pred_{c}"] = outputs[f"true_{c}"] + factor * outputs[f"sigma_{c}"] * draw.normal(size=4000)
    mode.calibrate(outputs)
    assert mode.model.standardization.scale("uvwFI")[0].tolist() == pytest.approx([1, 2, 0.5], rel=0.05)
    scaled = {k: v * (1.0, 2.0, 0.5)["uvw".index(k[-1])] if k.startswith("sigma") else v for k, v in outputs.items()}
    before = mode.model.standardization.scale("uvwFI")[0].clone()
    mode.calibrate(scaled)  # what comes out now is calibrated already
    assert mode.model.standardization.scale("uvwFI")[0].tolist() == pytest.approx(before.tolist(), rel=0.05)


def test_quantiles_are_calibrated_on_the_validation_set() -> None:
    settings = TasksConfig(
        angle=TaskConfig(),
        timing=TaskConfig(enabled=True, loss="quantile", quantiles=(0.025, 0.16, 0.5, 0.84, 0.975)),
        energy=TaskConfig(enabled=True, loss="quantile", log_transform=True),
    )
    mode = Regress(tiny(), settings, STANDARD, ["timing", "energy"], TargetOptions())
    draw = np.random.default_rng(0)
    width, noise = draw.uniform(0.5, 2, 20000), draw.normal(size=20000)
    outputs = {"pred_timing": draw.normal(size=20000), "pred_energy": draw.uniform(0.01, 0.05, 20000)}
    outputs["true_timing"] = outputs["pred_timing"] + width * noise
    outputs["true_energy"] = outputs["pred_energy"] * np.exp(width * noise)
    outputs["true_energy"][:100] = np.nan  # without truth
    for suffix, edge in (("q2p5", -1.0), ("q16", -1.0), ("q84", 0.5), ("q97p5", 1.0)):
        outputs[f"pred_timing_{suffix}"] = outputs["pred_timing"] + edge * width
        outputs[f"pred_energy_{suffix}"] = outputs["pred_energy"] * np.exp(edge * width)
    mode.calibrate(outputs)
    scales = mode.model.standardization
    timing, energy = (scales.scale(name)[:, 0].tolist() for name in ("timing", "energy"))
    assert timing == pytest.approx([1.960, 0.9945, 1, 1.989, 1.960], rel=0.03)
    assert energy == pytest.approx([0.9945, 1, 1.989], rel=0.03)


def test_a_calibration_follows_the_prediction_and_one_of_what_is_calibrated_changes_nothing() -> None:
    settings = TasksConfig(angle=TaskConfig(), uvwFI=TaskConfig(enabled=True, loss="gaussian_nll"))
    mode = Regress(tiny(), settings, STANDARD, ["u", "v", "w"], TargetOptions())
    draw = np.random.default_rng(0)
    predicted, error = draw.uniform(0, 10, 8000), draw.normal(size=8000)
    true = predicted + np.interp(predicted, (0, 10), (0.5, 2)) * error
    outputs = {}
    for c in "uvw":
        outputs |= {f"pred_{c}": predicted, f"true_{c}": true, f"sigma_{c}": np.ones(8000)}
    mode.calibrate(outputs)
    scales = mode.model.standardization

    def sigma() -> np.ndarray:
        value_BK = torch.from_numpy(np.stack([outputs[f"pred_{c}"] for c in "uvw"], axis=1))
        return scales.factor("uvwFI", scales.standardized("uvwFI", value_BK))[:, 0, 0].double().numpy()

    before = sigma()
    for low in range(0, 10, 2):
        some = (predicted >= low) & (predicted < low + 2)
        inside = np.abs(predicted - true)[some] < before[some]
        assert np.mean(inside) == pytest.approx(0.683, abs=0.05)
    mode.calibrate(outputs | {f"sigma_{c}": before for c in "uvw"})
    np.testing.assert_allclose(sigma(), before, rtol=1e-5)


def test_the_ring_mean_is_that_of_the_neighbours_that_are_seen():
    neighbours = [n for n in neighbour_table("ring")[2000].tolist() if n >= 0]
    photons = torch.rand(2, 4760, dtype=torch.float64)
    seen = torch.ones(2, 4760, dtype=torch.bool)
    seen[0, neighbours[0]] = False
    seen[1, neighbours] = False
    found = _ring_mean(photons, seen)
    assert float(found[0, 2000]) == pytest.approx(float(photons[0, neighbours[1:]].mean()))
    assert float(found[1, 2000]) == 0

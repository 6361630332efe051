from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.synthetic import make_dataset

from shards.base import ConfigError
from shards.dataset import Dataset
from shards.plan import View
from shards.sampling import resampled
from xectrain.checkpoint import LAST, read_checkpoint
from xectrain.data import open_training_data
from xectrain.modes import load_config
from xectrain.modes.reweight import fit_weights
from xectrain.training import session
from xectrain.training.runfolder import RunFolder, read_metrics


def test_factors_undo_the_histogram_and_have_mean_one() -> None:
    energy = np.random.default_rng(0).exponential(0.01, (20000, 1)).clip(max=0.05)
    weights = fit_weights("energy", energy, limit=1e9)
    factor = weights(torch.from_numpy(energy)).numpy()
    assert factor.mean() == pytest.approx(1.0)
    filled, _ = np.histogram(energy[:, 0], bins=30, weights=factor)
    assert filled == pytest.approx(np.full(30, 20000 / 30), rel=1e-6)


def test_the_limit_bounds_factors_and_missing_truth_counts_once() -> None:
    energy = np.concatenate([np.full(1000, 0.05), [0.015]])[:, None]
    weights = fit_weights("energy", energy, limit=3)
    values = torch.tensor([[0.05], [0.015], [float("nan")], [9.0], [-9.0]], dtype=torch.float64)
    many, few, missing, above, below = weights(values).tolist()
    assert few / many == pytest.approx(3 / (500.5 / 1000))
    assert (missing, above, below) == (1.0, many, few)


def test_a_resampled_plan_reaches_a_uniform_histogram(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "a", events=400, events_per_shard=100)
    u = data.column("u")
    rows = data.rows()[np.isfinite(u)]
    skewed = rows[(u[rows] < 0) | (rows % 5 == 0)]
    uv = np.stack([data.column("u")[skewed], np.zeros(len(skewed))], axis=1)
    weights = fit_weights("uvwFI", uv, limit=100)(torch.from_numpy(uv)).numpy()
    counts = [
        np.histogram(u[resampled(View(data, skewed), weights, 1, epoch).rows], bins=10, range=(-33, 33))[0]
        for epoch in range(20)
    ]
    mean = np.sum(counts, axis=0) / 20
    assert mean == pytest.approx(np.full(10, len(skewed) / 10), rel=0.15)
    assert np.histogram(u[skewed], bins=10, range=(-33, 33))[0].max() > 1.7 * mean.max()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "a", events=24, events_per_shard=10)


def config(dataset: Dataset, **sets: Any) -> Any:
    base = {
        "model.preset": "tiny",
        "train.epochs": 1,
        "data.batch_size": 8,
        "train.log_every": 1,
        "train.deterministic": "true",
        "tracking.mlflow": "false",
        "tasks.energy.enabled": "true",
    }
    options = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    return load_config(assignments=[f"{k}={v}" for k, v in {**base, **sets}.items()], options=options)


def first_loss(run: Path, key: str = "train/loss") -> float:
    return float(next(iter(read_metrics(RunFolder(run).metrics)))[key])


def test_reweighting_by_loss_changes_the_loss_and_is_in_the_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    session.train(config(dataset), tmp_path / "plain")
    session.train(config(dataset, **{"reweight.by": "loss", "reweight.tasks": "[energy]"}), tmp_path / "weighted")
    assert first_loss(tmp_path / "plain") != first_loss(tmp_path / "weighted")
    plain_energy = first_loss(tmp_path / "plain", "train/loss_energy")
    assert plain_energy == first_loss(tmp_path / "weighted", "train/loss_energy")
    assert "reweight.energy.factor" in read_checkpoint(tmp_path / "weighted" / LAST)["model"]


def test_a_curriculum_orders_the_epoch(dataset: Dataset) -> None:
    from xectrain.training.preparation import sampled

    settings = config(dataset, **{"augment.curriculum": "energy"})
    data = sampled(settings, open_training_data(settings.data, 0))
    energy = dataset.column("energy")[data.order(0, 0, None).row]
    stages = np.array_split(energy, 8)
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(stages))
    assert sorted(energy) == sorted(dataset.column("energy"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"reweight.by": "loss"}, "reweighting needs tasks"),
        ({"reweight.by": "plan", "reweight.tasks": "[energy, angle]"}, "takes exactly one task"),
        ({"reweight.by": "plan", "reweight.tasks": "[xyzFI]"}, r"reweight\.tasks\[0\]: has a wrong value .*'uvwFI'"),
        ({"reweight.by": "loss", "reweight.tasks": "[timing]"}, "timing is not learned"),
        ({"augment.curriculum": "enrgy"}, "has no column 'enrgy'; did you mean 'energy'"),
        ({"augment.curriculum": "energy", "data.epoch_events": 5}, r"augment\.curriculum: cannot be combined"),
    ],
)
def test_what_makes_no_sense_is_refused(dataset: Dataset, tmp_path: Path, sets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        session.train(config(dataset, **sets), tmp_path)

"""A run folder with a tiny network, trained for a moment, and ROOT files holding the events of synthetic datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import uproot

from shards.dataset import Dataset
from support.synthetic import make_events
from xectrain.modes import load_config
from xectrain.training import session

COLUMNS = (
    *("run", "event", "theta", "phi", "energy", "timing", "time_min_used", "u", "v", "w", "x", "y", "z"),
    *("vtx_x", "vtx_y", "vtx_z", "energyReco"),
)
"""Everything the tasks of `tiny_run` need, and a carried column."""
TASKS = ("angle", "energy", "timing", "uvwFI")


def tiny_run(folder: Path, dataset: Dataset, tasks: tuple[str, ...] = TASKS, **sets: Any) -> Path:
    """Train the tiny network on `dataset` for one epoch of a few events; the run folder."""
    values = {
        "model.preset": "tiny",
        "train.epochs": 1,
        "data.epoch_events": 16,
        "data.batch_size": 8,
        "tracking.mlflow": "false",
        "tasks.angle.enabled": "false",
        **{f"tasks.{task}.enabled": "true" for task in tasks},
        **{key.replace("__", "."): value for key, value in sets.items()},
    }
    both = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    session.train(load_config(assignments=[f"{k}={v}" for k, v in values.items()], options=both), folder)
    return folder


def write_root(path: Path, events: int, seed: int = 0, first_event: int = 0) -> None:
    """Write the events of `make_events(events, seed, COLUMNS)` as the tree of the input specification."""
    npho, time, truth = make_events(events, seed, COLUMNS, first_event=first_event)
    column = dict(zip(COLUMNS, truth.T, strict=True))

    def several(*names: str) -> np.ndarray:
        return np.stack([column[name] for name in names], axis=1)

    branches = {
        "npho": npho,
        "relative_time": time,
        "run": column["run"].astype(np.int32),
        "event": column["event"].astype(np.int32),
        "emiAng": several("theta", "phi"),
        "energyTruth": column["energy"],
        "timeTruth": column["timing"],
        "time_min_used": column["time_min_used"],
        "uvwTruth": several("u", "v", "w"),
        "xyzTruth": several("x", "y", "z"),
        "xyzVTX": several("vtx_x", "vtx_y", "vtx_z"),
        "energyReco": column["energyReco"],
    }
    with uproot.recreate(path) as file:
        types = {name: np.dtype((a.dtype, a.shape[1:])) if a.ndim > 1 else a.dtype for name, a in branches.items()}
        file.mktree("tree", types).extend(branches)


def tiny_sensor_run(folder: Path, dataset: Dataset, mode: str, **sets: Any) -> Path:
    """Train the tiny network of `mae` or `inpaint` on `dataset` for a few events; the run folder."""
    values = {
        "mode": mode,
        "model.preset": "tiny",
        "train.epochs": 1,
        "data.epoch_events": 8,
        "data.batch_size": 4,
        "tracking.mlflow": "false",
        **{key.replace("__", "."): value for key, value in sets.items()},
    }
    both = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    session.train(load_config(assignments=[f"{k}={v}" for k, v in values.items()], options=both), folder)
    return folder

"""Tiny networks, trained for a moment: one of each mode, which all tests share, and further ones with other options."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from shards.dataset import Dataset
from support.synthetic import make_dataset, make_events
from xectrain.modes import load_config
from xectrain.training import session

COLUMNS = (
    *("run", "event", "theta", "phi", "energy", "timing", "time_min_used", "u", "v", "w", "x", "y", "z"),
    *("vtx_x", "vtx_y", "vtx_z", "energyReco"),
)
"""Everything that the tasks need, and a carried column."""
TASKS = ("angle", "energy", "timing", "uvwFI")


EVENTS = 40


class Trained:
    """One tiny run of each mode and the data that they were trained on. Made when first asked for; to be read only: a
    test that changes a run or a dataset copies it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def data(self) -> Path:
        """A dataset of `EVENTS` synthetic events of two sources, in several shards."""
        return make_dataset(self.folder / "data", EVENTS, events_per_shard=12, columns=COLUMNS).path

    @cached_property
    def train(self) -> Path:
        """Enough other events to train on and to calibrate the classical methods with: 240."""
        return make_dataset(self.folder / "toy-train", 240, events_per_shard=100, columns=COLUMNS, first_source=10).path

    @cached_property
    def roots(self) -> tuple[Path, Path]:
        """ROOT files `a.root` and `b.root` with the events of the two sources of `data`."""
        paths = self.folder / "a.root", self.folder / "b.root"
        for source, path in enumerate(paths):
            write_root(path, EVENTS // 2, seed=source, first_event=1000 * source)
        return paths

    @cached_property
    def regress(self) -> Path:
        """A run that learned `TASKS` on `train`, validated on `data`."""
        return self._run("regress")

    @cached_property
    def mae(self) -> Path:
        """A pre-training."""
        return self._run("mae")

    @cached_property
    def inpaint(self) -> Path:
        """An inpainter of photons."""
        return self._run("inpaint")

    def _run(self, mode: str) -> Path:
        return tiny_run(self.folder / mode, self.train, mode=mode, val=self.data)


def tiny_run(
    folder: Path,
    train: Dataset | Path,
    tasks: tuple[str, ...] = TASKS,
    *,
    mode: str = "regress",
    val: Path | None = None,
    **sets: Any,
) -> Path:
    """Train the tiny network on 16 events of the dataset `train`; the run folder.

    Args:
        tasks: of `regress`.
        val: dataset to validate on; default: `train`.
        sets: further options, with `__` for the dot.
    """
    path = train if isinstance(train, Path) else train.path
    enabled = {"angle": "angle" in tasks, **dict.fromkeys(tasks, True)} if mode == "regress" else {}
    values = {
        "mode": mode,
        "model.preset": "tiny",
        "train.epochs": 1,
        "data.epoch_events": 16,
        "data.batch_size": 8,
        "tracking.mlflow": "false",
        **{f"tasks.{task}.enabled": str(on).lower() for task, on in enabled.items()},
        **{key.replace("__", "."): value for key, value in sets.items()},
    }
    data = {"data": {"train": [{"path": str(path)}], "val": [{"path": str(val or path)}]}}
    session.train(load_config(assignments=[f"{k}={v}" for k, v in values.items()], options=data), folder)
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

"""Trainings of the tiny network on a few events, and what tests do to them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from shards.dataset import Dataset
from xectrain.checkpoint import LAST, read_checkpoint
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.training.runfolder import RunFolder, read_metrics

EVENTS, BATCH, STEPS = 25, 4, 7
"""Events of the dataset, of a step, and steps of an epoch."""


def config(dataset: Dataset, **sets: Any) -> Config:
    """Two deterministic epochs of the tiny network; `a__b` sets `a.b`, as does `a__b.c` for deeper keys."""
    base = {
        "model.preset": "tiny",
        "train.deterministic": "true",
        "train.epochs": 2,
        "train.log_every": 2,
        "data.batch_size": BATCH,
        "optim.lr": 1e-3,
        "tracking.mlflow": "false",
        "checkpoint.save_artifacts": "false",
        "model.encoder.fusion_dropout": 0,
        "model.regressor.head_dropout": 0,
        "tasks.angle.enabled": "false",
        "tasks.energy.enabled": "true",
        "tasks.uvwFI.enabled": "true",
    }
    assignments = [f"{k}={v}" for k, v in {**base, **{k.replace("__", "."): v for k, v in sets.items()}}.items()]
    both = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    return load_config(assignments=assignments, options=both)


def write_config(settings: Config, file: Path) -> Path:
    """A configuration as a file for `--config`."""
    file.write_text(json.dumps(settings.model_dump(mode="json", exclude_unset=True)))
    return file


def curve(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    return [
        {k: v for k, v in r.items() if k != "time" and not k.startswith("system/")}
        for r in read_metrics(RunFolder(run).metrics)
    ]


def assert_same_run(one: Path, two: Path) -> None:
    """Two runs ended with the same bits."""
    a, b = read_checkpoint(one / LAST), read_checkpoint(two / LAST)
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    for name, state in a["optimizer"]["state"].items():
        assert all(torch.equal(v, b["optimizer"]["state"][name][k]) for k, v in state.items())
    assert a["position"] == b["position"]
    assert curve(one) == curve(two)


class _Steps(logging.Handler):
    """Follows the trainer's debug log, which tells of every step before its weights change."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.number, self.action = number, action

    def emit(self, record: logging.LogRecord) -> None:
        if "gradient norm" in record.msg and record.levelno == logging.DEBUG:
            self.number -= 1
            if self.number == 0:
                self.action()


@contextmanager
def at_step(number: int, action: Callable[[], object]) -> Iterator[None]:
    """Do something in this process in the `number`-th step (from 1) that it trains."""
    logger = logging.getLogger("xectrain.training.trainer")
    handler, level = _Steps(number, action), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def signalled(number: int = signal.SIGTERM) -> Callable[[], None]:
    """An action: a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


def launch(settings: Path, run: Path, ranks: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Start a training as a user would, in a process group of its own."""
    heeded = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGUSR1"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *heeded] if ranks else []
    return subprocess.Popen(
        [sys.executable, *several, "-m", "xec", "train", "--config", str(settings), "--out", str(run)],
        start_new_session=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options},
    )


def begun(run: Path, running: subprocess.Popen[str]) -> None:
    """Wait until a launched training has written a checkpoint."""
    while not (run / LAST).exists():
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.1)

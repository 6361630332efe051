"""A run's folder: what a run writes where, its state file, and the metrics log that is cut and continued exactly."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shards.base import CorruptError, locked, publish_json
from shards.base.documents import parse_json, read_document
from xectrain.checkpoint import LAST

State = Literal["running", "requeue", "done", "failed"]


class RunState(BaseModel):
    """How a run stands: `state.json`."""

    model_config = ConfigDict(frozen=True)

    state: State | None = None
    """null: it never started."""
    epochs: int | None = None
    """Epochs that a finished run was asked for."""
    minutes: float | None = None
    """Its budget, if it had one."""
    best_loss: float | None = None
    """Smallest validation loss; null if none was finite."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. Holds `config.yaml`, `metrics.jsonl`, `state.json` and the checkpoints."""

    path: Path

    @property
    def config(self) -> Path:
        """The effective configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line per step group and per epoch."""
        return self.path / "metrics.jsonl"

    def set_metrics_aside(self) -> None:
        """Rename `metrics.jsonl` to the first free of `metrics.1.jsonl`, `metrics.2.jsonl` …"""
        if self.metrics.exists():
            number = 1
            while (aside := self.path / f"metrics.{number}.jsonl").exists():
                number += 1
            self.metrics.rename(aside)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep other processes from training in it; a folder that stays empty is removed.

        Raises:
            OutputError: something else is in its place. LockedError: another process trains here.
        """
        missing = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
        try:
            with locked(self.path / ".lock", f"training in {self.path}"):
                yield
        finally:
            for folder in missing:
                if not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    @property
    def state(self) -> Path:
        """How the run stands."""
        return self.path / "state.json"

    def write_state(self, state: State, **facts: Any) -> None:
        """Record how the run stands; a cluster job reads it to decide whether to requeue."""
        publish_json(self.state, {"state": state, **{key: _plain(fact) for key, fact in facts.items()}})

    def read_state(self) -> RunState:
        """What `write_state` wrote last.

        Raises:
            CorruptError: the file holds something else.
        """
        return read_document(self.state, RunState, "state of a run") if self.state.exists() else RunState()

    @staticmethod
    def holds_run(path: Path) -> bool:
        """Whether a folder is that of a run."""
        run = RunFolder(path)
        return run.config.exists() or run.state.exists() or (path / LAST).exists()


class MetricsLog:
    """Appends records to `metrics.jsonl`; a checkpoint keeps the offset, and resuming cuts the file there."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._file = open(path, "ab")  # noqa: SIM115  held open for the run
        self._file.truncate(min(offset, self._file.tell()))

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Append one line and return what it says: NaN and infinities are null in it."""
        plain = {key: _plain(value) for key, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False).encode() + b"\n")
        self._file.flush()
        return plain

    def offset(self) -> int:
        """Length of the file in bytes."""
        return self._file.seek(0, os.SEEK_END)

    def sync(self) -> None:
        """Make durable what was written."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line cut short by a kill is left out.

    Raises:
        CorruptError: a line is not a record.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _record(line, path, number)


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    record = parse_json(line.decode(errors="replace"), "record of a run", file=path)
    if not isinstance(record, dict) or not {"kind", "epoch", "step", "time"} <= record.keys():
        raise CorruptError("is not a record of a run", file=path, item=f"line {number}", remedy="remove the line")
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

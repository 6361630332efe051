"""A run's folder: what a run writes where, its state file, and the metrics log that is cut and continued exactly."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shards.base import CorruptError, publish_json

State = Literal["running", "requeue", "done", "failed"]


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

    @property
    def lock(self) -> Path:
        """Held while a process trains here."""
        return self.path / ".lock"

    def write_state(self, state: State, **facts: Any) -> None:
        """Say how the run stands; a cluster job reads it to decide whether to requeue."""
        publish_json(self.path / "state.json", {"state": state, **facts})

    def read_state(self) -> dict[str, Any]:
        """What `write_state` wrote last; empty for a run that never began."""
        try:
            return dict(json.loads((self.path / "state.json").read_text()))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CorruptError(f"is not JSON: {error}", file=self.path / "state.json") from None


class MetricsLog:
    """Appends records to `metrics.jsonl`; a checkpoint keeps the offset, and resuming cuts the file there."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115  held open for the run
        self._file.truncate(min(offset, self._file.tell()))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; NaN and infinities are written as null."""
        line = json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def offset(self) -> int:
        """Length of the file in bytes, made durable."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

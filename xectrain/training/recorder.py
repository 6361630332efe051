"""What the first rank of a run writes: records, checkpoints, mirrors. None of it makes the other ranks wait."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from xectrain.checkpoint import BEST, checkpoint_bytes, write_checkpoint, write_last
from xectrain.training.background import Background
from xectrain.training.records import Position
from xectrain.training.runfolder import MetricsLog, RunFolder, read_metrics
from xectrain.training.tracking import Mirrors


class Recorder:
    """Writes records to `metrics.jsonl` at once, checkpoints in the background, and passes what they hold to mirrors.

    A context manager: leaving it waits until every checkpoint is on disk, and raises what went wrong with one. On
    ranks that do not write (`run` is None) it does nothing.
    """

    def __init__(self, run: RunFolder | None, mirrors: Mirrors, offset: int = 0, keep: int = 1) -> None:
        """Open the records of a run.

        Args:
            run: the folder; None on ranks that do not write.
            mirrors: where else records go.
            offset: length of `metrics.jsonl` in the checkpoint that the run continues; whatever follows is cut off.
            keep: checkpoints before the last that are kept.
        """
        self.last_loss = math.nan
        self._folder: Path | None = run.path if run else None
        self._mirrors, self._keep = mirrors, keep
        self._log = MetricsLog(run.metrics, offset) if run else None
        self._unsent = deque[Mapping[str, Any]](read_metrics(run.metrics) if run else ())
        self._written, self._sent = len(self._unsent), 0
        self._writer = Background("checkpoints") if run else None
        self._send(self._written)  # a killed run may not have got that far

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, kind: str, at: Position, values: Mapping[str, Any]) -> None:
        """Write one record."""
        if self._log is not None:
            record = {"kind": kind, "epoch": at.epoch, "step": at.global_step, "time": time.time(), **values}
            self._unsent.append(self._log.write(record))
            self._written += 1

    def offset(self) -> int:
        """Length of `metrics.jsonl`."""
        return self._log.offset() if self._log else 0

    @property
    def run_id(self) -> str | None:
        """The run's name in MLflow, if known."""
        return self._mirrors.run_id

    def save(self, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Publish a checkpoint in the background, as the state is now. One that is still waiting is superseded.

        Args:
            state: what it holds.
            best: whether it is the best so far, too.
        """
        if self._folder is None or self._log is None or self._writer is None:
            return
        folder, log, content, held = self._folder, self._log, checkpoint_bytes(state), self._written

        def write_the_best() -> None:
            write_checkpoint(folder / BEST, content)

        def write_the_last() -> None:
            log.sync()
            write_last(folder, content, self._keep)
            self._send(held)

        if best:
            self._writer.submit(write_the_best, "best")
        self._writer.submit(write_the_last, "last")

    def settle(self) -> None:
        """Wait until every checkpoint is on disk."""
        if self._writer is not None:
            self._writer.wait()

    def _send(self, held: int) -> None:
        """Send the first `held` records to mirrors: a checkpoint holds them."""
        records = [self._unsent.popleft() for _ in range(held - self._sent)]
        self._sent = held
        self._mirrors.send(records)

    def close(self, status: str, patience_s: float) -> None:
        """Close the log and tell mirrors how the run ended: FINISHED, KILLED or FAILED."""
        if self._log is not None:
            self._log.close()
        self._mirrors.finish(status, patience_s)

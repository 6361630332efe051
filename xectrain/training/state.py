"""What training changes, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.base import ConfigError
from shards.base.documents import checked
from xectrain.checkpoint import bare_state
from xectrain.config.tree import Config
from xectrain.modes.base import Mode
from xectrain.training.optimization import MovingAverage, build_optimizer, load_optimizer_state, optimizer_state
from xectrain.training.records import Position, Sums
from xectrain.training.tracking import ANY

SAME_FACTS = ("normalization", "npho_threshold", "fingerprint")
"""Facts without which a run cannot be continued."""


@dataclass
class TrainingState:
    """A run at one instant."""

    mode: Mode
    facts: dict[str, Any]
    """What else checkpoints record: configuration, data, normalization, code version."""
    config: Config
    at: Position = field(default_factory=Position)
    pending: Sums = field(default_factory=Sums)
    """Sums since the last record."""
    metrics_offset: int = 0
    """Length of `metrics.jsonl` that belongs to it."""
    run_id: str | None = None
    """The MLflow run."""

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.mode, self.config.optim)
        decay = self.config.train.ema_decay
        self.average = MovingAverage(self.mode, decay) if decay else None

    @property
    def averaged(self) -> Mode:
        """The weights that count: their average if there is one."""
        return self.average.module if self.average is not None else self.mode

    def to_dict(self, metrics_offset: int, run_id: str | None, pending: Mapping[str, list[float]]) -> dict[str, Any]:
        """Everything a checkpoint holds.

        Args:
            metrics_offset: length of `metrics.jsonl`.
            run_id: the MLflow run.
            pending: sums since the last record over all ranks (`Sums.reduced`).
        """
        return {
            "mode": self.mode.name,
            "config": self.config.model_dump(mode="json"),
            "model": bare_state(self.mode),
            "ema": bare_state(self.average.module) if self.average is not None else None,
            "ema_updates": self.average.updates if self.average is not None else 0,
            "optimizer": optimizer_state(self.optimizer, self.mode),
            "position": asdict(self.at),
            "pending": dict(pending),
            "metrics_offset": metrics_offset,
            "tracking_run_id": run_id,
            **self.facts,
        }

    def restore_weights(self, stored: Mapping[str, Any]) -> None:
        """Take the weights of a checkpoint and their average, and nothing else."""
        self.mode.load_state_dict(stored["model"])
        if self.average is not None:
            self.average.module.load_state_dict(stored["ema"] or stored["model"])

    def restore(self, stored: Mapping[str, Any], *, is_main: bool, refresh_lr: bool, new_run: bool) -> None:
        """Continue from a checkpoint of this run.

        Args:
            stored: the checkpoint.
            is_main: whether this rank takes over the sums since the last record.
            refresh_lr: begin the learning-rate schedule here.
            new_run: do not continue the MLflow run.
        """
        self.restore_weights(stored)
        if self.average is not None and stored["ema"] is not None:
            self.average.updates = stored["ema_updates"]
        frozen = stored["config"]["optim"]["freeze_encoder"]
        load_optimizer_state(self.optimizer, self.mode, stored["optimizer"], frozen)
        self.at = checked(Position, stored["position"], "position of a checkpoint")
        if refresh_lr:
            self.at.schedule_start = self.at.global_step
        if is_main:
            self.pending = Sums.from_reduced(stored.get("pending", {}))
        self.metrics_offset = stored["metrics_offset"]
        self.run_id = None if new_run else stored["tracking_run_id"] or ANY


def check_facts(stored: Mapping[str, Any], facts: Mapping[str, Any], file: Path) -> None:
    """Refuse a checkpoint whose data or normalization are not those of the run that continues it.

    Raises:
        ConfigError: one differs; names both values.
    """
    for key in SAME_FACTS:
        if stored[key] != facts[key]:
            raise ConfigError(
                f"the checkpoint's {key.replace('_', ' ')} is not this run's",
                file=file,
                found=stored[key],
                expected=facts[key],
                remedy="use another run folder, or checkpoint.init_from to start a new run from these weights",
            )

"""Validation: the trained loss and the mode's metrics on the whole validation set, averaged over events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import Batch
from xectrain.modes.base import Mode, StepResult
from xectrain.training.batches import Batches
from xectrain.training.records import Sums, means_of
from xectrain.workers import in_order

SHOWN_ROWS = 8


@dataclass(frozen=True)
class Validation:
    """How a network does on the validation set."""

    loss: float
    """Mean over the events that have a truth to compare with; NaN when none has."""
    metrics: dict[str, float]
    """Means of the loss's parts, and the mode's own metrics."""
    odd_rows: tuple[int, ...]
    """Dataset rows of events whose loss is not a finite number, at most `SHOWN_ROWS` of each rank's."""
    without: dict[str, int]
    """Events that have nothing to compare a prediction with (a truth, a hidden sensor with light): in all (`loss`), and
    for each task (`loss_energy` …) of a mode that has tasks; only where there are any."""
    events: int
    """Events in all."""

    def warnings(self) -> list[str]:
        """What is wrong with the validation set, or with the network."""
        said = []
        for name, count in self.without.items():
            what = "any truth, or any hidden sensor with light" if name == "loss" else f"a truth for {name[5:]}"
            said.append(f"{count} of {self.events} validation events do not have {what}, and are not in its loss")
        if self.odd_rows:
            rows = ", ".join(map(str, self.odd_rows))
            said.append(
                f"the validation loss is {self.loss:g}, from dataset rows {rows} …: it never counts as the best"
            )
        elif math.isnan(self.loss):
            said.append("there is no validation loss, so no checkpoint is the best")
        return said


def validate(module: Mode, batches: Batches) -> Validation:
    """Compare a mode's predictions with the validation set; every rank gets the same answer."""
    module.eval()
    sums, columns, odd = Sums(), list[dict[str, np.ndarray[Any, Any]]](), list[int]()

    @torch.no_grad()  # a setting of each thread
    def compare(batch: Batch) -> tuple[Batch, StepResult, Tensor]:
        return batch, *batches.forward(module, batch, None)

    with batches.validation() as loader:
        for batch, result, weight_B in in_order(compare, loader, batches.compute.workers):
            sums.add(result, weight_B)
            real = batch.weight.numpy() > 0
            columns.append({k: v.double().cpu().numpy()[real] for k, v in result.outputs.items()})
            finite = result.loss_B.isfinite().cpu().numpy()
            odd.extend(int(row) for row in batch.rows[real & ~finite])
    module.train()
    mine = {key: np.concatenate([c[key] for c in columns]) for key in columns[0]} if columns else {}
    gathered = batches.ranks.gather((mine, odd[:SHOWN_ROWS]))
    parts = [outputs for outputs, _ in gathered if outputs]
    merged = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}
    if merged:
        module.calibrate(merged)
    reduced = sums.reduced(batches.ranks)
    means = means_of(reduced)
    events = sum(len(view.rows) for view in batches.data.val)
    counted = {name: round(reduced[name][1]) for name in ("loss", *(f"loss_{task}" for task in module.tasks))}
    without = {name: events - count for name, count in counted.items() if count < events}
    rows = tuple(row for _, rows in gathered for row in rows)
    return Validation(means.pop("loss"), {**means, **module.summarize(merged)}, rows, without, events)

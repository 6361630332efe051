"""Validation: the trained loss and the mode's metrics on the whole validation set, averaged over events."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xectrain.modes.base import Mode
from xectrain.training.batches import Batches
from xectrain.training.records import Sums

logger = logging.getLogger(__name__)

SHOWN_ROWS = 8


@dataclass(frozen=True)
class Validation:
    """What a network does on the validation set."""

    loss: float
    """Mean over the events that have a truth to compare with; NaN when none has."""
    metrics: dict[str, float]
    """Means of the loss's parts, and the mode's own metrics."""
    odd_rows: tuple[int, ...]
    """Dataset rows of events whose loss is not a finite number, at most `SHOWN_ROWS` of each rank's."""

    def warn(self) -> None:
        """Say what makes the loss useless for choosing the best weights."""
        if self.odd_rows:
            rows = ", ".join(map(str, self.odd_rows))
            logger.warning("validation loss %g, from dataset rows %s …: it is never the best", self.loss, rows)
        elif math.isnan(self.loss):
            logger.warning(
                "no validation event has anything to compare a prediction with (a truth, a hidden sensor with light): "
                "there is no validation loss, and no checkpoint is the best"
            )


@torch.no_grad()
def validate(module: Mode, batches: Batches) -> Validation:
    """Compare a mode's predictions with the validation set; every rank gets the same answer."""
    module.eval()
    sums, columns, odd = Sums(), list[dict[str, np.ndarray[Any, Any]]](), list[int]()
    with batches.validation() as loader:
        for batch in loader:
            result, weight_B = batches.forward(module, batch, None)
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
    means = sums.means(batches.ranks)
    loss = means.pop("loss", math.nan)
    return Validation(loss, {**means, **module.summarize(merged)}, tuple(row for _, rows in gathered for row in rows))

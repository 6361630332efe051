"""The loss and the metrics that a mode itself defines, on any data: the evaluation of modes that learn no task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shards.base import InputError, locked, progress, publish_json
from xectrain.inference.events import Events
from xectrain.inference.regressor import TorchPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.modes.base import EventBatch, StepResult
from xectrain.workers import in_order


def evaluate_own(
    predictor: TorchPredictor, parts: Sequence[Part], folder: Path, settings: ReadOptions
) -> dict[str, dict[str, float]]:
    """Write `metrics.json` into `folder`: part → metric → value, as the trainer's validation computes them.

    Raises:
        InputError: no event passes the selection.
    """
    with locked(folder / ".lock", f"evaluating into {folder}"):
        found = {part.name: _of_part(predictor, part, settings) for part in parts}
        publish_json(folder / "metrics.json", {"model": str(predictor.facts.file), "data": found})
        return found


def _of_part(predictor: TorchPredictor, part: Part, settings: ReadOptions) -> dict[str, float]:
    part.check(predictor.facts.normalization)
    wanted = Wanted.of(predictor)
    losses: list[NDArray[np.float64]] = []
    outputs: dict[str, list[NDArray[np.float64]]] = {}
    batches = (batch for chunk in part.read(wanted, settings) for batch in chunk.batches(predictor.batch_size))

    @torch.inference_mode()
    def judged(events: Events) -> StepResult:
        with predictor.compute.autocast():
            result: StepResult = predictor.mode(_batch(predictor, events))
        return result

    with progress(part.name, part.events) as bar:
        for result in in_order(judged, batches, predictor.workers):
            losses.append(result.loss_B.double().cpu().numpy())
            for name, values in result.outputs.items():
                outputs.setdefault(name, []).append(values.double().cpu().numpy())
            bar.advance(len(result.loss_B))
    if not losses:
        raise InputError("no events are left to evaluate", file=part.name, found=settings.select)
    summary = predictor.mode.summarize({name: np.concatenate(values) for name, values in outputs.items()})
    return {"events": float(sum(map(len, losses))), "loss": float(np.concatenate(losses).mean()), **summary}


def _batch(predictor: TorchPredictor, events: Events) -> EventBatch:
    """The events as a training mode sees them; columns that the data lack are NaN."""
    x_BN2, mask_BN = predictor.model_input(events)
    return EventBatch(x_BN2, mask_BN, _truth(predictor.mode.truth_columns, events.columns, len(events)), None)


def _truth(names: Sequence[str], columns: Mapping[str, NDArray[np.float64]], count: int) -> torch.Tensor:
    unknown = np.full(count, np.nan)
    table = [np.asarray(columns.get(name, unknown), np.float64) for name in names]
    return torch.from_numpy(np.column_stack(table) if table else np.empty((count, 0)))

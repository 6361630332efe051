"""`xec calibrate --uncertainties`: the σ and quantiles of a trained model calibrated again, on events of one's choice.

The end of training does the same on the validation set. That is often small, or other than what the model is used on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.base import ConfigError, InputError, OutputError, progress
from xectrain.checkpoint import checkpoint_bytes, read_checkpoint, write_checkpoint
from xectrain.evaluation.classical import sensor_frame
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import ModelFacts
from xectrain.inference.regressor import TorchPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.models.factors import ENOUGH_EVENTS
from xectrain.tasks import TASKS
from xectrain.workers import in_order

Outputs = dict[str, NDArray[np.float64]]


def calibrate_uncertainties(
    predictor: TorchPredictor, parts: Sequence[Part], out: Path, settings: ReadOptions
) -> int | None:
    """Write a checkpoint like the model's whose uncertainties are right on these events.

    Args:
        predictor: without a calibration of the energy (`load(…, calibrated=False)`).
        out: the checkpoint to write.

    Returns:
        How many events; None where `out` holds this result already.

    Raises:
        ConfigError: the model predicts no uncertainties. InputError: too few events, or some without the truth.
        OutputError: `out` holds something else.
    """
    facts = predictor.facts
    columns = uncertain_columns(facts)
    if not columns:
        raise ConfigError(
            "predicts no uncertainties",
            file=facts.file,
            remedy="train with tasks.<name>.loss=quantile or gaussian_nll",
        )
    found = [_outputs(predictor, part, columns, settings) for part in parts]
    outputs = {name: np.concatenate([some[name] for some in found]) for name in found[0]}
    usable = min(int(np.count_nonzero(np.isfinite(outputs[f"true_{column}"]))) for column in columns)
    if usable < ENOUGH_EVENTS:
        raise InputError(
            "has too few events with truth to calibrate on",
            file=parts[0].name,
            found=str(usable),
            expected=f"{ENOUGH_EVENTS} or more",
        )
    predictor.mode.calibrate(outputs)
    content = _checkpoint(predictor)
    if out.exists():
        if out.read_bytes() == content:
            return None
        raise OutputError("exists, and is not this result", file=out, remedy="remove it, or choose another --out")
    write_checkpoint(out, content)
    return len(next(iter(outputs.values())))


def uncertain_columns(facts: ModelFacts) -> list[str]:
    """Truth columns that a model predicts with an uncertainty."""
    return [
        column
        for task in facts.tasks
        for column in TASKS[task].columns
        if any(name.startswith((f"sigma_{column}", f"pred_{column}_q")) for name in facts.columns)
    ]


def _outputs(predictor: TorchPredictor, part: Part, columns: Sequence[str], settings: ReadOptions) -> Outputs:
    """Predictions and truth as in validation: times as the sensors have them."""
    part.check(predictor.facts.normalization)

    def predict(events: Events) -> Columns:
        relative = replace(events, columns={k: v for k, v in events.columns.items() if k != "time_min_used"})
        truth = sensor_frame(predictor.facts, dict(events.columns))
        lacking = [column for column in columns if column not in truth]
        if lacking:
            raise InputError(f"has no truth for {', '.join(lacking)}", file=part.name)
        return predictor.predict_events(relative) | {f"true_{column}": truth[column] for column in columns}

    def chunks() -> Iterator[Columns]:
        with progress(part.name, part.events) as bar:
            for found in in_order(predict, part.read(Wanted.of(predictor), settings), predictor.workers):
                bar.advance(len(next(iter(found.values()))))
                yield found

    tables = list(chunks())
    if not tables:
        raise InputError("no events are left to calibrate on", file=part.name, found=settings.select)
    return {name: np.concatenate([table[name] for table in tables]).astype(np.float64) for name in tables[0]}


def _checkpoint(predictor: TorchPredictor) -> bytes:
    """The model's checkpoint with the factors that its mode has now, in the weights that it predicts with."""
    state = read_checkpoint(predictor.facts.file)
    weights = "ema" if state["ema"] else "model"
    buffers = dict(predictor.mode.named_buffers())
    now = {name: tensor.cpu() for name, tensor in predictor.mode.state_dict().items() if name in buffers}
    return checkpoint_bytes({**state, weights: {**state[weights], **now}})

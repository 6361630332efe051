"""What is asked of an inference, and how an output is recognised as the answer: by a digest in its `metadata` tree."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.reading.rootio import Skipped
from shards.base import InputError, OutputError, code_version
from shards.base.documents import json_digest
from shards.columns import COLUMNS
from xectrain.inference.calibration import summary
from xectrain.inference.model import ModelFacts
from xectrain.inference.root_output import read_metadata
from xectrain.inference.rows import predicts_relative_times
from xectrain.inference.sources import Part, ReadOptions
from xectrain.modes.chosen_masks import masks_identity
from xectrain.modes.masking import MASK_KINDS
from xectrain.tasks import TASKS

logger = logging.getLogger(__name__)

FACES = "0 inner, 1 outer, 2 upstream, 3 downstream, 4 top, 5 bottom"


@dataclass(frozen=True)
class Request:
    """What is asked for, apart from model and data."""

    settings: ReadOptions = field(default_factory=ReadOptions)
    columns: tuple[str, ...] | None = None
    """Input columns to copy; None: truth as `true_*`, the vertex and everything the schema carries; empty: none."""
    precision: str = "auto"
    hide: bool = False
    """Inpainter: hide sensors as in validation and write one row per hidden sensor, instead of filling dead ones."""
    masks: str | None = None
    """With `hide`: what is hidden instead of what validation hides (`chosen_masks`); the model does so already."""


@dataclass(frozen=True)
class Result:
    """What `infer` wrote."""

    path: Path
    events: int
    outside: int
    """Events whose input or prediction is outside the training range."""
    existed: bool
    """Whether the file existed already, from the same model, data and options."""


def request_digest(
    facts: ModelFacts, parts: Sequence[Part], request: Request, task: tuple[int, int] | None = None
) -> str:
    """Identifies the contents of an output."""
    identity = _identity(facts, parts, request) | ({} if task is None else {"task": list(task)})
    return json_digest(identity)


def _identity(facts: ModelFacts, parts: Iterable[Part], request: Request) -> dict[str, Any]:
    """Everything that determines the contents of the output."""
    return {
        **read_identity(facts, parts, request.settings),
        "columns": request.columns,
        "precision": request.precision,
        "hide": request.hide,
        **({} if request.masks is None else {"masks": masks_identity(request.masks)}),
    }


def read_identity(facts: ModelFacts, parts: Iterable[Part], settings: ReadOptions) -> dict[str, Any]:
    """The model and what it is given."""
    return {
        "model": facts.identity,
        "data": [part.identity() for part in parts],
        "select": settings.select,
        "dead": None if settings.dead is None else settings.dead.to_list(),
    }


def existing(output: Path, digest: str) -> Result:
    """The existing result, if it is the one asked for."""
    try:
        found = read_metadata(output)
    except InputError as error:
        raise OutputError(
            f"exists, but is not recognised ({error.problem})", file=output, remedy="remove it, or choose another name"
        ) from error
    if found.get("request_digest") != digest:
        raise OutputError(
            "exists, but came from a different model, data or options",
            file=output,
            found=found.get("request_digest"),
            expected=digest,
            remedy="remove it, or choose another --output",
        )
    if left_out := found.get("skipped_files"):
        logger.warning("%s does not include what was skipped when it was made: %s", output, left_out)
    return Result(output, int(found["events"]), int(found["events_outside_training_range"]), existed=True)


def holds_other_predictions(output: Path, facts: ModelFacts, parts: Sequence[Part], request: Request) -> bool:
    """Whether `infer` would refuse a file for what is in it."""
    return output.exists() and read_metadata(output).get("request_digest") != request_digest(facts, parts, request)


def output_metadata(
    facts: ModelFacts,
    parts: Sequence[Part],
    request: Request,
    digest: str,
    events: tuple[int, int],
    skipped: Sequence[Skipped] = (),
) -> dict[str, str | int | float]:
    """The one row of the `metadata` tree; `events` are all, and those outside the training range."""
    norm = facts.normalization
    return {
        "mode": facts.mode,
        "predict_channels": ",".join(facts.channels),
        "tasks": ",".join(facts.tasks),
        "npho_scheme": norm.scheme,
        "npho_scale": norm.npho_scale,
        "npho_scale2": norm.npho_scale2,
        "time_scale": norm.time_scale,
        "time_shift": norm.time_shift,
        "sentinel_npho": norm.sentinel_npho,
        "sentinel_time": norm.sentinel_time,
        "npho_threshold": facts.npho_threshold,
        "time_reference": "relative" if facts.targets.relative_time else "absolute",
        "timing_at": facts.targets.timing_at,
        "predicted_times": "relative" if predicts_relative_times(facts, parts) else "absolute",
        "units": ",".join(f"{c}:{COLUMNS[c].unit}" for t in facts.tasks for c in TASKS[t].columns),
        "face_names": FACES,
        "mask_types": ",".join(f"{code} {kind}" for code, kind in enumerate(MASK_KINDS)),
        "model_digest": facts.digest,
        "training_fingerprint": facts.fingerprint,
        "model_code_version": facts.code_version,
        "energy_calibration": summary(facts.calibration),
        "dataset_fingerprint": ",".join(str(v) for p in parts for k, v in p.identity().items() if k == "dataset"),
        "sources": ",".join(part.name for part in parts),
        "geometry": ",".join(sorted({part.geometry for part in parts})),
        "geometry_is_models": int(all(p.geometry == facts.geometry for p in parts)) if facts.geometry else -1,
        "skipped_files": "; ".join(item.reason for item in skipped),
        "select": request.settings.select or "",
        **({} if request.masks is None else {"masks": request.masks}),
        "code_version": code_version(),
        "request_digest": digest,
        "events": events[0],
        "events_outside_training_range": events[1],
    }

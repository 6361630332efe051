"""Metadata of an exported file: properties for people and C++, and one of JSON from which `ModelFacts` are restored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.columns import COLUMNS
from shards.normalization import Normalization
from xectrain.inference.calibration import EnergyCalibration, as_document, summary
from xectrain.inference.model import ModelFacts
from xectrain.targets import TargetOptions
from xectrain.tasks import TASKS

FACTS_KEY = "xec"
RAW_INPUTS = ("npho", "time", "dead")
"""Inputs of a graph that takes raw sensors, in order."""
EARLIEST, RUN = "time_min_used", "run"
OPTIONAL = {EARLIEST: 0.0, RUN: math.nan}
"""Optional inputs and their defaults: the first makes predicted times absolute, a calibration may depend on the
second."""
NORMALIZED_INPUT = "sensors"


def metadata(facts: ModelFacts, normalized: bool) -> dict[str, str]:
    """The properties to write; those named as in the `metadata` tree mean the same."""
    norm = facts.normalization
    own = {
        "input": "normalized" if normalized else "raw",
        "mode": facts.mode,
        "tasks": list(facts.tasks),
        "columns": list(facts.columns),
        "channels": list(facts.channels),
        "normalization": norm.to_dict(),
        "npho_threshold": facts.npho_threshold,
        "relative_time": facts.targets.relative_time,
        "timing_at": facts.targets.timing_at,
        "means": dict(facts.means),
        "fingerprint": facts.fingerprint,
        "geometry": facts.geometry,
        "code_version": facts.code_version,
        "config": facts.config,
        "calibration": as_document(facts.calibration),
    }
    units = ",".join(f"{c}:{COLUMNS[c].unit}" for t in facts.tasks for c in TASKS[t].columns)
    properties: dict[str, Any] = {
        "mode": facts.mode,
        "predict_channels": ",".join(facts.channels),
        "tasks": ",".join(facts.tasks),
        "units": units,
        "input_units": "normalized sensors" if normalized else "npho:photons,time:s,time_min_used:s",
        "time_reference": "relative" if facts.targets.relative_time else "absolute",
        "timing_at": facts.targets.timing_at,
        "npho_scheme": norm.scheme,
        **{key: value for key, value in norm.to_dict().items() if key != "scheme"},
        "npho_threshold": facts.npho_threshold,
        "model_digest": facts.digest,
        "training_fingerprint": facts.fingerprint,
        "geometry": facts.geometry,
        "code_version": facts.code_version,
        "energy_calibration": summary(facts.calibration),
        FACTS_KEY: json.dumps(own, sort_keys=True),
    }
    return {key: str(value) for key, value in properties.items()}


def facts_from_metadata(path: Path, properties: Mapping[str, str], digest: str) -> tuple[ModelFacts, str]:
    """What an exported file says about itself, and whether its input is `raw` or `normalized`.

    Args:
        properties: its metadata, with `FACTS_KEY` among them.
        digest: of the file.
    """
    own = json.loads(properties[FACTS_KEY])
    facts = ModelFacts(
        file=path,
        digest=digest,
        mode=own["mode"],
        tasks=tuple(own["tasks"]),
        columns=tuple(own["columns"]),
        channels=tuple(own["channels"]),
        normalization=Normalization.from_dict(own["normalization"]),
        npho_threshold=own["npho_threshold"],
        targets=TargetOptions(own["relative_time"], own["timing_at"]),
        means=own["means"],
        fingerprint=own["fingerprint"],
        geometry=own["geometry"],
        code_version=own["code_version"],
        config=own["config"],
        calibration=_calibration(own.get("calibration")),
    )
    return facts, own["input"]


def _calibration(document: Mapping[str, Any] | None) -> EnergyCalibration | None:
    return None if document is None else EnergyCalibration.model_validate(document)

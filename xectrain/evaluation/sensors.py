"""Evaluation of the modes that predict sensors: hidden sensors against their truth and against classical fillings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.base import InputError, locked, progress, publish_json, published
from xectrain.baselines.inpainting import FILLS, STRONG_FILL, fill_baselines
from xectrain.inference.model import ModelFacts
from xectrain.inference.sensor_rows import hidden_sensors
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, Settings, Wanted
from xectrain.metrics import Metric
from xectrain.metrics.sensors import sensor_metrics

logger = logging.getLogger(__name__)

Rows = dict[str, NDArray[Any]]
MAX_EVENTS = 1000
"""Sensor-level tables hold at most so many events: a thousand events have a quarter of a million hidden sensors."""


@dataclass(frozen=True)
class SensorResult:
    """What was found for one part."""

    name: str
    rows: Rows
    """One row per hidden sensor: `sensor_rows.hidden_sensors`, `baseline_*_npho`, and `pred_npho:LABEL` of others."""
    events: int
    mask_ratio: float
    """Hidden over valid sensors."""
    metrics: Mapping[str, tuple[Metric, ...]]
    """Method → metrics; `network`, the fillings, and other models by label."""
    images: Sequence[Path]


def predict_hidden(
    models: Mapping[str, SensorPredictor], part: Part, settings: Settings, max_events: int
) -> tuple[Rows, int, float]:
    """Hide sensors as the first model's validation does, and let every model and classical method fill them.

    Returns:
        The rows, the number of events, and the fraction of valid sensors hidden.
    """
    (_, main), *others = models.items()
    wanted = Wanted(main.batch_size, main.device, main.facts.normalization)
    tables: list[Rows] = []
    events_done = valid = 0
    with progress(part.name, min(part.events, max_events)) as bar:
        for chunk in part.read(wanted, settings):
            events = chunk[: max_events - events_done]
            found = main.hide_and_predict(events)
            rows = hidden_sensors(found, events)
            rows["event_idx"] = rows["event_idx"] + events_done
            where = np.nonzero(found.hidden)
            physical = events.photons(main.facts.normalization)
            if "npho" in main.facts.channels:
                fills = fill_baselines(physical.npho, found.hidden)
                rows.update({f"baseline_{name}_npho": fills[name] for name in FILLS})
            for label, other in others:
                again = other.hide_and_predict(events, found.hidden)
                rows.update({f"pred_{c}:{label}": values[where] for c, values in again.predicted.items()})
            valid += int(np.count_nonzero(np.isfinite(physical.npho)))
            tables.append(rows)
            events_done += len(events)
            bar.advance(len(events))
            if events_done >= max_events:
                break
    if not tables:
        raise InputError("no event is left to evaluate", file=part.name, found=settings.select)
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    return joined, events_done, len(joined["event_idx"]) / max(valid, 1)


def evaluate_sensors(
    models: Mapping[str, SensorPredictor],
    parts: Sequence[Part],
    folder: Path,
    settings: Settings,
    max_events: int = MAX_EVENTS,
) -> list[SensorResult]:
    """Evaluate models on the same hidden sensors; writes tables, plots and `metrics.json` (last) into `folder`.

    Args:
        models: by label; the first decides which sensors are hidden.
        max_events: events of each part, its first ones.
    """
    with locked(folder / ".lock", f"evaluating into {folder}"):
        results = []
        for part in parts:
            for model in models.values():
                part.check(model.facts.normalization)
            rows, events, ratio = predict_hidden(models, part, settings, max_events)
            name = Path(part.name).stem
            results.append(_result(models, name, rows, events, ratio, folder / name if len(parts) > 1 else folder))
        facts = [model.facts for model in models.values()]
        publish_json(folder / "metrics.json", as_json(facts, results))
        return results


def _result(
    models: Mapping[str, SensorPredictor], name: str, rows: Rows, events: int, ratio: float, place: Path
) -> SensorResult:
    from xectrain.evaluation.plots import save_pages
    from xectrain.evaluation.plots.sensors import sensor_pages

    first = next(iter(models))
    face = rows["face"]
    metrics: dict[str, tuple[Metric, ...]] = {}
    for channel in models[first].facts.channels:
        truth = rows[f"truth_{channel}"]
        for label, values in predictions(rows, channel, first).items():
            metrics[label] = metrics.get(label, ()) + sensor_metrics(channel, truth, values, face)
    _write(rows, place / "predictions_sensors.parquet")
    images: Sequence[Path] = ()
    if "truth_npho" in rows:
        drawn = predictions(rows, "npho", first)
        pages = sensor_pages(rows["truth_npho"], face, drawn, name)
        images = save_pages(pages, place / "resolution_sensors.pdf")[1:]
    return SensorResult(name, rows, events, ratio, metrics, images)


def predictions(rows: Rows, channel: str, first: str) -> dict[str, NDArray[Any]]:
    """Every method's values for a channel: models by label, then classical fillings, the strong one first."""
    found = {first: rows[f"pred_{channel}"]}
    fills = sorted(FILLS, key=lambda name: name != STRONG_FILL)
    if channel == "npho":
        found.update({fill: rows[f"baseline_{fill}_npho"] for fill in fills})
    prefix = f"pred_{channel}:"
    found.update({name.removeprefix(prefix): rows[name] for name in rows if name.startswith(prefix)})
    return found


def _write(rows: Rows, path: Path) -> None:
    import polars as pl

    with published(path) as part:
        pl.DataFrame(rows).write_parquet(part)


def as_json(facts: Sequence[ModelFacts], results: Sequence[SensorResult]) -> dict[str, Any]:
    """Every number: part → method → metric → [value, error, unit]."""
    return {
        "models": [str(f.file) for f in facts],
        "mode": facts[0].mode,
        "strong": STRONG_FILL,
        "data": {
            result.name: {
                "events": result.events,
                "n_masked_total": len(result.rows["event_idx"]),
                "actual_mask_ratio": result.mask_ratio,
                "metrics": {
                    method: {m.name: [m.value, m.error, m.unit] for m in metrics if np.isfinite(m.value + m.error)}
                    for method, metrics in result.metrics.items()
                },
            }
            for result in results
        },
    }

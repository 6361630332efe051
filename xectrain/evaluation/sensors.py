"""Evaluation of the modes that predict sensors: hidden sensors against their truth and against classical fillings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.base import CorruptError, InputError, locked, progress, publish_json, published
from shards.expressions import evaluate
from shards.geometry import FACE_NAMES
from xectrain.baselines.inpainting import FILLS, STRONG_FILL, fill_columns
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.sensors import sensor_pages
from xectrain.evaluation.results import SensorResult
from xectrain.evaluation.wording import compact, digits, finite, method_label, model_name
from xectrain.inference.events import Columns
from xectrain.inference.model import ModelFacts
from xectrain.inference.sensor_rows import hidden_sensors
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.metrics import Metric
from xectrain.metrics.sensors import UNITS, FilledLight, filled_light, sensor_metrics

logger = logging.getLogger(__name__)

TABLE = "predictions_sensors.parquet"
"""A row per hidden sensor."""
MAX_EVENTS = 1000
"""Events in sensor-level tables, at most: a thousand events have a quarter of a million hidden sensors."""


def predict_hidden(
    models: Mapping[str, SensorPredictor], part: Part, settings: ReadOptions, max_events: int
) -> tuple[Columns, int, float]:
    """Hide sensors as the first model's validation does, and let every model and classical method fill them.

    Returns:
        The rows, the number of events, and the fraction of valid sensors hidden.
    """
    (_, main), *others = models.items()
    wanted = Wanted.of(main)
    tables: list[Columns] = []
    events_done = valid = 0
    with progress(part.name, min(part.events, max_events)) as bar:
        for chunk in part.read(wanted, settings):
            events = chunk[: max_events - events_done]
            found = main.hide_and_predict(events)
            rows = hidden_sensors(found, events)
            rows["event_idx"] = rows["event_idx"] + events_done
            where = np.nonzero(found.hidden)
            physical = events.photons(main.facts.normalization)
            rows.update(fill_columns(physical, found.hidden, main.facts.channels))
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
        raise InputError("no events are left to evaluate", file=part.name, found=settings.select)
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    return joined, events_done, len(joined["event_idx"]) / max(valid, 1)


def evaluate_sensors(
    models: Mapping[str, SensorPredictor],
    parts: Sequence[Part],
    folder: Path,
    settings: ReadOptions,
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
            results.append(
                _result(models, part, name, rows, events, ratio, folder / name if len(parts) > 1 else folder)
            )
        facts = [model.facts for model in models.values()]
        _write_report(facts, results, folder / "report.html")
        publish_json(folder / "metrics.json", as_json(facts, results))
        return results


def _result(
    models: Mapping[str, SensorPredictor], part: Part, name: str, rows: Columns, events: int, ratio: float, place: Path
) -> SensorResult:

    first = next(iter(models))
    face = rows["face"]
    metrics: dict[str, tuple[Metric, ...]] = {}
    for channel in models[first].facts.channels:
        truth = rows[f"truth_{channel}"]
        for label, values in predictions(rows, channel, first).items():
            metrics[label] = metrics.get(label, ()) + sensor_metrics(channel, truth, values, face)
    _write(rows, place / TABLE)
    images: Sequence[Path] = ()
    if "truth_npho" in rows:
        drawn = predictions(rows, "npho", first)
        pages = sensor_pages(rows["truth_npho"], face, drawn, name)
        images = save_pages(pages, place / "resolution_sensors.pdf")[1:]
    return SensorResult(name, part, rows, events, ratio, metrics, images)


def redrawn(path: Path, select: str | None = None) -> list[Figure]:
    """The plots of a saved table of hidden sensors.

    Args:
        select: expression on its columns: only these sensors.

    Raises:
        CorruptError: a damaged table.
    """
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CorruptError(f"cannot be read: {error}", file=path) from error
    if select is not None:
        frame = frame.filter(evaluate(select, frame))
    if "truth_npho" not in frame.columns or frame.is_empty():
        return []
    rows = {name: frame[name].to_numpy() for name in frame.columns}
    return sensor_pages(rows["truth_npho"], rows["face"], predictions(rows, "npho", "network"), path.parent.name)


def predictions(rows: Mapping[str, NDArray[Any]], channel: str, first: str) -> dict[str, NDArray[Any]]:
    """Every method's values for a channel: models by label, then classical fillings, the strong one first."""
    found = {first: rows[f"pred_{channel}"]}
    fills = sorted(FILLS, key=lambda name: name != STRONG_FILL)
    found.update({fill: rows[f"baseline_{fill}_{channel}"] for fill in fills})
    prefix = f"pred_{channel}:"
    found.update({name.removeprefix(prefix): rows[name] for name in rows if name.startswith(prefix)})
    return found


HEADS = {"bias": "bias", "median": "median", "mae": "MAE", "res_68pct": "68 %", "res_95pct": "95 %", "rmse": "RMSE"}
"""Metric → its name in tables."""


def _write_report(facts: Sequence[ModelFacts], results: Sequence[SensorResult], path: Path) -> None:
    """One page: errors over all hidden sensors and per face, the filled light against the true, and the plots."""
    sections = []
    for result in results:
        tables = [_errors(result, "all"), *_light(result)]
        tables += [
            _errors(result, face) for face in FACE_NAMES if np.any(result.rows["face"] == FACE_NAMES.index(face))
        ]
        note = (
            f"{len(result.rows['event_idx'])} hidden sensors of {result.events} events, "
            f"{100 * result.mask_ratio:.1f} % of the valid ones. Strong: {method_label(STRONG_FILL)}."
        )
        sections.append(Section(result.name, tuple(tables), tuple(result.images), note))
    names = ", ".join(model_name(f) for f in facts)
    made = [(model_name(f), f"{f.file.name}, sha256 {f.digest}") for f in facts]
    write_page(
        path, f"Hidden sensors: {names}", f"{facts[0].mode} of {' and '.join(facts[0].channels)}", sections, made
    )


def _errors(result: SensorResult, where: str) -> Table:
    """Every method's errors on a face, or on all."""
    rows = []
    for number, (method, metrics) in enumerate(result.metrics.items()):
        found = {m.name: m for m in metrics}
        kind = "network" if number == 0 else "strong" if method == STRONG_FILL else ""
        for channel, unit in UNITS.items():
            if f"bias_{where}_{channel}" in found:
                cells = (compact(found[f"{name}_{where}_{channel}"]) for name in HEADS)
                rows.append(Row((f"{method_label(method)}, {channel} ({unit})", *cells), kind))
    title = "All hidden sensors" if where == "all" else f"Face: {where}"
    return Table(("method", *HEADS.values()), tuple(rows), title)


def _light(result: SensorResult) -> list[Table]:
    """Sum of filled over sum of true light, and bias, per face and per decade of the true light."""
    if "truth_npho" not in result.rows:
        return []
    rows = []
    label = next(iter(result.metrics))
    for method, values in predictions(result.rows, "npho", label).items():
        found = filled_light(result.rows["truth_npho"], values, result.rows["face"])
        cells = (_light_cell(entry) for entry in found)
        kind = "network" if method == label else "strong" if method == STRONG_FILL else ""
        rows.append(Row((method_label(method), *cells), kind))
    heads = [entry.place for entry in filled_light(np.ones(1), np.ones(1), np.zeros(1, dtype=np.int64))]
    title = "Filled light over true light − 1, and bias in photons, per "
    faces = len(FACE_NAMES)
    parts = {"face": slice(0, faces), "decade of the true light [photons]": slice(faces, None)}
    return [
        Table(
            ("method", *heads[part]),
            tuple(Row((row.cells[0], *row.cells[1:][part]), row.kind) for row in rows),
            title + of,
        )
        for of, part in parts.items()
    ]


def _light_cell(found: FilledLight) -> str:
    """Ratio − 1 and bias; the bias alone where there was no light."""
    if not found.count:
        return ""
    bias = digits(found.bias)
    return f"{100 * (found.ratio - 1):+.1f} % ({bias})" if np.isfinite(found.ratio) else f"({bias})"


def _write(rows: Columns, path: Path) -> None:

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
                "filled_light": _plain_light(result),
            }
            for result in results
        },
    }


def _plain_light(result: SensorResult) -> dict[str, Any]:
    """Method → face or decade → [sum filled / sum true, bias in photons, sensors]."""
    if "truth_npho" not in result.rows:
        return {}
    first = next(iter(result.metrics))
    truth, face = result.rows["truth_npho"], result.rows["face"]
    return {
        method: {
            e.place: [finite(e.ratio), finite(e.bias), e.count] for e in filled_light(truth, values, face) if e.count
        }
        for method, values in predictions(result.rows, "npho", first).items()
    }

"""Evaluation: predictions, metrics against classical methods, tables, plots and a report, for one or more datasets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from shards.base import OutputError, locked, publish_json
from shards.base.documents import read_document
from shards.expressions import NAMED_CUTS
from shards.expressions import evaluate as passing
from shards.plausible import PLAUSIBLE, outside
from xectrain.baselines import STRONG
from xectrain.evaluation.classical import calibrated_baselines, known_events, predict_part
from xectrain.evaluation.plots import resolution_pages, save_pages
from xectrain.evaluation.report import write_report
from xectrain.evaluation.results import FIDUCIAL, DataResult, Evaluation, EvaluationOptions, SampleResult, WithoutTruth
from xectrain.evaluation.tables import TaskTable, task_table
from xectrain.evaluation.toy_limit import limit_columns
from xectrain.evaluation.without_truth import describe
from xectrain.evaluation.wording import finite
from xectrain.inference.infer import warn_geometry
from xectrain.inference.model import ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.request import read_identity
from xectrain.inference.sources import Part
from xectrain.metrics import TaskMetrics

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
ALL = "all"
SIGNAL = "energy >= 0.050 and energy < 0.055"


def evaluate(
    predictor: Predictor, parts: Sequence[Part], folder: Path, options: EvaluationOptions
) -> Evaluation | None:
    """Evaluate a model on datasets and write everything into `folder`; `metrics.json` comes last.

    Args:
        parts: datasets (or ROOT files) with truth for some of the model's tasks.
        folder: receives tables, plots, `metrics.json`, `baselines.json` and `report.html`; with several parts the
            tables and plots of each are in a folder of its name.

    Returns:
        The results; None when the folder holds them already.

    Raises:
        OutputError: the folder holds another evaluation.
    """
    identity = _identity(predictor.facts, parts, options)
    with locked(folder / ".lock", f"evaluating into {folder}"):
        if _is_done(folder, identity):
            return None
        warn_geometry(predictor.facts, parts)
        baselines = None
        if options.baselines:
            baselines = calibrated_baselines(predictor.facts, options.baseline_data, options.baseline_events)
            publish_json(folder / "baselines.json", baselines.to_dict())
        results = []
        for name, part in zip(_names(parts), parts, strict=True):
            table, inputs = predict_part(predictor, part, options.settings, baselines)
            _say_doubts(predictor.facts, part, inputs, options)
            place = folder / name if len(parts) > 1 else folder
            results.append(_result(predictor.facts, name, part, table, inputs, place, options))
        evaluation = Evaluation(predictor.facts, tuple(results), folder, options)
        write_report(evaluation, folder / "report.html")
        publish_json(folder / METRICS, {"request": identity, **as_json(evaluation)})
        return evaluation


def _say_doubts(facts: ModelFacts, part: Part, inputs: Mapping[str, NDArray[Any]], options: EvaluationOptions) -> None:
    """Warn of what makes resolutions meaningless: truth in another unit, and events that were learned from."""
    for name in (n for n in inputs if n in PLAUSIBLE and part.columns[n].role == "truth"):
        if remark := outside(name, inputs[name].astype(np.float64)).remark(name, name):
            logger.warning("%s: %s", part.name, remark)
    if known := known_events(facts, inputs, options.baseline_data):
        logger.warning(
            "%s: %d of %d events are among those that the model or the classical methods learned from, and say nothing "
            "of others: evaluate on a dataset that was kept apart",
            part.name,
            known,
            len(next(iter(inputs.values()))),
        )


def _result(
    facts: ModelFacts,
    name: str,
    part: Part,
    table: dict[str, NDArray[Any]],
    inputs: dict[str, NDArray[Any]],
    place: Path,
    options: EvaluationOptions,
) -> DataResult:
    """Tables, metrics and plots of one part."""
    carry = [c for c in options.by if c in table]
    if options.toy_limit:
        truth = {name.removeprefix("true_"): v for name, v in table.items() if name.startswith("true_")}
        table = {**table, **limit_columns(truth)}
    tasks = {task: task_table(task, table, carry) for task in facts.tasks}
    images: dict[str, Sequence[Path]] = {}
    for task, own in tasks.items():
        own.write(place)
        if not own.has_truth:
            logger.warning("%s has no truth for %s: predictions are written, but nothing is compared", name, task)
            continue
        pages = resolution_pages(own, name, carry)
        if pages:
            images[task] = save_pages(pages, place / f"resolution_{task}.pdf")[1:]
    samples = []
    for sample, (expression, mask) in _samples(inputs, options.samples).items():
        metrics = {t: _compared(own.selected(mask), options) for t, own in tasks.items() if own.has_truth}
        limits = {k: v for t in metrics for k, v in tasks[t].selected(mask).limits().items()}
        samples.append(SampleResult(sample, expression, int(np.count_nonzero(mask)), metrics, limits))
    without = None
    if not all(own.has_truth for own in tasks.values()):
        without = describe(facts, name, part, {**inputs, **table}, place, options.settings, options.by)
    inside = table["in_training_range"]
    return DataResult(name, part, len(inside), float(np.mean(inside)), tuple(samples), images, without)


def _compared(table: TaskTable, options: EvaluationOptions) -> dict[str, TaskMetrics]:
    return {method: table.metrics(method, resamples=options.resamples) for method in table.methods}


def _samples(inputs: dict[str, NDArray[Any]], further: Mapping[str, str]) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Sub-samples: all events, the fiducial ones, those of the signal energy in a wider spectrum, those asked for."""
    frame = pl.DataFrame(inputs)
    every = np.ones(frame.height, dtype=bool)
    found: dict[str, tuple[str, NDArray[np.bool_]]] = {ALL: ("", every)}
    usual = {}
    if all(c in inputs for c in "uvw"):
        usual[FIDUCIAL] = NAMED_CUTS[FIDUCIAL]
    if "energy" in inputs:
        usual["signal energy"] = SIGNAL
    for name, expression in {**usual, **further}.items():
        mask = passing(expression, frame)
        if name in further or 20 <= np.count_nonzero(mask) < frame.height:
            found[name] = (expression, mask)
    if "signal energy" in found and FIDUCIAL in found:
        both = found["signal energy"][1] & found[FIDUCIAL][1]
        if np.count_nonzero(both) >= 20:
            found["signal energy, fiducial"] = (f"{NAMED_CUTS[FIDUCIAL]} and {SIGNAL}", both)
    return found


def _names(parts: Sequence[Part]) -> list[str]:
    """Names of the parts, made different where they are not."""
    names: list[str] = []
    for part in parts:
        name, number = Path(part.name).stem, 2
        while name in names:
            name, number = f"{Path(part.name).stem}_{number}", number + 1
        names.append(name)
    return names


def _identity(facts: ModelFacts, parts: Sequence[Part], options: EvaluationOptions) -> dict[str, Any]:
    """Everything that determines the results."""
    return {
        **read_identity(facts, parts, options.settings),
        "samples": dict(options.samples),
        "by": list(options.by),
        "baselines": options.baselines,
        "baseline_data": None if options.baseline_data is None else str(options.baseline_data),
        "baseline_events": options.baseline_events,
        "resamples": options.resamples,
        "toy_limit": options.toy_limit,
    }


def holds_another_evaluation(
    folder: Path, facts: ModelFacts, parts: Sequence[Part], options: EvaluationOptions
) -> bool:
    """Whether `evaluate` would refuse a folder for the evaluation that it holds."""
    return _requested(folder) not in (None, _through_json(_identity(facts, parts, options)))


class _Result(BaseModel):
    """What is read back from `metrics.json`."""

    request: dict[str, Any]


def _requested(folder: Path) -> dict[str, Any] | None:
    """The request of the evaluation in a folder; None where there is none."""
    path = folder / METRICS
    return read_document(path, _Result, "result of an evaluation").request if path.exists() else None


def _through_json(identity: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return dict(json.loads(json.dumps(identity)))


def _is_done(folder: Path, identity: dict[str, Any]) -> bool:
    found, wanted = _requested(folder), _through_json(identity)
    if found is None:
        return False
    if found != wanted:
        different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        raise OutputError(
            f"holds another evaluation, which differs in {', '.join(different)}",
            file=folder,
            remedy="choose another --out, or remove the folder",
        )
    return True


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every number: dataset → sample → task → method → metric → [value, error, unit]; null for what is not finite."""
    return {
        "model": str(evaluation.facts.file),
        "tasks": list(evaluation.facts.tasks),
        "strong": {task: STRONG.get(task) for task in evaluation.facts.tasks},
        "data": {
            data.name: {
                "events": data.events,
                "in_training_range": data.in_range,
                "conventional": {} if data.without_truth is None else _conventional(data.without_truth),
                "samples": {
                    sample.name: {
                        "select": sample.expression,
                        "events": sample.events,
                        "toy_limit": dict(sample.limits),
                        "metrics": {
                            task: {method: _plain(metrics) for method, metrics in methods.items()}
                            for task, methods in sample.metrics.items()
                        },
                    }
                    for sample in data.samples
                },
            }
            for data in evaluation.data
        },
    }


def _conventional(found: WithoutTruth) -> dict[str, Any]:
    """Prediction → its difference to the conventional reconstruction, in the unit people use."""
    return {
        d.column: {
            "median": finite(d.median),
            "half_width_68": finite(d.width),
            "beyond_5_widths": d.beyond,
            "events": d.events,
        }
        for d in found.disagreements
    }


def _plain(metrics: TaskMetrics) -> dict[str, Any]:
    found: dict[str, Any] = {m.name: [finite(m.value), finite(m.error), m.unit] for m in metrics.metrics}
    return {"events": metrics.events, "missing_truth": metrics.missing_truth, **found}

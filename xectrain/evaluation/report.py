"""The report: one self-contained HTML page with numbers, plots, configuration and the data's counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shards.base import publish_text
from xectrain.baselines import DESCRIPTIONS, MEAN, STRONG
from xectrain.evaluation.pages import TEMPLATES
from xectrain.evaluation.plots import data_uri, loss_curves
from xectrain.evaluation.results import DataResult, Disagreement, Evaluation, SampleResult
from xectrain.evaluation.tables import NETWORK
from xectrain.evaluation.wording import digits, headline_label, method_label, model_name, plus_minus, with_unit
from xectrain.inference.calibration import summary
from xectrain.inference.model import ModelFacts
from xectrain.metrics import Metric, TaskMetrics
from xectrain.tasks import QUANTITIES, TASKS


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Publish the page."""
    publish_text(path, render(evaluation))


def render(evaluation: Evaluation) -> str:
    """The page as HTML; everything that comes from files is escaped."""
    facts = evaluation.facts
    return TEMPLATES.get_template("report.html.j2").render(
        title=f"Evaluation of {model_name(facts)}",
        model=facts.file.name,
        tasks=facts.tasks,
        events=sum(d.events for d in evaluation.data),
        tiles=[tile for d in evaluation.data for tile in _tiles(d)],
        data=[_data(d) for d in evaluation.data],
        facts=_facts(facts),
        curves=_curves(facts),
        config=_yaml(facts.config),
        methods=[(method_label(n), t) for n, t in DESCRIPTIONS.items()] if evaluation.options.baselines else [],
        counters=_counters(evaluation),
    )


def _tiles(data: DataResult) -> list[dict[str, str]]:
    """The most important number of each task, with its rival's."""
    tiles = []
    chosen = data.shown
    for task, methods in chosen.metrics.items():
        name = TASKS[task].tile
        if name not in methods[NETWORK]:
            continue
        metric, strong = methods[NETWORK][name], methods.get(STRONG[task])
        where = f"{data.name}, {chosen.name}"
        rival = f"{method_label(STRONG[task])}: {with_unit(strong[name])}" if strong and name in strong else ""
        tiles.append(
            {"label": f"{task} · {headline_label(name)} · {where}", "value": with_unit(metric), "rival": rival}
        )
    return tiles


def _data(data: DataResult) -> dict[str, Any]:
    tasks = [_task(data, task) for task in data.samples[0].metrics]
    outside = round(data.events * (1 - data.in_range))
    without = data.without_truth
    return {
        "name": data.name,
        "events": data.events,
        "outside": outside,
        "tasks": tasks,
        "conventional": [] if without is None else [_difference(d) for d in without.disagreements],
        "distributions": [] if without is None else [data_uri(page) for page in without.images],
    }


def _difference(found: Disagreement) -> dict[str, str]:
    return {
        "name": found.column,
        "unit": QUANTITIES[found.column].unit,
        "median": digits(found.median),
        "width": digits(found.width),
        "beyond": f"{100 * found.beyond:.2f}",
    }


def _task(data: DataResult, task: str) -> dict[str, Any]:
    network = data.samples[0].metrics[task][NETWORK]
    names = [name for name in TASKS[task].headline if name in network]
    return {
        "name": task,
        "heads": [{"label": headline_label(n), "unit": network[n].unit} for n in names],
        "samples": [_sample(sample, task, names) for sample in data.samples if task in sample.metrics],
        "images": [data_uri(page) for page in data.images.get(task, ())],
        "uncertainty": _uncertainty(network),
        "everything": [{"name": m.name, "unit": m.unit, **_cell(m)} for m in network.metrics],
    }


NO_CELL = {"value": "", "error": ""}


def _uncertainty(network: TaskMetrics) -> list[dict[str, Any]]:
    """Are the predicted uncertainties right? One row per column that has one."""
    names = ("pull_mean", "pull_width", "calibration", "coverage_68", "coverage_95")
    prefixes = dict.fromkeys(m.name.partition("_coverage_")[0] for m in network.metrics if "_coverage_" in m.name)
    return [
        {
            "name": p,
            "cells": [_cell(network[n]) if n in network else NO_CELL for n in (f"{p}_{name}" for name in names)],
        }
        for p in prefixes
    ]


def _sample(sample: SampleResult, task: str, names: list[str]) -> dict[str, Any]:
    rows = []
    for method, metrics in sample.metrics[task].items():
        kind = {NETWORK: "network", STRONG[task]: "strong", MEAN: "mean"}.get(method, "")
        rows.append(
            {
                "label": method_label(method),
                "kind": kind,
                "description": DESCRIPTIONS.get(method, "the model under evaluation"),
                "cells": [_cell(metrics[name]) for name in names],
            }
        )
    if any(name in sample.limits for name in names):
        cells = [{**NO_CELL, "value": digits(sample.limits[n])} if n in sample.limits else NO_CELL for n in names]
        words = "what the best linear estimator attains on the toy's showers, at each event's depth and energy"
        rows.append({"label": "best linear (toy)", "kind": "mean", "description": words, "cells": cells})
    events = next(iter(sample.metrics[task].values())).events
    return {"name": sample.name, "expression": sample.expression, "events": events, "rows": rows}


def _cell(metric: Metric) -> dict[str, str]:
    value, _, error = plus_minus(metric.value, metric.error).partition(" ± ")
    return {"value": value, "error": f"± {error}" if error else ""}


def _facts(facts: ModelFacts) -> list[tuple[str, str]]:
    norm = facts.normalization
    reference = "relative to time_min_used" if facts.targets.relative_time else "absolute"
    return [
        ("file", facts.file.name),
        ("sha256", facts.digest),
        (
            "normalization",
            f"{norm.scheme}, scale {norm.npho_scale:g}, {norm.npho_scale2:g}; times {norm.time_scale:g} s",
        ),
        ("npho threshold for times", f"{facts.npho_threshold:g} photons"),
        ("sensor times", reference),
        ("predicted time", f"at the {facts.targets.timing_at}"),
        ("training data", facts.fingerprint),
        ("geometry", facts.geometry),
        ("trained with", facts.code_version),
        ("energy calibrated", summary(facts.calibration)),
    ]


def _curves(facts: ModelFacts) -> list[str]:
    """Loss curves, if the model is in its run folder."""
    log = facts.file.parent / "metrics.jsonl"
    return [data_uri(page) for page in loss_curves(log)] if log.is_file() and log.stat().st_size else []


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _counters(evaluation: Evaluation) -> dict[str, Any]:
    names = list(dict.fromkeys(n for d in evaluation.data for n in d.part.counters()))
    rows = []
    for data in evaluation.data:
        counts = data.part.counters()
        fingerprint = str(data.part.identity().get("dataset", data.part.identity().get("source", "")))
        rows.append(
            {
                "name": data.name,
                "events": data.part.events,
                "counts": [counts.get(name, "") for name in names],
                "fingerprint": fingerprint[:16],
            }
        )
    return {"names": [n.replace("_", " ") for n in names], "rows": rows}

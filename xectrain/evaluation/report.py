"""The report: one self-contained HTML page with numbers, plots, configuration and the data's counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.base import publish_text
from xectrain.baselines import DESCRIPTIONS, MEAN, STRONG
from xectrain.evaluation.plots import data_uri, loss_curves
from xectrain.evaluation.plots.panels import plus_minus
from xectrain.evaluation.tables import NETWORK
from xectrain.metrics import HEADLINE, Metric

if TYPE_CHECKING:
    from xectrain.evaluation.evaluate import DataResult, Evaluation, SampleResult
    from xectrain.inference.model import ModelFacts

TILE: dict[str, str] = {
    "angle": "angle_resolution_68pct",
    "energy": "energy_relative_effective_sigma",
    "timing": "timing_core_sigma",
    "uvwFI": "uvw_dist_68pct",
    "xyzFI": "xyz_dist_68pct",
    "direction": "angle_resolution_68pct",
    "n_gamma": "n_gamma_accuracy",
}
"""The one number of each task that heads the page."""
WORDS: dict[str, str] = {
    "res_68pct": "68 %",
    "effective_sigma": "effective σ",
    "core_sigma": "core σ",
    "bias": "bias",
    "relative": "σ/E,",
    "dist_68pct": "distance 68 %",
    "resolution_68pct": "opening 68 %",
}


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Publish the page."""
    publish_text(path, render(evaluation))


def render(evaluation: Evaluation) -> str:
    """The page as HTML; everything that comes from files is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    facts = evaluation.facts
    return environment.get_template("report.html.j2").render(
        title=f"Evaluation of {_model_name(facts)}",
        model=facts.file.name,
        tasks=facts.tasks,
        events=sum(d.events for d in evaluation.data),
        tiles=[tile for d in evaluation.data for tile in _tiles(d)],
        data=[_data(d) for d in evaluation.data],
        facts=_facts(facts),
        curves=_curves(facts),
        config=_yaml(facts.config),
        methods=[(n.replace("_", " "), t) for n, t in DESCRIPTIONS.items()] if evaluation.options.baselines else [],
        counters=_counters(evaluation),
    )


def headline_label(name: str) -> str:
    """A metric's name in words: `uvw_w_res_68pct` → "w 68 %"."""
    short = name.removeprefix("uvw_").removeprefix("xyz_").removeprefix("angle_")
    for key, word in WORDS.items():
        short = short.replace(key, word) if key != "relative" else short.replace("energy_relative", word)
    return short.removeprefix("energy_").removeprefix("timing_").removeprefix("n_gamma_").replace("_", " ")


def _model_name(facts: ModelFacts) -> str:
    """The run's name, or the file's where it lies alone."""
    return facts.file.parent.name if facts.file.name.startswith("checkpoint_") else facts.file.stem


def _tiles(data: DataResult) -> list[dict[str, str]]:
    """The number of each task that matters most, with its rival's."""
    tiles = []
    chosen = next((s for s in data.samples if s.name == "fiducial"), data.samples[0])
    for task, methods in chosen.metrics.items():
        name = TILE[task]
        if name not in methods[NETWORK]:
            continue
        metric, strong = methods[NETWORK][name], methods.get(STRONG[task])
        where = f"{data.name}, {chosen.name}"
        rival = f"{STRONG[task].replace('_', ' ')}: {_with_unit(strong[name])}" if strong and name in strong else ""
        tiles.append(
            {"label": f"{task} · {headline_label(name)} · {where}", "value": _with_unit(metric), "rival": rival}
        )
    return tiles


def _with_unit(metric: Metric) -> str:
    return f"{plus_minus(metric.value, metric.error)} {metric.unit}".strip()


def _data(data: DataResult) -> dict[str, Any]:
    tasks = [_task(data, task) for task in data.samples[0].metrics]
    outside = round(data.events * (1 - data.in_range))
    return {"name": data.name, "events": data.events, "outside": outside, "tasks": tasks}


def _task(data: DataResult, task: str) -> dict[str, Any]:
    network = data.samples[0].metrics[task][NETWORK]
    names = [name for name in HEADLINE[task] if name in network]
    return {
        "name": task,
        "heads": [{"label": headline_label(n), "unit": network[n].unit} for n in names],
        "samples": [_sample(sample, task, names) for sample in data.samples if task in sample.metrics],
        "images": [data_uri(page) for page in data.images.get(task, ())],
        "everything": [{"name": m.name, "unit": m.unit, **_cell(m)} for m in network.metrics],
    }


def _sample(sample: SampleResult, task: str, names: list[str]) -> dict[str, Any]:
    rows = []
    for method, metrics in sample.metrics[task].items():
        kind = {NETWORK: "network", STRONG[task]: "strong", MEAN: "mean"}.get(method, "")
        rows.append(
            {
                "label": method.replace("_", " "),
                "kind": kind,
                "description": DESCRIPTIONS.get(method, "the model under evaluation"),
                "cells": [_cell(metrics[name]) for name in names],
            }
        )
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
    ]


def _curves(facts: ModelFacts) -> list[str]:
    """Loss curves, where the model lies in its run folder."""
    log = facts.file.parent / "metrics.jsonl"
    return [data_uri(page) for page in loss_curves(log)] if log.is_file() and log.stat().st_size else []


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

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


def compact(metric: Metric) -> str:
    """Value with the error's two digits in brackets, as in 2.986(80)."""
    return compact_number(metric.value, metric.error)


def compact_number(number: float, uncertainty: float) -> str:
    """As `compact`."""
    value, _, error = plus_minus(number, uncertainty).partition(" ± ")
    if not error:
        return value
    digits = error.replace(".", "").lstrip("0") if float(error) < 1 else error
    return f"{value}({digits})"

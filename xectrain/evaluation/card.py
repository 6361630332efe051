"""The model card: what a model was trained on, within which range, how good it is, and where it should not be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.base import XecError, publish_text
from xectrain.baselines import STRONG
from xectrain.evaluation.classical import training_views
from xectrain.evaluation.pages import TEMPLATES
from xectrain.evaluation.results import Evaluation
from xectrain.evaluation.tables import NETWORK
from xectrain.evaluation.wording import compact, digits, headline_label
from xectrain.inference.model import Model, ModelFacts
from xectrain.models.ranges import SUMMARIES
from xectrain.modes.regress import Regress
from xectrain.targets import RANGE_QUANTILES
from xectrain.tasks import QUANTITIES, TASKS

PLACES = {"low": 0.001, "middle": 0.5, "high": 0.999}


def write_card(model: Model, evaluation: Evaluation | None, path: Path) -> None:
    """Publish the card of a model; an exported one does not know how many parameters it has, nor their ranges.

    Args:
        evaluation: whose numbers to show; None: none.
    """
    facts = model.facts
    network: Any = getattr(model, "mode", None)
    datasets = _datasets(facts)
    page = TEMPLATES.get_template("card.html.j2").render(
        name=facts.file.parent.name,
        mode=facts.mode,
        tasks=facts.tasks,
        channels=facts.channels,
        parameters="" if network is None else f"{sum(p.numel() for p in network.parameters()):,}",
        version=facts.code_version,
        datasets=datasets,
        fingerprint=facts.fingerprint,
        ranges=_ranges(network.model) if isinstance(network, Regress) else [],
        inputs=_inputs(facts),
        metrics=[] if evaluation is None else _metrics(evaluation),
        limits=_limits(facts, datasets),
    )
    publish_text(path, page)


def _datasets(facts: ModelFacts) -> list[dict[str, Any]]:
    """The training views, as far as they can still be read."""
    try:
        views = training_views(facts)
    except XecError:
        return []
    entries = facts.config["data"]["train"]
    found = []
    for (dataset, rows), entry in zip(views, entries, strict=True):
        runs: list[int] = []
        if "run" in dataset.columns:
            runs = dataset.table(["run"], rows)["run"].drop_nulls().unique().sort().to_list()
        dead = dataset.column("n_dead")[rows]
        found.append(
            {
                "path": entry["path"],
                "events": len(rows),
                "runs": f"{runs[0]}–{runs[-1]} ({len(runs)})" if len(runs) else "–",
                "select": entry.get("select") or facts.config["data"].get("select") or "all",
                "dead": f"{dead.mean():.1f} (at most {dead.max():.0f})" if len(dead) else "–",
                "fingerprint": dataset.fingerprint[:16],
                "toy": bool(dataset.manifest.settings.conversion.get("toy")),
            }
        )
    return found


def _ranges(network: Any) -> list[dict[str, str]]:
    """Quantiles of targets and input summaries that the model keeps."""
    index = {name: RANGE_QUANTILES.index(q) for name, q in PLACES.items()}
    rows = []
    for task in network.tasks:
        if TASKS[task].kind == "classes":
            continue
        quantiles = network.ranges.get_buffer(f"{task}_KX").cpu().numpy()
        for k, column in enumerate(TASKS[task].columns):
            show = QUANTITIES[column]
            values = {name: digits(float(quantiles[k, i]) * show.scale) for name, i in index.items()}
            rows.append({"name": column, "unit": show.unit, **values})
    summaries = network.ranges.summaries_SX.cpu().numpy()
    for k, name in enumerate(SUMMARIES):
        values = {place: digits(float(summaries[k, i])) for place, i in index.items()}
        rows.append({"name": name.replace("_", " "), "unit": "", **values})
    return rows


def _inputs(facts: ModelFacts) -> list[tuple[str, str]]:
    norm = facts.normalization
    return [
        ("photons", f"{norm.scheme}, scale {norm.npho_scale:g}, {norm.npho_scale2:g}"),
        ("times", f"({'relative' if facts.targets.relative_time else 'absolute'}) / {norm.time_scale:g} s"),
        ("photons that a usable time needs", f"{facts.npho_threshold:g}"),
        ("geometry", facts.geometry or "unknown"),
    ]


def _metrics(evaluation: Evaluation) -> list[dict[str, Any]]:
    found = []
    for data in evaluation.data:
        sample = data.shown
        rows = []
        for task, methods in sample.metrics.items():
            strong = methods.get(STRONG[task])
            for name in TASKS[task].headline:
                if name in methods[NETWORK]:
                    metric = methods[NETWORK][name]
                    rival = compact(strong[name]) if strong is not None and name in strong else ""
                    label = f"{task} {headline_label(name)}"
                    rows.append({"name": label, "network": compact(metric), "strong": rival, "unit": metric.unit})
        found.append({"name": data.name, "events": sample.events, "sample": sample.name, "rows": rows})
    return found


def _limits(facts: ModelFacts, datasets: Sequence[Mapping[str, Any]]) -> list[str]:
    limits = [
        "Valid within the range above; predictions outside it are flagged, not corrected.",
        "Trained for the geometry named above; a warning is given when the data have another one.",
    ]
    if "timing" in facts.tasks and facts.targets.relative_time:
        limits.append("The time is predicted relative to time_min_used, which has to be added.")
    if "timing" in facts.tasks:
        limits.append(f"The time is that at the {facts.targets.timing_at}.")
    if any(entry["toy"] for entry in datasets):
        limits.append("Trained on toy events: nothing can be said about real data.")
    return limits

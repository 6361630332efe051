"""The files that belong to a trained run: predictions, plots, insight, report, card. Made again at any time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from shards.identity import IDENTITY
from xectrain.data import located, open_training_data
from xectrain.evaluation.card import write_card
from xectrain.evaluation.evaluate import evaluate, holds_another_evaluation
from xectrain.evaluation.insight import WorstEvents, look_inside, spreads
from xectrain.evaluation.plots import loss_curves, save_pages
from xectrain.evaluation.plots.insight import attention_page, importance_page, saliency_page, worst_page
from xectrain.evaluation.results import EvaluationOptions
from xectrain.evaluation.sensors import MAX_EVENTS, evaluate_sensors
from xectrain.inference.infer import infer
from xectrain.inference.model import Model, ModelFacts, config_of
from xectrain.inference.regressor import Predictor, TorchPredictor
from xectrain.inference.request import Request, holds_other_predictions
from xectrain.inference.rows import truth_columns
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, ShardPart, Wanted
from xectrain.modes.regress import Regress

logger = logging.getLogger(__name__)

FOLDER, PREDICTIONS_FILE = "artifacts", "predictions.root"
LAST_PAGE = "attention.pdf"
"""The page of insight that is drawn last."""


def write_artifacts(
    model: Predictor | SensorPredictor,
    parts: Sequence[Part] | None = None,
    folder: Path | None = None,
    options: EvaluationOptions | None = None,
    max_events: int = MAX_EVENTS,
) -> Path:
    """Write everything about a run's model; what exists and is still right is kept. The run's own artifacts of
    something else, such as of a run that was trained longer or calibrated since, are set aside as `artifacts-1`, ….

    Args:
        parts: data to evaluate on; None: the run's validation set.
        folder: where to; None: `artifacts` in the run folder.
        options: of the evaluation; for a model that predicts sensors only `settings` apply.
        max_events: events of each part, for a model that predicts sensors.

    Returns:
        The folder.
    """
    run, chosen = model.facts.file.parent, options or EvaluationOptions()
    place = folder or run / FOLDER
    data = list(parts) if parts is not None else validation_parts(model.facts)
    if folder is None:
        _set_aside(place, model, data, chosen)
    log = run / "metrics.jsonl"
    if log.is_file() and log.stat().st_size:
        save_pages(loss_curves(log), place / "loss_curves.pdf")
    if isinstance(model, Predictor):
        found = evaluate(model, data, place, chosen)
        if found is not None:
            write_card(model, found, place / "card.html")
        if found is not None or not (place / LAST_PAGE).exists():  # killed on the way: the evaluation exists already
            _look_inside(model, data, place, chosen.settings)
    else:
        evaluate_sensors({"network": model}, data, place, chosen.settings, max_events)
        write_card(model, None, place / "card.html")
    infer(model, data, place / PREDICTIONS_FILE, Request(chosen.settings))
    return place


def _set_aside(place: Path, model: Model, parts: Sequence[Part], options: EvaluationOptions) -> None:
    """Rename a folder of artifacts that `evaluate` or `infer` would refuse to continue."""
    predicted = holds_other_predictions(place / PREDICTIONS_FILE, model.facts, parts, Request(options.settings))
    evaluated = isinstance(model, Predictor) and holds_another_evaluation(place, model.facts, parts, options)
    if not predicted and not evaluated:
        return
    aside = next(p for i in count(1) if not (p := place.with_name(f"{place.name}-{i}")).exists())
    place.rename(aside)
    logger.info("%s was made from another model, other data or with other options: renamed to %s", place, aside.name)


def validation_parts(facts: ModelFacts) -> list[Part]:
    """The events that a model was validated on.

    Raises:
        InputError, ConfigError: the data are no longer there.
    """
    config = config_of(facts)
    data = open_training_data(located(config.data, facts.file.parent), config.train.seed)
    return [ShardPart(view.dataset, view.rows) for view in data.val]


def _look_inside(model: Predictor, parts: Sequence[Part], place: Path, settings: ReadOptions) -> None:
    """The worst events, saliency, hidden faces and, at the end, attention."""
    if not isinstance(model, TorchPredictor) or not isinstance(model.mode, Regress):
        return
    write_worst(model, parts, place, settings)
    insight = look_inside(model, parts[0], settings)
    pages = {"saliency.pdf": saliency_page, "face_importance.pdf": importance_page, LAST_PAGE: attention_page}
    for name, page in pages.items():
        save_pages([page(insight)], place / name)


def write_worst(model: TorchPredictor, parts: Sequence[Part], place: Path, settings: ReadOptions) -> None:
    """`worst_events/worst_01.pdf` …: the five events with the largest residuals of all parts."""
    worst = WorstEvents(spreads(model))
    wanted = Wanted.of(model)
    for part in parts:
        for events in part.read(wanted, settings):
            truth = truth_columns(model.facts, events.columns)
            table = {name: values for name, values in events.columns.items() if name in IDENTITY}
            table.update({f"true_{name}": values for name, values in truth.items()})
            worst.add(events, {**table, **model.predict_events(events)}, model)
    for rank, event in enumerate(worst.worst(), 1):
        save_pages([worst_page(event, rank)], place / "worst_events" / f"worst_{rank:02d}.pdf", png=False)

"""The files that belong to a trained run: predictions, plots, insight, report, card. Made again at any time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from xectrain.evaluation.evaluate import Options, evaluate
from xectrain.evaluation.plots import loss_curves, save_pages
from xectrain.inference.infer import Request, infer
from xectrain.inference.load import load
from xectrain.inference.regressor import Predictor, TorchPredictor
from xectrain.inference.sources import Part, Settings, ShardPart
from xectrain.modes.regress import Regress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xectrain.evaluation.evaluate import Evaluation
    from xectrain.inference.sensors import Filler

logger = logging.getLogger(__name__)

FOLDER = "artifacts"


def write_artifacts(
    run: Path, parts: Sequence[Part] | None = None, folder: Path | None = None, options: Options | None = None
) -> Path:
    """Write everything about a run's best model; what is there already and still right is kept.

    Args:
        run: run folder.
        parts: data to evaluate on; None: the run's validation set.
        folder: where to; None: `artifacts` in the run folder.
        options: of the evaluation.

    Returns:
        The folder.
    """
    model = load(run)
    place = folder or run / FOLDER
    data = list(parts) if parts is not None else validation_parts(model)
    log = run / "metrics.jsonl"
    if log.is_file() and log.stat().st_size:
        save_pages(loss_curves(log), place / "loss_curves.pdf")
    if isinstance(model, Predictor):
        found = evaluate(model, data, place, options or Options())
        if found is not None:
            _regression(model, data, place, found)
    else:
        _sensors(model, data, place)
    infer(model, data, place / "predictions.root", Request())
    return place


def validation_parts(model: Predictor | Filler) -> list[Part]:
    """The events that a model was validated on.

    Raises:
        InputError, ConfigError: the data are no longer there.
    """
    from xectrain.data import open_training_data
    from xectrain.inference.model import config_of

    config = config_of(model.facts)
    return [ShardPart(view.dataset, view.rows) for view in open_training_data(config.data, config.train.seed).val]


def _regression(model: Predictor, parts: Sequence[Part], place: Path, found: Evaluation) -> None:
    """Saliency, hidden faces, attention, the worst events and the card."""
    from xectrain.evaluation.card import write_card

    write_card(model, found, place / "card.html")
    if not isinstance(model, TorchPredictor) or not isinstance(model.mode, Regress):
        return
    from xectrain.evaluation.insight import look_inside
    from xectrain.evaluation.plots.insight import attention_page, importance_page, saliency_page

    insight = look_inside(model, parts[0], Settings())
    pages = {"saliency": saliency_page, "face_importance": importance_page, "attention": attention_page}
    for name, page in pages.items():
        save_pages([page(insight)], place / f"{name}.pdf")
    write_worst(model, parts, place)


def write_worst(model: TorchPredictor, parts: Sequence[Part], place: Path) -> None:
    """`worst_events/worst_01.pdf` …: the five events with the largest residuals of all parts."""
    from xectrain.evaluation.insight import WorstEvents, spreads
    from xectrain.evaluation.plots.insight import worst_page
    from xectrain.inference.rows import truth_columns
    from xectrain.inference.sources import Wanted

    worst = WorstEvents(spreads(model))
    wanted = Wanted(model.batch_size, model.device, model.facts.normalization)
    for part in parts:
        for events in part.read(wanted, Settings()):
            truth = truth_columns(model.facts, events.columns)
            table = {name: values for name, values in events.columns.items() if name in ("run", "event")}
            table.update({f"true_{name}": values for name, values in truth.items()})
            worst.add(events, {**table, **model.predict_events(events)}, model)
    for rank, event in enumerate(worst.worst(), 1):
        save_pages([worst_page(event, rank)], place / "worst_events" / f"worst_{rank:02d}.pdf")


def _sensors(model: Filler, parts: Sequence[Part], place: Path) -> None:
    from xectrain.evaluation.card import write_card
    from xectrain.evaluation.sensors import evaluate_sensors
    from xectrain.inference.sensors import SensorPredictor

    assert isinstance(model, SensorPredictor)
    evaluate_sensors({"network": model}, parts, place, Settings())
    write_card(model, None, place / "card.html")

"""Figures of what a network looks at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.geometry import FACE_NAMES
from shards.identity import IDENTITY
from xectrain.display.event import event_figure
from xectrain.evaluation.plots.panels import symbol_of
from xectrain.evaluation.plots.style import new_figure, style
from xectrain.evaluation.results import Insight, WorstEvent
from xectrain.evaluation.wording import digits
from xectrain.tasks import QUANTITIES

TITLE_WIDTH = 90
"""Characters of a line above an event display."""


def saliency_page(insight: Insight) -> Figure:
    """Mean |∂output/∂input| per face and channel."""
    with style():
        figure = new_figure(10, 1.6 + 0.45 * len(insight.columns))
        _heading(figure, f"Sensitivity of each prediction to its inputs  ·  {insight.events} events")
        axes = figure.subplots(1, 2)
        for channel, panel in enumerate(axes):
            title = ("photons", "times")[channel] + ": mean |∂output/∂input| per sensor, ×1000"
            _matrix(panel, 1e3 * insight.saliency[:, :, channel], _labels(insight), FACE_NAMES, title)
    return figure


def importance_page(insight: Insight) -> Figure:
    """How far a prediction moves when a face is hidden."""
    with style():
        figure = new_figure(7, 1.8 + 0.45 * len(insight.columns))
        _heading(figure, f"Change of each prediction when a face is hidden  ·  {insight.events} events")
        title = "RMS change, in spreads of the quantity over the training set"
        _matrix(figure.subplots(), insight.importance, _labels(insight), FACE_NAMES, title)
    return figure


def attention_page(insight: Insight) -> Figure:
    """Which token attends to which, per layer; a network without layers that attend has a page that says so."""
    with style():
        layers = max(1, len(insight.attention))
        size = 1.6 + 0.4 * len(insight.tokens)
        figure = new_figure(layers * size + 0.6, size + 0.6)
        _heading(figure, f"Attention, mean over heads  ·  {insight.events} events")
        axes = figure.subplots(1, layers, squeeze=False)[0]
        for number, (panel, weights) in enumerate(zip(axes, insight.attention, strict=False), 1):
            _matrix(panel, weights, insight.tokens, insight.tokens, f"layer {number} (row looks at column)")
        if not len(insight.attention):
            axes[0].set_axis_off()
            axes[0].text(0, 1, "Without fusion layers,\nno token looks at another.", va="top")
    return figure


def worst_page(event: WorstEvent, rank: int) -> Figure:
    """Event display of a badly predicted event, true and predicted values in the title."""

    values = event.values
    run, number = (int(values.get(name, 0)) for name in IDENTITY)
    lines = [f"worst event {rank}: run {run}, event {number}, loss {event.loss:.3g}"]
    parts = []
    for column, show in QUANTITIES.items():
        true, predicted = values.get(f"true_{column}"), values.get(f"pred_{column}")
        if predicted is None:
            continue
        told = "unknown" if true is None or not np.isfinite(true) else digits(true * show.scale)
        told = f"{symbol_of(column)} {digits(predicted * show.scale)} (true {told}) {show.unit}".rstrip()
        parts.append(told.replace(" ", "\N{NO-BREAK SPACE}"))  # lines are broken between quantities alone
    lines += textwrap.wrap(", ".join(parts), TITLE_WIDTH)

    def point(kind: str) -> NDArray[Any] | None:
        found = [values.get(f"{kind}_{axis}") for axis in "uvw"]
        return None if any(v is None for v in found) else np.array(found, dtype=np.float64)

    dead = np.isnan(event.npho)
    return event_figure(
        event.npho, event.time, dead=dead, truth=point("true"), prediction=point("pred"), title="\n".join(lines)
    )


def _labels(insight: Insight) -> list[str]:
    return [symbol_of(column) for column in insight.columns]


def _heading(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=11, fontweight="bold", x=0.01, ha="left")


def _matrix(axes: Axes, values: NDArray[Any], rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """A table of numbers with a colour behind each."""
    top = float(values.max()) if values.size and values.max() > 0 else 1.0
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1.25 * top, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if value > 0.7 * top else "black"
        axes.text(j, i, digits(float(value)), ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, fontsize=8.5)
    axes.grid(visible=False)

"""Curves of several runs over one another: one colour per setting, one line per seed."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xectrain.evaluation.plots.style import NETWORK_COLOUR, OTHER_COLOURS, STRONG_COLOUR, new_figure, style
from xectrain.evaluation.results import Comparison

COLOURS = (NETWORK_COLOUR, STRONG_COLOUR, *OTHER_COLOURS[1:])
"""Of the best settings; all others are grey."""
GREY = "#c8c8c8"
WIDE = 70
"""Letters that fit into half of the page's width."""


def runs_page(comparison: Comparison) -> Figure:
    """Training loss, and the metric (or the validation loss) against the optimizer step; the best is on top."""
    with style():
        figure = new_figure(11, 4.6)
        figure.suptitle(f"Runs by {comparison.metric}", fontsize=11, fontweight="bold", x=0.01, ha="left")
        left, right = figure.subplots(1, 2)
        validated = comparison.metric if "/" in comparison.metric else "val/loss"
        _curves(left, comparison, "training", "train/loss")
        _curves(right, comparison, "curve", validated)
        if len(comparison.settings) > 1:
            handles, labels = right.get_legend_handles_labels()
            columns = 2 if max(map(len, labels)) < WIDE else 1
            shown = [textwrap.fill(label, 2 * WIDE) for label in labels]
            figure.legend(handles[::-1], shown[::-1], loc="outside lower center", ncols=columns)  # the best first
    return figure


def _curves(axes: Axes, comparison: Comparison, which: str, title: str) -> None:
    for rank in reversed(range(len(comparison.settings))):
        setting = comparison.settings[rank]
        colour = COLOURS[rank] if rank < len(COLOURS) else GREY
        for number, run in enumerate(setting.runs):
            points = getattr(run, which)
            label = setting.name if number == 0 and rank < len(COLOURS) else None
            marker = "o" if len(points) < 40 else None
            axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, label=label, marker=marker)
    axes.set_title(title)
    axes.set_xlabel("optimizer step")
    values = [p[1] for s in comparison.settings for run in s.runs for p in getattr(run, which)]
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")

"""Figures of a study of dead channels: resolution and bias of every strategy against the light that was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xectrain.evaluation.plots.panels import points, symbol_of
from xectrain.evaluation.plots.style import PALETTE, new_figure, style
from xectrain.evaluation.tables import TaskTable
from xectrain.metrics import equal_count_edges, profile
from xectrain.tasks import QUANTITIES

BINS = 6
BESIDE = 0.02
"""Methods' points in a bin lie beside one another by this share of the light lost."""


def dead_pages(table: TaskTable, methods: Sequence[str], lost: NDArray[np.float64]) -> list[Figure]:
    """One page: for each column of a task how far its predictions move when sensors go missing, 68 % of |residual|, and
    the bias, against the light lost [%].

    Args:
        methods: the network without missing sensors, `raw`, then the fillings.
        lost: (n,) fraction of each event's light that was removed.
    """
    columns = table.names
    share = 100 * np.asarray(lost)
    edges = equal_count_edges(share, BINS)
    with style():
        figure = new_figure(max(6.4, 3.6 * len(columns)), 8.6)
        heading = f"Dead channels: {table.task}  ·  {len(table)} events"
        figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.01, ha="left")
        axes = figure.subplots(3, len(columns), squeeze=False, sharex=True)
        for number, column in enumerate(columns):
            unit = QUANTITIES[column].unit
            for place, (colour, method) in enumerate(zip(PALETTE, methods, strict=False)):
                beside = 1 + BESIDE * (place - len(methods) / 2)
                found = profile(share, table.residuals(column, method), edges, resamples=40, min_entries=10)
                found = replace(found, centre=found.centre * beside)
                label = {"network": "no sensor missing", "raw": "raw: missing"}.get(method, f"filled: {method}")
                if method != "network":
                    shift = table.residuals(column, method) - table.residuals(column)
                    moved = profile(share, shift, edges, resamples=40, min_entries=10)
                    moved = replace(moved, centre=moved.centre * beside)
                    points(axes[0, number], moved, moved.res_68, moved.res_68_error, colour, label)
                points(axes[1, number], found, found.res_68, found.res_68_error, colour, label)
                points(axes[2, number], found, found.bias, found.bias_error, colour, label)
            axes[0, number].set(title=symbol_of(column), ylabel=f"68 % of |shift| [{unit}]")
            axes[1, number].set(ylabel=f"68 % of |r| [{unit}]")
            for panel in axes[:2, number]:
                panel.set_ylim(bottom=0)
            axes[2, number].axhline(0, color="black", linewidth=0.8)
            axes[2, number].set(ylabel=f"bias [{unit}]", xlabel="light lost [%]")
            if edges[0] > 0 and len(table) >= 20 * BINS:  # a logarithmic axis without points cannot be drawn
                axes[2, number].set_xscale("log")
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return [figure]

"""Figures of data without truth: spectra, maps, trends by run, the difference to the conventional reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from xectrain.evaluation.plots.panels import symbol_of
from xectrain.evaluation.plots.style import NETWORK_COLOUR, STRONG_COLOUR, new_figure, style
from xectrain.evaluation.results import Trend
from xectrain.tasks import QUANTITIES

Array = NDArray[np.float64]

A_ROW = 4
"""Spectra beside each other."""
A_CELL, LEAST = 12, 5
"""Events that a cell of a map holds in the mean, and without which it stays empty."""


def distribution_pages(
    predicted: Mapping[str, Array],
    conventional: Mapping[str, Array],
    trends: Mapping[str, Mapping[str, Trend]],
    title: str,
) -> list[Figure]:
    """Spectra and differences; maps over the inner face; a page of trends for each grouping.

    Args:
        predicted, conventional: canonical column → (n,) values in the unit people use.
        trends: what to group by → column → its medians.
    """
    with style():
        pages = [_spectra(predicted, conventional, title)]
        if all(c in predicted for c in ("u", "v")):
            pages.append(_maps(predicted, title))
        pages += [_trends(found, title) for found in trends.values()]
    return pages


def _heading(figure: Figure, what: str, title: str, events: int) -> None:
    figure.suptitle(f"{what}  ·  {title}  ·  {events} events", fontsize=11, fontweight="bold", x=0.01, ha="left")


def _spectra(predicted: Mapping[str, Array], conventional: Mapping[str, Array], title: str) -> Figure:
    """Every prediction, the conventional value over it, and their difference below."""
    names = list(predicted)
    high, wide = (2 if conventional else 1), min(len(names), A_ROW)
    rows = -(-len(names) // wide)
    figure = new_figure(max(6.0, 3.1 * wide), 2.7 * high * rows + 0.6)
    _heading(figure, "Predictions", title, len(predicted[names[0]]))
    axes = figure.subplots(high * rows, wide, squeeze=False)
    for panel in axes.flat:
        panel.set_visible(False)
    for number, name in enumerate(names):
        row, column = divmod(number, wide)
        upper, unit, label = axes[high * row, column], QUANTITIES[name].unit, symbol_of(name)
        values = predicted[name][np.isfinite(predicted[name])]
        edges = _edges(values)
        upper.hist(values, bins=edges.tolist(), color=NETWORK_COLOUR, alpha=0.45, label="network")
        upper.set(xlabel=f"{label} [{unit}]", ylabel="events", title=label, visible=True)
        if name in conventional:
            other = conventional[name][np.isfinite(conventional[name])]
            upper.hist(other, bins=edges.tolist(), histtype="step", color=STRONG_COLOUR, label="conventional")
            difference = predicted[name] - conventional[name]
            difference = difference[np.isfinite(difference)]
            lower = axes[high * row + 1, column]
            lower.hist(difference, bins=_edges(difference).tolist(), color=NETWORK_COLOUR, alpha=0.45)
            lower.set(xlabel=f"network − conventional [{unit}]", ylabel="events", visible=True)
    fullest = max(axes.flat, key=lambda panel: len(panel.get_legend_handles_labels()[0]))
    figure.legend(*fullest.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _edges(values: Array, bins: int = 60) -> Array:
    low, high = np.quantile(values, (0.002, 0.998)) if values.size else (0.0, 1.0)
    return np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])


def _maps(predicted: Mapping[str, Array], title: str) -> Figure:
    """Where the events are on the inner face, and the mean of the others over it."""
    others = [name for name in ("energy", "timing", "w") if name in predicted]
    figure = new_figure(3.4 * (1 + len(others)), 4.4)
    _heading(figure, "Over the inner face", title, len(predicted["u"]))
    axes = figure.subplots(1, 1 + len(others), squeeze=False)[0]
    u, v = predicted["u"], predicted["v"]
    cells = int(np.clip(np.sqrt(len(u) / A_CELL), 4, 24))
    edges = [_edges(x[np.isfinite(x)], cells) for x in (u, v)]
    counts = np.histogram2d(u, v, bins=edges)[0]
    _map(axes[0], edges, np.where(counts > 0, counts, np.nan), "events", figure)
    for panel, name in zip(axes[1:], others, strict=True):
        good = np.isfinite(predicted[name])
        total = np.histogram2d(u[good], v[good], bins=edges, weights=predicted[name][good])[0]
        known = np.histogram2d(u[good], v[good], bins=edges)[0]
        mean = np.where(known >= LEAST, total / np.maximum(known, 1), np.nan)
        _map(panel, edges, mean, f"mean {symbol_of(name)} [{QUANTITIES[name].unit}]", figure)
    return figure


def _map(axes: Axes, edges: list[Array], values: Array, label: str, figure: Figure) -> None:
    image = axes.pcolormesh(edges[0], edges[1], values.T, cmap="viridis", rasterized=True)
    figure.colorbar(image, ax=axes, label=label, pad=0.01)
    axes.set(xlabel="predicted u [cm]", ylabel="predicted v [cm]", title=label.partition(" [")[0])
    axes.grid(visible=False)


def _trends(trends: Mapping[str, Trend], title: str) -> Figure:
    """Median and half-68 of every prediction by run or day."""
    figure = new_figure(9.0, 1.9 * len(trends) + 0.8)
    first = next(iter(trends.values()))
    _heading(figure, f"By {first.by}", title, int(first.count.sum()))
    axes = figure.subplots(len(trends), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (name, trend) in zip(axes, trends.items(), strict=True):
        place = np.arange(len(trend.group))
        panel.errorbar(place, trend.median, yerr=trend.median_error, fmt="o", color=NETWORK_COLOUR)
        panel.fill_between(
            place, trend.median - trend.width, trend.median + trend.width, color=NETWORK_COLOUR, alpha=0.12, step="mid"
        )
        panel.set(ylabel=f"{symbol_of(name)} [{QUANTITIES[name].unit}]")
    shown = [int(i) for i in MaxNLocator(nbins=12, integer=True).tick_values(0, max(len(first.group) - 1, 1))]
    shown = [i for i in shown if 0 <= i < len(first.group)]
    axes[-1].set_xticks(shown, [f"{first.group[i]:.0f}" for i in shown], rotation=30)
    axes[-1].set(xlabel=f"{first.by} (points: median; band: half-68)")
    return figure

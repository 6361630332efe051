"""Figures of a line study."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xectrain.baselines import STRONG
from xectrain.evaluation.plots.style import NETWORK_COLOUR, OTHER_COLOURS, STRONG_COLOUR, new_figure, style
from xectrain.evaluation.results import Line, LineResult
from xectrain.evaluation.wording import fit_quality, method_label, plus_minus


def line_pages(results: Sequence[LineResult], line: Line) -> list[Figure]:
    """All estimators overlaid with their fits, the groups' biases removed; and peak and width per group."""
    with style():
        pages = [_overlay(results, line)]
        if any(len(result.groups) > 1 for result in results):
            pages.append(_groups(results, line))
    return pages


def _colours(results: Sequence[LineResult]) -> list[str]:
    """As on other pages: the network blue, the strong classical method red."""
    others = itertools.cycle(OTHER_COLOURS)
    known = {"network": NETWORK_COLOUR, method_label(STRONG["energy"]): STRONG_COLOUR}
    return [known.get(result.name) or next(others) for result in results]


def _overlay(results: Sequence[LineResult], line: Line) -> Figure:
    figure = new_figure(9, 5.4)
    apart = any(len(result.groups) > 1 for result in results)
    removed = f", peaks of each {line.group} moved onto the line" if apart else ", peak moved onto the line"
    figure.suptitle(f"Line at {line.energy:g} MeV{removed}", fontsize=11, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots()
    edges = np.linspace(line.energy - 6, line.energy + 4, 101)
    for colour, result in zip(_colours(results), results, strict=True):
        values = result.values[np.isfinite(result.values)]
        fit = result.together
        told = (
            "no fit"
            if fit is None
            else f"σ = {plus_minus(fit.sigma, fit.sigma_error)} MeV, χ² / ndf {fit_quality(fit)}"
        )
        axes.hist(values, bins=edges.tolist(), histtype="step", color=colour, label=f"{result.name}: {told}")
        if fit is not None:
            x = np.linspace(*fit.window, 200)
            axes.plot(
                x, fit.events * (edges[1] - edges[0]) * fit.density(x), color=colour, linewidth=0.9, linestyle="--"
            )
    axes.set(xlabel="energy [MeV]", ylabel="events", xlim=(edges[0], edges[-1]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def _groups(results: Sequence[LineResult], line: Line) -> Figure:
    figure = new_figure(10, 6.4)
    title = f"Line at {line.energy:g} MeV per {line.group}: peak and width ({line.shape})"
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for shift, (colour, result) in enumerate(zip(_colours(results), results, strict=True)):
        groups = sorted(result.groups)
        fits = [result.groups[g] for g in groups]
        x = np.array(groups) + 0.08 * (shift - len(results) / 2)
        upper.errorbar(
            x, [f.mean for f in fits], yerr=[f.mean_error for f in fits], fmt="o", color=colour, label=result.name
        )
        lower.errorbar(x, [f.sigma for f in fits], yerr=[f.sigma_error for f in fits], fmt="o", color=colour)
    upper.axhline(line.energy, color="black", linewidth=0.8, linestyle="--")
    upper.set(ylabel="peak [MeV]")
    lower.set(ylabel="σ [MeV]", xlabel=line.group or "")
    lower.set_ylim(bottom=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure

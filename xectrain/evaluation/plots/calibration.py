"""Figures of a calibration on lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from xectrain.evaluation.plots.style import NETWORK_COLOUR, STRONG_COLOUR, new_figure, style

if TYPE_CHECKING:
    from xectrain.evaluation.line_fit import LineEvents

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Uniformity:
    """The peak in bins of a quantity; arrays with one element per bin, NaN where events are too few."""

    name: str
    centre: Array
    before: Array
    """Peak over line − 1."""
    before_error: Array
    after: Array
    after_error: Array

    def spread(self, *, after: bool) -> tuple[float, float]:
        """Standard deviation over the bins beyond the errors, and its own error [%]."""
        place, error = (self.after, self.after_error) if after else (self.before, self.before_error)
        good = np.isfinite(place) & np.isfinite(error)
        count = int(good.sum())
        if count < 2:
            return float("nan"), float("nan")
        variance, noise = float(np.var(place[good], ddof=1)), float(np.mean(error[good] ** 2))
        found = np.sqrt(max(variance - noise, 0.0))
        of_variance = np.sqrt(2 / (count - 1)) * variance
        return 100 * float(found), 100 * float(of_variance / (2 * max(found, np.sqrt(noise), 1e-9)))


def calibration_pages(events: LineEvents, after: Array, found: Sequence[Uniformity]) -> list[Figure]:
    """The peak's place over position and run, and the spectra; before and after."""
    with style():
        return [*([_places(found)] if found else []), _spectra(events, after)]


def _places(found: Sequence[Uniformity]) -> Figure:
    figure = new_figure(10, 6.0)
    figure.suptitle("Peak / line − 1, before and after", fontsize=11, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for axes, one in zip(panels, found, strict=False):
        for values, errors, colour, label in (
            (one.before, one.before_error, STRONG_COLOUR, "before"),
            (one.after, one.after_error, NETWORK_COLOUR, "after, on other events"),
        ):
            good = np.isfinite(values)
            axes.errorbar(
                one.centre[good], 100 * values[good], yerr=100 * errors[good], fmt="o", color=colour, label=label
            )
        axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel="run" if one.name == "run" else f"predicted {one.name} [cm]", ylabel="peak / line − 1 [%]")
        if one.name == "run":
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    panels[0].legend(loc="upper left", ncols=2)
    return figure


def _spectra(events: LineEvents, after: Array) -> Figure:
    figure = new_figure(4.6 * len(events.lines) + 0.6, 4.2)
    figure.suptitle("Spectra, before and after", fontsize=11, fontweight="bold", x=0.01, ha="left")
    for axes, (k, line) in zip(
        np.atleast_1d(figure.subplots(1, len(events.lines))), enumerate(events.lines), strict=True
    ):
        edges = np.linspace(0.8 * line, 1.15 * line, 71).tolist()
        for values, colour, label in ((events.energy, STRONG_COLOUR, "before"), (after, NETWORK_COLOUR, "after")):
            axes.hist(values[events.line == k], bins=edges, histtype="step", color=colour, label=label)
        axes.axvline(line, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel="predicted energy [MeV]", ylabel="events", title=f"Line at {line:g} MeV")
        axes.legend(loc="upper left")
    return figure

"""Figures of a study of channels: how their responses are spread, where they lie, and how some change with the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shards import geometry as geo
from xectrain.display.sensor_map import draw_sensors
from xectrain.evaluation.plots.style import NETWORK_COLOUR, PALETTE, STRONG_COLOUR, new_figure, style
from xectrain.evaluation.results import ChannelResponse

MAX_RUNS = 4
"""Runs that get a page of their own; the table has all."""
MAX_CURVES = 7
KINDS = (("SiPMs", slice(0, geo.N_SIPM), NETWORK_COLOUR), ("PMTs", slice(geo.N_SIPM, geo.N_SENSORS), STRONG_COLOUR))


def channel_pages(found: Sequence[ChannelResponse]) -> list[Figure]:
    """A page per run, of the first few; and one of the channels that drift most, if any do."""
    with style():
        pages = [_run_page(one) for one in found[:MAX_RUNS]]
        drifting = sorted({s for one in found for s, state in enumerate(one.state) if state == "drifting"})
        if drifting:
            pages.append(_drift_page(found, drifting))
    return pages


def _run_page(one: ChannelResponse) -> Figure:
    """Histograms of the responses and of their errors, and the responses on the unrolled detector."""
    figure = new_figure(12.4, 6.4)
    figure.suptitle(
        f"Response of the channels  ·  run {one.run}  ·  {one.events} events",
        fontsize=11,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.7))
    responses, errors = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    half = 4 * float(np.nanquantile(np.abs(one.response - 1), 0.68))
    for name, own, colour in KINDS:
        for axes, values, edges in (
            (responses, one.response[own], np.linspace(1 - half, 1 + half, 61)),
            (errors, 100 * one.error[own], np.linspace(0, 100 * half, 61)),
        ):
            inside = values[np.isfinite(values)].clip(edges[0], edges[-1])
            axes.hist(inside, bins=edges.tolist(), histtype="step", color=colour, label=name)
            axes.set(ylabel="channels", yscale="log")
    responses.set(xlabel="response (1: calibrated; the outermost bins hold all beyond)")
    errors.set(xlabel="error of the response [%]")
    responses.legend(loc="upper right")
    place = figure.add_subplot(grid[:, 1])
    drawn = draw_sensors(place, one.response, cmap=colormaps["RdBu_r"], norm=Normalize(1 - half, 1 + half, clip=True))
    figure.colorbar(drawn.sipms, ax=place, label="response", shrink=0.8)
    return figure


def _drift_page(found: Sequence[ChannelResponse], drifting: Sequence[int]) -> Figure:
    """The responses of the channels that change most, against the run."""
    figure = new_figure(9.4, 4.6)
    axes = figure.subplots()
    runs = [one.run for one in found]
    spread = {s: float(np.ptp([one.response[s] for one in found])) for s in drifting}
    most = sorted(drifting, key=lambda s: -spread[s])[:MAX_CURVES]
    title = f"Drifting channels  ·  the {len(most)} of {len(drifting)} that change most"
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    for colour, s in zip(PALETTE, most, strict=False):
        values, errors = [one.response[s] for one in found], [one.error[s] for one in found]
        axes.errorbar(runs, values, yerr=errors, fmt="o-", color=colour, label=f"channel {s}")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="run", ylabel="response")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

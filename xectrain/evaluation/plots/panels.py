"""The panels that resolution pages are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from xectrain.baselines import STRONG
from xectrain.evaluation.plots.style import NETWORK_COLOUR, OTHER_COLOURS, STRONG_COLOUR
from xectrain.evaluation.tables import NETWORK, TaskTable
from xectrain.evaluation.wording import digits
from xectrain.metrics import (
    Profile,
    core_sigma,
    default_edges,
    effective_sigma,
    percentile_68,
    profile,
)
from xectrain.tasks import QUANTITIES

Array = NDArray[np.float64]


def symbol_of(column: str) -> str:
    """How a column is written in plots; its name where no task predicts it."""
    return QUANTITIES[column].symbol if column in QUANTITIES else column


def colours(methods: Sequence[str], task: str) -> dict[str, str]:
    """The colour of each method: the network and its strong rival always the same."""
    others = iter(OTHER_COLOURS * 3)
    fixed = {NETWORK: NETWORK_COLOUR, STRONG.get(task, ""): STRONG_COLOUR}
    return {m: fixed.get(m) or next(others) for m in methods}


def rivals(table: TaskTable) -> list[str]:
    """Network and strong baseline: what resolution panels show (the others are in the tables)."""
    strong = STRONG.get(table.task, "")
    return [m for m in (NETWORK, strong) if m in table.methods]


def residual_histogram(axes: Axes, table: TaskTable, column: str) -> None:
    """Residuals of every method, with the network's Gaussian core."""
    unit, colour = QUANTITIES[column].unit, colours(table.methods, table.task)
    r = {m: table.residuals(column, m) for m in table.methods}
    shown = rivals(table) + [m for m in table.methods if m not in rivals(table) and m != "mean"]
    centre = float(np.median(r[NETWORK]))
    reach = 4.5 * max(effective_sigma(np.sort(r[m][np.isfinite(r[m])])) for m in rivals(table))
    reach = reach if reach > 0 else 1.0
    bins = np.linspace(centre - reach, centre + reach, 81).tolist()
    for method in reversed(shown):
        main = method in rivals(table)
        values = r[method][np.isfinite(r[method])]
        sigma, beyond = effective_sigma(np.sort(values)), float(np.mean(np.abs(values - centre) > reach))
        label = f"{method.replace('_', ' ')}: effective σ {digits(sigma)} {unit}, {100 * beyond:.1f} % beyond"
        axes.hist(
            values,
            bins=bins,
            histtype="stepfilled" if method == NETWORK else "step",
            color=colour[method] if method != NETWORK else (*_rgb(colour[method]), 0.25),
            edgecolor=colour[method],
            linewidth=1.5 if main else 0.8,
            label=label,
        )
    ordered = np.sort(r[NETWORK])
    sigma = core_sigma(ordered)
    if sigma > 0:
        core = ordered[np.abs(ordered - centre) < 1.5 * sigma]
        x = np.linspace(bins[0], bins[-1], 400)
        height = core.size / 0.8664 * (bins[1] - bins[0]) / sigma / np.sqrt(2 * np.pi)
        middle = float(np.mean(core)) if core.size else centre
        axes.plot(x, height * np.exp(-((x - middle) ** 2) / 2 / sigma**2), color="black", linewidth=0.9, linestyle="--")
    axes.set(xlabel=f"prediction − truth [{unit}]", ylabel="events", title="Residuals", xlim=(bins[0], bins[-1]))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left")
    lines = [
        f"network: mean {digits(float(np.mean(ordered)))}, median {digits(centre)} {unit}",
        f"core σ {digits(sigma)} {unit} (dashed)",
        f"68 % of |r| {digits(percentile_68(np.sort(np.abs(ordered))))} {unit}",
    ]
    axes.text(0.985, 0.97, "\n".join(lines), transform=axes.transAxes, va="top", ha="right", fontsize=8)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.4)


def against_truth(axes: Axes, table: TaskTable, column: str) -> None:
    """Prediction against truth as a density on a logarithmic scale."""

    show = QUANTITIES[column]
    truth, predicted = table.truth()[column] * show.scale, table.prediction()[column] * show.scale
    low, high = np.quantile(np.concatenate([truth, predicted]), (0.002, 0.998))
    if high <= low:
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, 81).tolist()
    flat = np.ptp(truth) <= 1e-6 * max(1.0, float(np.abs(truth).max()))
    if flat:
        axes.hist(predicted, bins=edges, color=NETWORK_COLOUR, alpha=0.4)
        axes.axvline(float(truth[0]), color="black", linewidth=0.9, linestyle="--")
        label = f"predicted {symbol_of(column)} [{show.unit}]"
        axes.set(xlabel=label, ylabel="events", title="Prediction (dashed: the only true value)")
        return
    counts = np.histogram2d(truth, predicted, bins=(edges, edges))[0].T
    image = axes.pcolormesh(
        edges, edges, np.ma.masked_equal(counts, 0), cmap="viridis", norm=LogNorm(), rasterized=True
    )
    axes.plot((low, high), (low, high), color="black", linewidth=0.8, linestyle="--")
    axes.figure.colorbar(image, ax=axes, label="events", pad=0.01)
    axes.set(
        xlabel=f"true {symbol_of(column)} [{show.unit}]",
        ylabel=f"predicted {symbol_of(column)} [{show.unit}]",
        title="Prediction against truth",
        xlim=(low, high),
        ylim=(low, high),
    )


def resolution_and_bias(
    uppers: Sequence[Axes],
    lowers: Sequence[Axes],
    table: TaskTable,
    column: str,
    quantities: Sequence[tuple[str, Array]],
) -> None:
    """Effective σ above, bias below, for network and strong baseline: a pair of panels per quantity, common scales.

    Args:
        quantities: (label, values) for each pair.
    """
    unit, colour = QUANTITIES[column].unit, colours(table.methods, table.task)
    found: list[list[Profile]] = []
    for _, x in quantities:
        edges = default_edges(x, 10)
        own = [profile(x, table.residuals(column, m), edges, resamples=40) for m in rivals(table)]
        found.append(own)
    every = [p for own in found for p in own]
    top = reach(np.concatenate([p.sigma for p in every]))
    swing = reach(np.abs(np.concatenate([p.bias for p in every])))
    for upper, lower, (label, x), own in zip(uppers, lowers, quantities, found, strict=True):
        for method, one in zip(rivals(table), own, strict=True):
            text = method.replace("_", " ")
            points(upper, one, one.sigma, one.sigma_error, colour[method], text, limits=(0, top))
            points(lower, one, one.bias, one.bias_error, colour[method], text, limits=(-swing, swing))
        _limit(upper, table, column, x, own[0])
        lower.axhline(0, color="black", linewidth=0.8)
        upper.set(title=f"against {label.partition(' [')[0]}", ylim=(0, top))
        lower.set(xlabel=label, ylim=(-swing, swing))
        if np.all(x[np.isfinite(x)] == np.rint(x[np.isfinite(x)])):
            lower.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        upper.tick_params(labelbottom=False)
        first = upper is uppers[0]
        upper.tick_params(labelleft=first)
        lower.tick_params(labelleft=first)
    uppers[0].set(ylabel=f"effective σ [{unit}]")
    lowers[0].set(ylabel=f"bias [{unit}]")
    handles, labels = uppers[0].get_legend_handles_labels()
    uppers[0].figure.legend(handles, labels, loc="upper right", ncols=len(labels))  # beside the title, over no point


def _limit(axes: Axes, table: TaskTable, column: str, x: Array, bins: Profile) -> None:
    """The toy's limit in the bins of a profile, where the table has it."""
    limit = table.limit(column)
    if limit is None:
        return
    found = profile(x, limit**2, bins.edges, resamples=0)
    axes.plot(found.centre, np.sqrt(found.bias), color="black", linewidth=1.0, linestyle=":", label="best linear (toy)")


def reach(values: Array) -> float:
    """An axis limit that a few wild bins do not spoil: the largest value, at most five times the median."""
    good = values[np.isfinite(values)]
    if not good.size or good.max() <= 0:
        return 1.0
    return 1.15 * float(min(good.max(), max(5 * np.median(good), np.quantile(good, 0.8))))


def within(axes: Axes, x: Array, y: Array, limits: tuple[float, float], colour: str) -> NDArray[np.bool_]:
    """Which finite values of `y` lie within `limits`; those beyond become triangles at the border."""
    good = np.isfinite(y)
    for edge, beyond, marker in ((limits[1], y > limits[1], "^"), (limits[0], y < limits[0], "v")):
        far = good & beyond
        if far.any():  # an empty line without clipping upsets the layout
            axes.plot(x[far], np.full(far.sum(), edge), marker, color=colour, clip_on=False, markersize=5)
        good &= ~beyond
    return good


def points(
    axes: Axes,
    found: Profile,
    y: Array,
    error: Array,
    colour: str,
    label: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """One value per bin with its error; what lies beyond `limits` becomes a triangle at the border."""
    good = np.isfinite(y) if limits is None else within(axes, found.centre, y, limits, colour)
    half = (found.centre - found.edges[:-1], found.edges[1:] - found.centre)
    axes.errorbar(
        found.centre[good],
        y[good],
        yerr=error[good],
        xerr=np.maximum(np.stack([h[good] for h in half]), 0),
        fmt="o",
        color=colour,
        label=label,
        elinewidth=1.0,
    )


def _rgb(colour: str) -> tuple[float, float, float]:

    red, green, blue = to_rgb(colour)
    return red, green, blue

"""Resolution plots of a task: residuals, prediction against truth, resolution and bias against what may matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xectrain.evaluation.plots.panels import (
    against_truth,
    colours,
    points,
    residual_histogram,
    resolution_and_bias,
    rivals,
    symbol_of,
)
from xectrain.evaluation.plots.style import NETWORK_COLOUR, new_figure, style
from xectrain.evaluation.tables import BINNING, TaskTable
from xectrain.evaluation.wording import plus_minus
from xectrain.metrics import (
    TaskMetrics,
    direction_from_angles,
    equal_count_edges,
    estimate,
    opening_angle,
    percentile_68,
    profile,
)
from xectrain.metrics.tasks import covered
from xectrain.tasks import QUANTITIES

Array = NDArray[np.float64]

SIGNAL_WINDOW = (0.050, 0.055)
"""GeV: the range of the page that shows the energy more closely."""
MIN_EVENTS = 30
COVERAGE_BINS = 6
MAX_QUANTITIES = 5
"""Quantities to bin in on one page, not counting those asked for."""


def resolution_pages(table: TaskTable, title: str = "", by: Sequence[str] = ()) -> list[Figure]:
    """All pages for a task.

    Args:
        table: with truth.
        title: what the events are, for the heading.
        by: further columns of the table to bin in.

    Returns:
        One page per column; for angles one of the opening angle; for the energy one of 50–55 MeV and one with σ/E; one
        of the predicted uncertainties where there are any. None when fewer than 30 events have truth.
    """
    usable = np.all([np.isfinite(table.truth()[c]) & np.isfinite(table.prediction()[c]) for c in table.names], axis=0)
    events = table.selected(usable)
    if len(events) < MIN_EVENTS or table.task == "n_gamma":
        return []
    with style():
        pages = [_column_page(events, column, title, by) for column in events.names]
        if table.task in ("angle", "direction"):
            pages.append(_opening_page(events, title))
        if table.task == "energy":
            pages += _energy_pages(events, title, by)
        if events.sigma():
            pages.append(_uncertainty_page(events, title))
        known = [name for name in ("w", "energy") if np.ptp(_finite(events, name)) > 0]
        if events.intervals() and known:
            pages.append(_coverage_page(events, known, title))
    return pages


def _column_page(table: TaskTable, column: str, title: str, by: Sequence[str]) -> Figure:
    """Residuals, prediction against truth, and resolution and bias against each quantity."""
    quantities = _quantities(table, column, by)
    columns = max(2, len(quantities))
    figure = new_figure(max(12.4, 2.9 * columns), 8.6)
    grid = figure.add_gridspec(3, 2 * columns, height_ratios=(1.25, 1, 1))
    _heading(figure, table, column, title)
    residual_histogram(figure.add_subplot(grid[0, :columns]), table, column)
    against_truth(figure.add_subplot(grid[0, columns:]), table, column)
    cells = [slice(2 * k, 2 * k + 2) for k in range(len(quantities))]
    lowers = [figure.add_subplot(grid[2, cell]) for cell in cells]
    uppers = [figure.add_subplot(grid[1, cell], sharex=lower) for cell, lower in zip(cells, lowers, strict=True)]
    if quantities:
        resolution_and_bias(uppers, lowers, table, column, quantities)
    return figure


def _heading(figure: Figure, table: TaskTable, column: str, title: str) -> None:
    parts = [f"{symbol_of(column)} ({table.task})", title, f"{len(table)} events"]
    figure.suptitle("  ·  ".join(p for p in parts if p), fontsize=11, fontweight="bold", x=0.01, ha="left")


def _quantities(table: TaskTable, own: str, by: Sequence[str]) -> list[tuple[str, Array]]:
    """What to bin in: (label, values); the column itself first, those without spread left out."""
    names = [f"true_{c}" for c in (own, *(b for b in BINNING if b != own))]
    found: list[tuple[str, Array]] = []
    for name in (*names, *by):
        if name not in table.columns or (name in names and len(found) == MAX_QUANTITIES):
            continue
        values = np.asarray(table.columns[name], dtype=np.float64)
        column = name.removeprefix("true_")
        show = QUANTITIES.get(column) if name.startswith("true_") else None
        scaled = values * (show.scale if show else 1.0)
        good = scaled[np.isfinite(scaled)]
        if good.size < MIN_EVENTS or np.ptp(np.quantile(good, (0.01, 0.99))) <= 1e-6 * max(1.0, np.abs(good).max()):
            continue
        label = f"true {symbol_of(column)} [{show.unit}]" if show else name
        found.append((label, scaled))
    return found


def _opening_page(table: TaskTable, title: str) -> Figure:
    """Distribution of the angle between predicted and true direction, and its 68 % against the angles."""
    psi = {m: _opening(table, m) for m in rivals(table)}
    colour = colours(table.methods, table.task)
    figure = new_figure(11.0, 3.8)
    figure.suptitle(
        f"Opening angle  ·  {title}  ·  {len(table)} events", fontsize=11, fontweight="bold", x=0.01, ha="left"
    )
    axes = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    top = float(np.quantile(np.concatenate(list(psi.values())), 0.98)) or 1.0
    for method, values in psi.items():
        (found,) = estimate(values, percentile_68, resamples=60)
        label = f"{method.replace('_', ' ')}: {plus_minus(found.value, found.error)}°"
        axes[0].hist(values, bins=np.linspace(0, top, 60), histtype="step", color=colour[method], label=label)
    axes[0].set(xlabel="opening angle ψ [degree]", ylabel="events", title="ψ = ∠(prediction, truth)")
    axes[0].legend(loc="upper right", title="68 % below", alignment="left")
    axes[0].set_ylim(top=1.3 * axes[0].get_ylim()[1])
    for panel, name in zip(axes[1:], ("theta", "phi"), strict=True):
        if f"true_{name}" not in table.columns:
            panel.set_visible(False)
            continue
        for method, values in psi.items():
            binned = profile(table.columns[f"true_{name}"], values, bins=10, resamples=40)
            points(panel, binned, binned.res_68, binned.res_68_error, colour[method], method)
        panel.set(
            xlabel=f"true {symbol_of(name)} [degree]",
            ylabel="68 % of ψ [degree]",
            title=f"against true {symbol_of(name)}",
        )
        panel.set_ylim(bottom=0)
    return figure


def _opening(table: TaskTable, method: str) -> Array:
    p, t = table.prediction(method), table.truth()
    if table.task == "angle":
        return opening_angle(direction_from_angles(p["theta"], p["phi"]), direction_from_angles(t["theta"], t["phi"]))
    one, two = (np.stack([side[c] for c in table.names], axis=-1) for side in (p, t))
    return opening_angle(one, two)


def _energy_pages(table: TaskTable, title: str, by: Sequence[str]) -> list[Figure]:
    """σ/E with its fit when the energy varies, and the signal window when it is part of a wider range."""
    energy = table.truth()["energy"]
    pages = []
    metrics = {m: table.metrics(m, resamples=60) for m in rivals(table)}
    if any(m.energy_fit is not None for m in metrics.values()):
        pages.append(_relative_page(table, title, metrics))
    inside = (energy >= SIGNAL_WINDOW[0]) & (energy < SIGNAL_WINDOW[1])
    if MIN_EVENTS <= np.count_nonzero(inside) < len(table):
        window = f"{1e3 * SIGNAL_WINDOW[0]:.0f}–{1e3 * SIGNAL_WINDOW[1]:.0f} MeV"
        pages.append(_column_page(table.selected(inside), "energy", f"{title}  ·  {window}" if title else window, by))
    return pages


def _uncertainty_page(table: TaskTable, title: str) -> Figure:
    """Width of the residuals in bins of the predicted σ, which it should equal, and the pulls."""
    columns = [c for c in table.names if c in table.sigma()]
    figure = new_figure(4.2 * len(columns), 6.6)
    _heading(figure, table, "predicted σ", title)
    upper, lower = figure.subplots(2, len(columns), squeeze=False)
    for wide, pulls, column in zip(upper, lower, columns, strict=True):
        show = QUANTITIES[column]
        sigma, r = show.scale * table.sigma()[column], table.residuals(column)
        edges = equal_count_edges(sigma, 8)
        if len(edges) == 1:  # one σ for all events
            edges = edges * np.array([0.99, 1.01])
        found = profile(sigma, r, edges, resamples=40)
        points(wide, found, found.sigma, found.sigma_error, NETWORK_COLOUR, "network")
        top = 1.1 * float(np.nanmax(np.concatenate([found.centre, found.sigma])))
        wide.plot((0, top), (0, top), color="black", linewidth=0.8, linestyle="--")
        wide.set(
            xlabel=f"predicted σ [{show.unit}]",
            ylabel=f"effective σ of residuals [{show.unit}]",
            title=symbol_of(column),
        )
        edges = np.linspace(-5, 5, 51)
        pulls.hist(r / sigma, bins=edges.tolist(), color=NETWORK_COLOUR, alpha=0.4)
        normal = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi) * len(r) * (edges[1] - edges[0])
        pulls.plot(edges, normal, color="black", linewidth=0.9, linestyle="--")
        pulls.set(xlabel="residual / predicted σ", ylabel="events", title="Pulls (dashed: right)")
    return figure


def _coverage_page(table: TaskTable, by: Sequence[str], title: str) -> Figure:
    """How many true values lie in the predicted intervals, in bins of some truth; dashed: as many as should."""
    figure = new_figure(max(6.4, 5.2 * len(by)), 4.2)
    _heading(figure, table, "predicted intervals", title)
    for axes, name in zip(figure.subplots(1, len(by), squeeze=False)[0], by, strict=True):
        show = QUANTITIES[name]
        x = show.scale * table.columns[f"true_{name}"]
        edges = equal_count_edges(x, COVERAGE_BINS)
        for k, (column, intervals) in enumerate(table.intervals().items()):
            for nominal, (low, high) in intervals.items():
                found = profile(x, covered(column, table.truth()[column], low, high), edges, resamples=40)
                label = symbol_of(column) if nominal == max(intervals) else "_"  # one of the two in the legend
                points(axes, found, found.bias, found.bias_error, f"C{k}", label)
                axes.axhline(nominal, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel=f"true {symbol_of(name)} [{show.unit}]", ylabel="fraction inside", ylim=(0.4, 1.02))
        axes.legend(loc="lower right", ncols=3)
    return figure


def _finite(table: TaskTable, name: str) -> Array:
    """The known truth of a column; one zero where there is none."""
    values = table.columns.get(f"true_{name}", np.zeros(1))
    return values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)


def _relative_page(table: TaskTable, title: str, metrics: Mapping[str, TaskMetrics]) -> Figure:
    """σ/E in bins of the energy with the three-term description."""
    colour = colours(table.methods, table.task)
    figure = new_figure(7.2, 4.6)
    heading = "  ·  ".join(p for p in ("Energy resolution", title, f"{len(table)} events") if p)
    figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots()
    top = 0.0
    for method, found in metrics.items():
        binned, fit = found.energy_profile, found.energy_fit
        if binned is None or fit is None:
            continue
        terms = ", ".join(
            f"{n} = {plus_minus(e.value, e.error)} {u}"
            for n, e, u in (("a", fit.a, "%√GeV"), ("b", fit.b, "%"), ("c", fit.c, "% GeV"))
        )
        points(axes, binned, binned.sigma, binned.sigma_error, colour[method], f"{method.replace('_', ' ')}: {terms}")
        x = np.linspace(binned.edges[0], binned.edges[-1], 200)
        axes.plot(x, fit(x / 1e3), color=colour[method], linewidth=1.0, linestyle="--")
        top = max(top, float(np.nanmax(binned.sigma)))
    axes.set(xlabel="true E [MeV]", ylabel="effective σ / E [%]", title="σ/E = √((a/√E)² + b² + (c/E)²), E in GeV")
    axes.set_ylim(0, 1.35 * top if top else None)
    axes.legend(loc="upper right")
    return figure

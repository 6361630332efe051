"""The pictures of the documentation page. Small PNG files; every function draws one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ingest.toymc import cascade
from ingest.toymc import constants as c
from ingest.toymc.events import ToyEvents
from ingest.toymc.library import read_showers
from ingest.toymc.response import EFFICIENCY
from ingest.toymc.study.checks import TRACED_AT, Traced, into_blocks
from ingest.toymc.study.limit import CASES, Limit
from shards import geometry as geo
from shards.base import published

DPI = 80
_BLUE, _ORANGE, _GREEN, _GREY = "#1f6fb4", "#d95f02", "#1b7f4d", "#777777"


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure that needs no display, and its axes as an array."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: Path) -> None:
    """Publish a PNG without a time stamp."""
    with published(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def light_map(path: Path, traced: Traced, photons: int) -> None:
    """Light on the inner face from one point: the generator's map, and both along a row and a column of sensors."""
    figure, axes = new_figure(12, 4.2, 3)
    grid, at = geo.face_grid("inner"), 2
    u, v, w = TRACED_AT[at]
    everything = traced.direct + traced.scattered
    ax = axes[0, 0]
    image = ax.imshow(np.log10(traced.model_all[at][grid]), aspect="auto", extent=(-33.2, 33.2, -71.2, 71.2))
    figure.colorbar(image, ax=ax, label="log₁₀ share of the photons")
    ax.set(xlabel="u [cm]", ylabel="v [cm]", title=f"light from u {u:g}, v {v:g}, w {w:g} cm")
    row, column = np.unravel_index(traced.model_all[at][grid].argmax(), grid.shape)
    positions = geo.uvw_from_xyz(geo.nominal().positions)
    for ax, line, axis, name in ((axes[0, 1], grid[row], 0, "u"), (axes[0, 2], grid[:, column], 1, "v")):
        x = positions[line, axis]
        hits = traced.direct_hits[at, line] + traced.scattered_hits[at, line]
        error = everything[at, line] / np.sqrt(np.maximum(hits, 1))
        ax.errorbar(x, everything[at, line], error, fmt=".", ms=4, color="k", label=f"traced, {photons:.0e} photons")
        ax.plot(x, traced.model_all[at, line], color=_BLUE, label="generator")
        ax.plot(x, traced.model_direct[at, line], "--", color=_ORANGE, label="… direct part")
        ax.set(xlabel=f"{name} [cm]", yscale="log", ylim=(1e-7, 3e-2), title="through the brightest sensor")
        ax.legend(frameon=False, fontsize=8)
    save(figure, path)


def scattered(path: Path, traced: Traced) -> None:
    """Scattered light per block of 6×4 SiPMs and per PMT, generator against tracing."""
    figure, axes = new_figure(10, 4.2, 2)
    model = traced.model_all - traced.model_direct
    for ax, values, name in (
        (
            axes[0, 0],
            [into_blocks(x) for x in (traced.scattered, model, traced.scattered_hits.astype(float))],
            "blocks",
        ),
        (axes[0, 1], [x[:, geo.N_SIPM :] for x in (traced.scattered, model, traced.scattered_hits)], "PMTs"),
    ):
        truth, found, hits = values
        for at, place in enumerate(TRACED_AT):
            seen = hits[at] > 30
            label = "u {:g}, v {:g}, w {:g} cm".format(*place)
            ax.plot(truth[at][seen], found[at][seen] / truth[at][seen], ".", ms=4, label=label)
        ax.axhline(1, color="k", lw=0.8)
        ax.set(xscale="log", ylim=(0.5, 1.5), xlabel="traced share of the photons", ylabel="generator / traced")
        ax.set_title(f"scattered light, {name}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def depth(path: Path, first_depth: NDArray[np.float64], centre_depth: NDArray[np.float64]) -> None:
    """Depth of the first interaction and of the light's centre at 52.8 MeV."""
    figure, axes = new_figure(6, 4)
    bins = np.linspace(0, 40, 81)
    ax = axes[0, 0]
    ax.hist(
        first_depth,
        bins,
        histtype="step",
        color=_BLUE,
        label=f"first interaction, median {np.median(first_depth):.1f} cm",
    )
    ax.hist(
        centre_depth,
        bins,
        histtype="step",
        color=_ORANGE,
        label=f"centre of the light, median {np.median(centre_depth):.1f} cm",
    )
    ax.set(xlabel="w [cm]", ylabel="events / 5 mm", title="depth, signal events in the fiducial volume")
    ax.legend(frameon=False)
    save(figure, path)


def showers(path: Path, rng: np.random.Generator) -> None:
    """Longitudinal profiles at three energies, and one shower with its 8 deposits."""
    figure, axes = new_figure(10, 4, 2)
    bins = np.linspace(-3, 30, 100)
    for energy, color in ((15.0, _GREEN), (c.SIGNAL_ENERGY, _BLUE), (83.0, _ORANGE)):
        steps = cascade.simulate(rng, np.full(2000, energy))
        share = np.full(len(steps.energy), 1 / (2000 * energy * (bins[1] - bins[0]))) * steps.energy
        axes[0, 0].hist(
            steps.position[:, 2], bins, weights=share, histtype="step", color=color, label=f"{energy:g} MeV"
        )
        library = read_showers()
        close = np.abs(np.log(library.energy / energy)) < 0.04
        z, weight = library.points[close, :, 2].ravel(), library.shares[close].ravel()
        height, _ = np.histogram(z, bins[::3], weights=weight / close.sum() / (bins[3] - bins[0]))
        axes[0, 0].plot((bins[::3][1:] + bins[::3][:-1]) / 2, height, ".", color=color)
    axes[0, 0].set(
        xlabel="along the gamma [cm]", ylabel="share of the energy / cm", title="profile: all steps, dots: 8 deposits"
    )
    axes[0, 0].legend(frameon=False)
    steps = cascade.simulate(rng, np.array([c.SIGNAL_ENERGY]))
    few, sizes = cascade.reduce(rng, steps.position, steps.energy, 8)
    ax = axes[0, 1]
    ax.scatter(steps.position[:, 2], steps.position[:, 0], s=30 * steps.energy, color=_GREY, label="steps")
    ax.scatter(few[:, 2], few[:, 0], s=900 * sizes, facecolors="none", edgecolors=_ORANGE, label="8 deposits")
    ax.set(
        xlabel="along the gamma [cm]",
        ylabel="across [cm]",
        title="one shower of 52.8 MeV",
        aspect="equal",
        adjustable="datalim",
    )
    ax.legend(frameon=False)
    save(figure, path)


def spectra(path: Path, samples: dict[str, ToyEvents]) -> None:
    """Incident, deposited and seen energy of the three spectra; one scale for the photon sums, from the signal."""
    figure, axes = new_figure(12, 3.8, len(samples))
    sums = {name: events.npho.sum(axis=1, dtype=np.float64) for name, events in samples.items()}
    scale = c.SIGNAL_ENERGY / np.median(sums["signal"])
    for ax, (name, events) in zip(axes[0], samples.items(), strict=True):
        bins = np.linspace(0, 110 if name == "cex" else 80, 111)
        for values, color, label in (
            (1e3 * events.columns["energyTruth"].astype(float), _GREY, "incident"),
            (1e3 * events.columns["energyDep"].astype(float), _BLUE, "deposited"),
            (scale * sums[name], _ORANGE, "plain photon sum, scaled"),
        ):
            ax.hist(values, bins, histtype="step", color=color, label=label)
        ax.set(xlabel="E [MeV]", yscale="log", title=name)
        ax.legend(frameon=False, fontsize=8)
    save(figure, path)


def times(path: Path, charge: NDArray[np.float64], residual: NDArray[np.float64]) -> None:
    """Time of sensors against their light: spread in bins of charge, and two distributions."""
    figure, axes = new_figure(10, 4, 2)
    edges = np.geomspace(3, 3000, 16)
    middle, spread = [], []
    for low, high in itertools.pairwise(edges):
        inside = (charge >= low) & (charge < high)
        if inside.sum() > 100:
            middle.append(charge[inside].mean())
            spread.append(np.subtract(*np.quantile(residual[inside], [0.84135, 0.15865])) / 2)
    ax = axes[0, 0]
    n = np.geomspace(3, 3000, 200)
    ax.loglog(middle, spread, "o", color=_BLUE, label="half of the central 68 %")
    ax.loglog(n, 9.5 / np.sqrt(n), "--", color=_GREY, label="9.5 ns/√N")
    first = n[n < 1 / c.TRIGGER_FRACTION]
    ax.loglog(first, 0.83 * c.DECAY_TIME / first, ":", color=_GREY, label="first photoelectron, 0.83·45 ns/N")
    full = np.sqrt(90.25 / n + c.TIME_JITTER**2 + (c.TIME_NOISE / n) ** 2 + c.TIME_OFFSET_SPREAD**2)
    ax.loglog(n, full, color="k", lw=1, label="… with jitter, noise and offset")
    ax.set(xlabel="photoelectrons", ylabel="spread of the time [ns]", title="sensor time minus arrival of the light")
    ax.legend(frameon=False)
    for low, high, color in ((5, 10, _GREEN), (30, 60, _ORANGE), (300, 600, _BLUE)):
        inside = (charge >= low) & (charge < high)
        axes[0, 1].hist(
            residual[inside],
            np.linspace(-5, 20, 126),
            density=True,
            histtype="step",
            color=color,
            label=f"{low}…{high} photoelectrons",
        )
    axes[0, 1].set(xlabel="time minus arrival of the light [ns]", yscale="log", title="emission of the k-th photon")
    axes[0, 1].legend(frameon=False)
    save(figure, path)


def event(path: Path, events: ToyEvents, index: int) -> None:
    """One event unrolled: photons and time."""
    figure, axes = new_figure(12, 5.4, 2)
    flat, grid = geo.unrolled(), geo.face_grid("inner")
    npho, time = events.npho[index], 1e9 * events.relative_time[index].astype(float)
    timed = np.where(npho * EFFICIENCY > 5, time, np.nan)
    x, y = flat.positions.T
    corners = (x[grid].min() - 0.76, x[grid].max() + 0.76, y[grid].min() - 0.77, y[grid].max() + 0.77)
    for ax, values, name, norm in (
        (axes[0, 0], np.maximum(npho, 10), "photons", LogNorm(10, npho.max())),
        (axes[0, 1], timed, "relative time [ns], above 5 photoelectrons", Normalize(0, 12)),
    ):
        for panel in flat.panels:
            ax.fill(*panel.outline.T, facecolor="none", edgecolor=_GREY, lw=0.6)
        ax.imshow(values[grid], extent=corners, norm=norm, aspect="equal", interpolation="nearest")
        pmts = slice(geo.N_SIPM, None)
        points = ax.scatter(x[pmts], y[pmts], c=values[pmts], s=26, norm=norm, lw=0)
        figure.colorbar(points, ax=ax, shrink=0.8, label=name)
        ax.autoscale()
        ax.set_axis_off()
    u, v, w = np.asarray(events.columns["uvwTruth"], dtype=float)[index]
    figure.suptitle(f"52.83 MeV, first interaction at u {u:.1f}, v {v:.1f}, w {w:.1f} cm")
    save(figure, path)


def limits(path: Path, rows: list[Limit]) -> None:
    """Bounds against depth."""
    figure, axes = new_figure(13, 3.8, 3)
    styles = {"point": ("--", _GREY), "known": ("-", _BLUE), "unknown": ("-", _ORANGE)}
    for case in CASES:
        mine = [row for row in rows if row.case == case]
        w = [row.depth for row in mine]
        line, color = styles[case]
        for name, marker in (("u", "o"), ("v", "s"), ("w", "^")):
            label = f"{case}: {name}"
            axes[0, 0].plot(
                w, [10 * getattr(row, name) for row in mine], line, marker=marker, ms=4, color=color, label=label
            )
        axes[0, 1].plot(w, [100 * row.energy for row in mine], line, marker="o", ms=4, color=color, label=case)
        axes[0, 2].plot(w, [1e3 * row.time for row in mine], line, marker="o", ms=4, color=color, label=case)
    axes[0, 0].set(ylabel="σ of u, v, w [mm]", yscale="log")
    axes[0, 1].set(ylabel="σ/E [%]", ylim=(0, None))
    axes[0, 2].set(ylabel="σ of the time [ps]", ylim=(0, None))
    for ax in axes[0]:
        ax.set(xlabel="w of the first interaction [cm]")
    axes[0, 0].legend(frameon=False, fontsize=7, ncols=3)
    axes[0, 1].legend(frameon=False, title="shower")
    save(figure, path)

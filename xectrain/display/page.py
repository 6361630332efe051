"""How the event display colours its quantities, and how it lays out a page of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from shards import geometry as geo
from xectrain.display.sensor_map import BLANK, LINE, MARGIN, TEXT, Hatched, Marker, SensorMap, draw_sensors, extent

Floats = npt.NDArray[np.float64]

TIME_THRESHOLD = 100.0
"""Photons that a sensor needs for its time to be drawn."""
DECADES = 3.0
"""Of photons in the colour scale, at most."""
TRUTH_COLOR, PREDICTION_COLOR, CONVENTIONAL_COLOR = "#ffffff", "#5fe3ff", "#7dff5f"
INPAINTING_ROWS = ("truth", "masked input", "prediction", "difference")


@dataclass(frozen=True)
class Scale:
    """How a quantity is coloured."""

    label: str
    cmap: Colormap
    norm: Normalize
    zero: float = 0.0
    """The time [s] that is drawn as 0."""
    extend: str = "neither"


def photon_scale(photons: Floats, dead: npt.NDArray[np.bool_]) -> tuple[Floats, Scale]:
    """Photons to draw and a logarithmic scale that ends at the brightest sensor."""

    lit = photons[~dead & (photons > 0)]
    high = float(lit.max()) if len(lit) else 10.0
    low = max(high / 10**DECADES, min(float(np.percentile(lit, 2)) if len(lit) else 1.0, high / 10))
    norm = LogNorm(low, high, clip=True)  # nothing and noise are drawn as the darkest colour, not as blank
    return np.where(dead, np.nan, photons), Scale("photons", matplotlib.colormaps["inferno"], norm, extend="min")


def time_scale(photons: Floats, seconds: Floats, dead: npt.NDArray[np.bool_]) -> tuple[Floats, Scale]:
    """Times to draw [ns], counted from the first bright sensor, and a linear scale."""

    usable = ~dead & np.isfinite(seconds) & (photons >= TIME_THRESHOLD)
    zero, last = np.percentile(seconds[usable], (0.5, 99)) if usable.any() else (0.0, 1e-9)
    high = max((float(last) - float(zero)) * 1e9, 0.1)
    values = np.where(usable, (seconds - zero) * 1e9, np.nan)
    label = f"time after {zero * 1e9:.2f} ns  [ns]"
    return values, Scale(label, matplotlib.colormaps["viridis"], Normalize(0, high), float(zero), "both")


def inpainted(
    values: Floats, filled: Floats, hidden: npt.NDArray[np.bool_], scale: Scale, relative: bool
) -> list[tuple[Floats, Scale]]:
    """What the four rows of one quantity show."""

    off = np.where(hidden, filled - values, np.nan)
    if relative:
        off = np.divide(100 * off, values, out=np.full_like(off, np.nan), where=values > 0)
    known = np.abs(off[np.isfinite(off)])
    reach = float(np.percentile(known, 90)) if len(known) else 1.0
    label = "prediction − truth  [%]" if relative else "prediction − truth  [ns]"
    reach = max(reach, 1e-3)
    difference = Scale(label, matplotlib.colormaps["RdBu_r"], Normalize(-reach, reach), extend="both")
    return [(values, scale), (np.where(hidden, np.nan, values), scale), (filled, scale), (off, difference)]


class Page:
    """A figure of maps in rows and columns, each with its colour bar, under a title and over a legend."""

    BAR = 0.95
    FOOT = 0.5
    GAP = 0.08

    def __init__(self, figure: Figure | None, shape: tuple[int, int], height: float, title: str | None) -> None:

        left, right, bottom, top = extent()
        self.rows, self.columns = shape
        self.height, self.width = height, height * (right - left) / (top - bottom)
        self.head = 0.12 + 0.19 * len((title or "").splitlines())
        self.figure = Figure() if figure is None else figure
        self.size = (
            self.columns * (self.width + self.BAR),
            self.head + self.rows * (self.height + self.GAP) + self.FOOT,
        )
        self.figure.set_size_inches(*self.size)
        if title:
            self.figure.text(
                0.15 / self.size[0], 1 - 0.08 / self.size[1], title, ha="left", va="top", fontsize=10, color=TEXT
            )

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes placed in inches from the lower left corner."""
        return self.figure.add_axes((x / self.size[0], y / self.size[1], width / self.size[0], height / self.size[1]))

    def draw(
        self,
        index: int,
        values: Floats,
        scale: Scale,
        hatched: Sequence[Hatched],
        markers: Sequence[Marker],
        geometry: geo.Geometry | None,
        name: str = "",
    ) -> SensorMap:
        """Draw map number `index`, row by row."""
        row, column = divmod(index, self.columns)
        x = column * (self.width + self.BAR)
        y = self.size[1] - self.head - (row + 1) * (self.height + self.GAP)
        axes = self._axes(x, y, self.width, self.height)
        drawn = draw_sensors(
            axes, values, cmap=scale.cmap, norm=scale.norm, hatched=hatched, markers=markers, geometry=geometry
        )
        if name:
            corner = (extent()[0] + MARGIN, geo.V_MAX + 3)
            axes.text(*corner, name.replace(" ", "\n"), ha="left", va="bottom", fontsize=9, color=TEXT)
        bar_axes = self._axes(x + self.width + 0.02, y + 0.1 * self.height, 0.11, 0.8 * self.height)
        bar = self.figure.colorbar(drawn.pmts, cax=bar_axes, extend=scale.extend)
        bar.set_label(scale.label, fontsize=8, color=TEXT)
        bar.ax.tick_params(labelsize=7, colors=TEXT)
        bar.outline.set_linewidth(0.4)
        return drawn

    def legend(self, hatched: Sequence[Hatched], markers: Sequence[Marker]) -> None:
        """Explain the markers, with their coordinates, and what is hatched or blank."""

        points: list[Any] = []
        for m in reversed(markers):
            u, v, w = m.uvw
            label = f"{m.label}: {'' if points else 'u, v, w = '}{u:.2f}, {v:.2f}, {w:.2f} cm"
            color = LINE if m.color == TRUTH_COLOR else m.color  # white cannot be seen on the page
            points.append(
                Line2D([], [], linestyle="none", marker=m.symbol, mec=color, mfc="none", mew=1.6, label=label)
            )
        areas = [
            Patch(facecolor=group.face, edgecolor=group.color, hatch=group.pattern * 5, lw=0.4, label=group.label)
            for group in hatched
        ]
        areas.append(
            Patch(facecolor=BLANK, edgecolor="none", label=f"no value (time: or below {TIME_THRESHOLD:g} photons)")
        )
        for entries, y in ((points, 0.22), (areas, 0.02)):
            self.figure.legend(
                handles=entries,
                loc="lower left",
                ncols=max(len(entries), 1),
                frameon=False,
                fontsize=6.8,
                handletextpad=0.4,
                labelcolor=TEXT,
                bbox_to_anchor=(0.1 / self.size[0], y / self.size[1]),
                borderaxespad=0.2,
                columnspacing=1.4,
            )

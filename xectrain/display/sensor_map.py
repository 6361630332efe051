"""One number per sensor, drawn on the unrolled detector: the picture that event displays and sensor maps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize

from shards import geometry as geo

SIPM_HALF_SIDE = geo.SIPM_CHIP_SIDE + geo.SIPM_CHIP_GAP / 2
"""Half the side of the package of four chips [cm]."""
MARGIN = 3.0
"""Around the outermost faces [cm]."""

SCALE_BAR = 20.0
"""Length of the scale drawn in the corner [cm]."""

BLANK = "#e3e3e6"
LINE = "#8a8a92"
TEXT = "#3c3c44"
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * SIPM_HALF_SIDE
_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1) * geo.PMT_RADIUS
_LABELS = {
    "inner": "inner face (SiPMs)",
    "outer": "outer",
    "upstream": "upstream",
    "downstream": "downstream",
    "top": "top",
    "bottom": "bottom",
}


@dataclass(frozen=True)
class Hatched:
    """Sensors to be hatched over, whatever their value."""

    label: str
    where: npt.NDArray[np.bool_]
    """bool (4760,)."""
    pattern: str = "/"
    color: str = "#55555e"
    face: str = "#ffffff"


@dataclass(frozen=True)
class Marker:
    """A point in the xenon, drawn at its foot on every face: large on the inner one, small on the others."""

    label: str
    uvw: npt.NDArray[np.float64]
    """float64 (3,): u, v, w, cm."""
    symbol: str
    color: str


@dataclass(frozen=True)
class SensorMap:
    """The artists of one map."""

    sipms: PolyCollection
    """4092 squares, in the order of the channels; carries norm and colour map."""
    pmts: PolyCollection
    """668 circles, in the order of the channels."""


def draw_sensors(
    axes: Axes,
    values: npt.ArrayLike,
    *,
    cmap: Colormap,
    norm: Normalize,
    hatched: Sequence[Hatched] = (),
    markers: Sequence[Marker] = (),
    geometry: geo.Geometry | None = None,
) -> SensorMap:
    """Draw a number for every sensor on the unrolled detector.

    Args:
        axes: is emptied of its frame and given an equal aspect.
        values: (4760,); NaN leaves a sensor blank.
        hatched: sensors drawn over with a hatching.
        markers: points in the xenon.
        geometry: where the sensors are; nominal if not given.
    """

    given = np.asarray(values, dtype=np.float64)
    if given.shape != (geo.N_SENSORS,):
        raise ValueError(f"values: shape {given.shape}, expected ({geo.N_SENSORS},)")
    shown = np.ma.masked_invalid(given)
    outlines = sensor_outlines(geometry)
    _draw_panels(axes)
    _draw_orientation(axes)
    parts = []
    for channels in (slice(0, geo.N_SIPM), slice(geo.N_SIPM, geo.N_SENSORS)):
        sensors = PolyCollection(outlines[channels], cmap=cmap.with_extremes(bad=BLANK), norm=norm, linewidths=0)
        sensors.set_array(shown[channels])
        sensors.set_gid("sensors")
        sensors.set_snap(False)  # snapping to pixels turns the regular gaps between SiPMs into a tartan
        axes.add_collection(sensors, autolim=False)
        parts.append(sensors)
    for group in hatched:
        _draw_hatched(axes, outlines, group)
    for marker in markers:
        _draw_marker(axes, marker)
    return SensorMap(*parts)


def sensor_outlines(geometry: geo.Geometry | None = None) -> list[npt.NDArray[np.float64]]:
    """Outline of every sensor in the unrolled plane: 4092 squares (4, 2) and 668 circles (36, 2), cm."""
    places = geo.unrolled(geometry).positions[:, None]
    return [*(places[: geo.N_SIPM] + _CORNERS), *(places[geo.N_SIPM :] + _CIRCLE)]


def extent() -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the unrolled detector with its margin, cm."""
    corners = np.concatenate([panel.outline for panel in geo.unrolled().panels])
    (left, bottom), (right, top) = corners.min(axis=0) - MARGIN, corners.max(axis=0) + MARGIN
    return float(left), float(right), float(bottom), float(top)


def _draw_panels(axes: Axes) -> None:
    left, right, bottom, top = extent()
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    small = _small_text(axes)
    for panel in geo.unrolled().panels:
        axes.fill(*panel.outline.T, facecolor="#f7f7f9", edgecolor=LINE, linewidth=0.5, zorder=0)
    for panel in geo.unrolled().panels:
        low, high = panel.outline.min(axis=0), panel.outline.max(axis=0)
        middle = (low + high) / 2
        label = _LABELS[panel.name]
        if panel.name == "inner":  # between its neighbours there is room for a short line only
            axes.text(middle[0], high[1] + geo.UNROLLED_GAP / 2, label, ha="center", va="center", **small)
        elif panel.name in ("upstream", "downstream", "outer"):
            axes.text(middle[0], low[1] - 1.2, label, ha="center", va="top", **small)
        else:
            side = 1 if panel.name == "top" else -1
            axes.text(
                high[0] + 1.2, middle[1] + side * 0.3 * (high[1] - low[1]), label, ha="left", va="center", **small
            )


def _height(axes: Axes) -> float:
    """Of the map, in inches: lettering and markers are drawn in proportion to it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(axes.get_position().height * figure.get_figheight())


def _small_text(axes: Axes) -> dict[str, Any]:
    return {"color": TEXT, "fontsize": 1.35 * _height(axes)}


def _draw_orientation(axes: Axes) -> None:
    """Arrows along u and v and a scale, in the empty corner at the lower left."""
    left, _, bottom, _ = extent()
    x, y = left + MARGIN + 2, bottom + MARGIN + 12
    small = _small_text(axes)
    arrow = {"arrowstyle": "-|>", "color": TEXT, "lw": 0.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 5}
    for dx, dy, name, place in ((12, 0, "u (z)", (13.5, 0)), (0, 12, "v (φ')", (-1.5, 13))):
        axes.annotate("", xy=(x + dx, y + dy), xytext=(x, y), arrowprops=arrow)
        axes.text(x + place[0], y + place[1], name, ha="left", va="center" if dx else "bottom", **small)
    axes.plot((x, x + SCALE_BAR), (y - 6, y - 6), color=TEXT, linewidth=1.2, solid_capstyle="butt")
    axes.text(x + SCALE_BAR / 2, y - 7.5, f"{SCALE_BAR:g} cm", ha="center", va="top", **small)


def _draw_hatched(axes: Axes, outlines: Sequence[npt.NDArray[np.float64]], group: Hatched) -> None:

    chosen = np.flatnonzero(group.where)
    for channels, density in ((chosen[chosen < geo.N_SIPM], 10), (chosen[chosen >= geo.N_SIPM], 6)):
        if len(channels):
            overlay = PolyCollection(
                [outlines[channel] for channel in channels],
                facecolor=group.face,
                edgecolor=group.color,
                hatch=group.pattern * density,
                linewidths=0.35,
            )
            overlay.set_gid(group.label)
            axes.add_collection(overlay, autolim=False)


def _draw_marker(axes: Axes, marker: Marker) -> None:
    if not np.isfinite(marker.uvw).all():
        return
    places = np.stack([geo.project(marker.uvw, code) for code in range(len(geo.FACE_NAMES))])
    large = 2.0 * _height(axes)
    for where, size in ((places[:1], large), (places[1:], large / 2)):
        for color, width in (("black", 0.26), (marker.color, 0.13)):  # a dark rim, to be seen on any colour
            axes.plot(
                *where.T,
                linestyle="none",
                marker=marker.symbol,
                markersize=size,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=size * width,
                zorder=5,
                gid=marker.label,
                clip_on=False,
            )

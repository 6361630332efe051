"""The event display: one event on the unrolled detector.

Needs no screen: figures are made without pyplot. `figure=` draws into a figure of the caller, e.g. `plt.figure()`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from shards import geometry as geo
from shards.base import ConfigError, published
from shards.normalization import HUGE
from xectrain.display.page import (
    CONVENTIONAL_COLOR,
    INPAINTING_ROWS,
    PREDICTION_COLOR,
    TIME_THRESHOLD,
    TRUTH_COLOR,
    Page,
    inpainted,
    photon_scale,
    time_scale,
)
from xectrain.display.sensor_map import Hatched, Marker

Floats = npt.NDArray[np.float64]

QUANTITIES = ("npho", "time")
_WITHOUT_TIME: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}


def event_figure(
    npho: npt.ArrayLike,
    time: npt.ArrayLike,
    *,
    dead: npt.ArrayLike | None = None,
    truth: npt.ArrayLike | None = None,
    prediction: npt.ArrayLike | None = None,
    conventional: npt.ArrayLike | None = None,
    title: str | None = None,
    panels: Sequence[str] | None = None,
    side_by_side: bool = False,
    geometry: geo.Geometry | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw an event: photons above, time below, on the unrolled detector.

    Sensors without a value (NaN, infinite or beyond 9e9) are left blank, times also where a sensor has fewer than
    100 photons. Times are counted from the first bright sensor.

    Args:
        npho: (4760,), photons.
        time: (4760,), s.
        dead: bool (4760,): these sensors are hatched.
        truth, prediction, conventional: interaction points (u, v, w), cm: true, predicted by a network, and of the
            conventional reconstruction; marked on every face, not drawn where NaN.
        title: one or more lines.
        panels: which of "npho" and "time" to draw; both if not given.
        side_by_side: photons left and time right, for wide pages.
        geometry: where the sensors are; nominal if not given.
        figure: an empty figure to draw into; its size is changed.

    Raises:
        ConfigError: an unknown panel.
    """
    wanted = tuple(panels) if panels is not None else QUANTITIES
    for name in wanted:
        if name not in QUANTITIES:
            raise ConfigError(f"there is no panel {name!r}", item="panels", expected=" or ".join(QUANTITIES))
    photons, seconds = _clean(npho), _clean(time)
    dead_mask = _mask(dead)
    hatched = [Hatched("dead", dead_mask)] if dead_mask.any() else []
    markers = _markers(truth, prediction, conventional)
    shape = (1, len(wanted)) if side_by_side else (len(wanted), 1)
    page = Page(figure, shape, 5.0, title)
    for index, name in enumerate(wanted):
        values, scale = photon_scale(photons, dead_mask) if name == "npho" else time_scale(photons, seconds, dead_mask)
        page.draw(index, values, scale, hatched, markers, geometry)
    page.legend(hatched, markers)
    return page.figure


def inpainting_figure(
    npho: npt.ArrayLike,
    time: npt.ArrayLike,
    mask: npt.ArrayLike,
    predicted_npho: npt.ArrayLike,
    predicted_time: npt.ArrayLike | None = None,
    *,
    dead: npt.ArrayLike | None = None,
    truth: npt.ArrayLike | None = None,
    title: str | None = None,
    geometry: geo.Geometry | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw an inpainted event: rows truth, masked input, prediction, difference; columns photons and time.

    In the rows of the prediction masked sensors hold the predicted value and all others their input. The difference is
    drawn for masked sensors with a known truth only: (prediction − truth) / truth for photons, prediction − truth for
    times.

    Args:
        npho, time: (4760,), photons and s: what was measured (or simulated), NaN where unknown.
        mask: bool (4760,): hidden from the network and predicted. On real data without artificial masks: the dead
            sensors, and `dead` not given.
        predicted_npho, predicted_time: (4760,), photons and s; used where masked. Without times there is one column.
        dead, truth, title, geometry, figure: as of `event_figure`.
    """
    dead_mask = _mask(dead)
    hidden = _mask(mask) & ~dead_mask
    photons, seconds = np.where(dead_mask, np.nan, _clean(npho)), _clean(time)
    filled = np.where(hidden, _clean(predicted_npho), photons)
    columns = [inpainted(photons, filled, hidden, photon_scale(photons, dead_mask)[1], relative=True)]
    if predicted_time is not None:
        values, scale = time_scale(photons, seconds, dead_mask)
        guess = np.where(filled >= TIME_THRESHOLD, (_clean(predicted_time) - scale.zero) * 1e9, np.nan)
        columns.append(inpainted(values, np.where(hidden, guess, values), hidden, scale, relative=False))
    always = [Hatched("dead", dead_mask)] if dead_mask.any() else []
    masked = Hatched("masked", hidden, pattern="x", color="#b0305c")
    markers = _markers(truth)
    page = Page(figure, (len(INPAINTING_ROWS), len(columns)), 3.3, title)
    for row, name in enumerate(INPAINTING_ROWS):
        over = [*always, masked] if name == "masked input" else always
        for column, maps in enumerate(columns):
            page.draw(row * len(columns) + column, *maps[row], over, markers, geometry, name)
    page.legend([*always, masked], markers)
    return page.figure


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Publish a figure atomically; PDF, PNG or SVG by the suffix of `path`.

    Raises:
        ConfigError: another suffix.
        OutputError: the file cannot be written.
    """
    final = Path(path)
    content = picture_bytes(figure, final)
    with published(final) as part:
        part.write_bytes(content)
    return final


def picture_bytes(figure: Figure, path: Path | str) -> bytes:
    """A figure as PDF, PNG or SVG by the suffix of `path`. No time in it: equal figures give equal bytes.

    Raises:
        ConfigError: another suffix.
    """

    kind = picture_format(path)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xec"}):  # names of clip paths in SVG are random otherwise
        figure.savefig(buffer, format=kind, dpi=200, metadata=_WITHOUT_TIME[kind])
    return buffer.getvalue()


def picture_format(path: Path | str) -> str:
    """The suffix of `path` without its dot, if it is that of a picture that can be written.

    Raises:
        ConfigError: it is not.
    """
    suffix = Path(path).suffix
    kind = suffix.lower().removeprefix(".")
    if kind not in _WITHOUT_TIME:
        raise ConfigError(
            "is not the name of a picture file", file=path, found=suffix or "no suffix", expected=".pdf, .png or .svg"
        )
    return kind


# ------------------------------------------------------------------------------------------------- what is given


def _clean(values: npt.ArrayLike) -> Floats:
    """float64 (4760,), NaN where the input is not finite or a code for "missing"."""
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (geo.N_SENSORS,):
        raise ValueError(f"sensor values: shape {given.shape}, expected ({geo.N_SENSORS},)")
    return np.where(np.abs(given) <= HUGE, given, np.nan)


def _mask(flags: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    if flags is None:
        return np.zeros(geo.N_SENSORS, dtype=bool)
    given = np.asarray(flags)
    if given.shape != (geo.N_SENSORS,):
        raise ValueError(f"sensor flags: shape {given.shape}, expected ({geo.N_SENSORS},)")
    return given.astype(bool)


def _markers(
    truth: npt.ArrayLike | None,
    prediction: npt.ArrayLike | None = None,
    conventional: npt.ArrayLike | None = None,
) -> list[Marker]:
    given = (
        ("conventional", conventional, "s", CONVENTIONAL_COLOR),
        ("prediction", prediction, "o", PREDICTION_COLOR),
        ("truth", truth, "x", TRUTH_COLOR),  # drawn last, on top
    )
    markers = [
        Marker(n, np.asarray(p, dtype=np.float64).reshape(3), s, color) for n, p, s, color in given if p is not None
    ]
    return [marker for marker in markers if np.isfinite(marker.uvw).all()]

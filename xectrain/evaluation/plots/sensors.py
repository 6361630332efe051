"""How well hidden sensors are predicted, per face against their light: models and classical fillings together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.geometry import FACE_NAMES
from xectrain.evaluation.plots.panels import reach, within
from xectrain.evaluation.plots.style import PALETTE, new_figure, style
from xectrain.evaluation.wording import method_label
from xectrain.metrics.sensors import MIN_PHOTONS, RelativeErrors, relative_errors

QUANTITIES = (("mae", "relative MAE"), ("rms", "relative RMS"), ("bias", "relative bias"))


def sensor_pages(
    truth: NDArray[Any], face: NDArray[Any], predictions: Mapping[str, NDArray[Any]], title: str = ""
) -> list[Figure]:
    """Relative mean absolute error, RMS and bias per face, against true and against predicted photons.

    Args:
        truth: (m,) photons of the hidden sensors.
        face: (m,) face codes.
        predictions: by label, (m,) photons each; the first is drawn in the network's colour, the second in its rival's.
    """
    with style():
        return [
            _page(truth, face, predictions, title, against_prediction=False),
            _page(truth, face, predictions, title, against_prediction=True),
        ]


def _page(
    truth: NDArray[Any],
    face: NDArray[Any],
    predictions: Mapping[str, NDArray[Any]],
    title: str,
    against_prediction: bool,
) -> Figure:
    faces = [name for code, name in enumerate(FACE_NAMES) if np.count_nonzero(face == code) >= 50]
    figure = new_figure(max(2, len(faces)) * 2.9, 8.2)
    what = "predicted" if against_prediction else "true"
    heading = "  ·  ".join(p for p in (f"Hidden sensors against {what} photons", title, f"{len(truth)} sensors") if p)
    figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.01, ha="left")
    if not faces:
        return figure
    axes = figure.subplots(3, len(faces), sharex=True, sharey="row", squeeze=False)
    found: list[dict[str, RelativeErrors]] = []
    for name in faces:
        on = face == FACE_NAMES.index(name)
        found.append(
            {
                label: relative_errors((values if against_prediction else truth)[on], truth[on], values[on])
                for label, values in predictions.items()
            }
        )
    limits = [_limits(name, [errors for own in found for errors in own.values()]) for name, _ in QUANTITIES]
    for column, (name, own) in enumerate(zip(faces, found, strict=True)):
        for colour, (label, errors) in zip(cycle(PALETTE), own.items(), strict=False):
            _column(axes[:, column], errors, limits, colour, method_label(label))
        axes[0, column].set_title(name)
        axes[2, column].axhline(0, color="black", linewidth=0.8)
        axes[2, column].set_xlabel(f"{what} photons")
        axes[2, column].set_xscale("log")
    for row, (_, label) in enumerate(QUANTITIES):
        axes[row, 0].set(ylabel=label, ylim=limits[row])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    axes[2, 0].set_xlim(left=MIN_PHOTONS)
    return figure


def _limits(name: str, errors: list[RelativeErrors]) -> tuple[float, float]:
    """Axis limits of a quantity that one wild method does not spoil."""
    top = reach(np.abs(np.concatenate([getattr(e, name) for e in errors])))
    return (-top if name == "bias" else 0.0, top)


def _column(
    axes: NDArray[Any], errors: RelativeErrors, limits: list[tuple[float, float]], colour: str, label: str
) -> None:
    centre = np.sqrt(errors.edges[:-1] * errors.edges[1:])
    uncertainty = {"mae": errors.mae_error, "rms": errors.mae_error, "bias": errors.bias_error}
    for row, (name, _) in enumerate(QUANTITIES):
        panel: Axes = axes[row]
        y = getattr(errors, name)
        good = within(panel, centre, y, limits[row], colour)
        panel.errorbar(
            centre[good], y[good], yerr=uncertainty[name][good], fmt="o-", color=colour, label=label, linewidth=0.9
        )

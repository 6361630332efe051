"""Loss curves of a run, from its `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shards.base import InputError
from shards.geometry import FACE_NAMES
from xectrain.evaluation.plots.style import NETWORK_COLOUR, OTHER_COLOURS, PALETTE, STRONG_COLOUR, new_figure, style
from xectrain.training.runfolder import read_metrics

HEADLINE_SUFFIXES = ("_res_68pct", "_dist_68pct", "_resolution_68pct")


def loss_curves(metrics: Path) -> list[Figure]:
    """Total loss, learning rate, the losses of the parts, and the resolutions, against the optimizer step.

    Args:
        metrics: `metrics.jsonl` of a run.

    Raises:
        InputError: it does not exist, or is still empty.
    """

    if not metrics.is_file():
        raise InputError("there is no such log of a run", file=metrics)
    records = list(read_metrics(metrics))
    steps = [r for r in records if r.get("kind") == "steps"]
    epochs = [r for r in records if r.get("kind") == "epoch"]
    if not steps and not epochs:
        raise InputError("holds no records yet", file=metrics)
    with style():
        figure = new_figure(12.5, 7)
        figure.suptitle(f"Training  ·  {metrics.parent.name}", fontsize=11, fontweight="bold", x=0.01, ha="left")
        axes = figure.subplots(2, 2)
        _total(axes[0, 0], steps, epochs)
        _several(axes[0, 1], "Loss of each part", steps, _names(steps, "train/loss_"), epochs, "val/loss_")
        if faces := _faces(epochs):
            _against_neighbours(axes[1, 0], epochs, faces)
        else:
            _several(axes[1, 0], "Validation resolution, relative to the first", [], _resolutions(epochs), epochs, "")
        _rates(axes[1, 1], steps)
        for panel in axes.flat:
            panel.set_xlabel("optimizer step")
    return [figure]


def _series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(steps, values) of the records that have a value."""
    pairs = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return np.array([p[0] for p in pairs], dtype=float), np.array([p[1] for p in pairs], dtype=float)


def _total(axes: Axes, steps: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> None:
    curves = (
        (steps, "train/loss", "training", NETWORK_COLOUR, {"linewidth": 1.0, "alpha": 0.8}),
        (epochs, "val/loss", "validation, averaged weights", STRONG_COLOUR, {"marker": "o"}),
        (epochs, "val/loss_raw", "validation, raw weights", OTHER_COLOURS[0], {"marker": ".", "linestyle": "--"}),
    )
    lowest, highest = math.inf, -math.inf
    for records, key, label, colour, look in curves:
        x, y = _series(records, key)
        if x.size:
            axes.plot(x, y, label=label, color=colour, **{**_marker(x), **look})
            lowest, highest = min(lowest, float(np.nanmin(y))), max(highest, float(np.nanmax(y)))
    x, y = _series(epochs, "val/loss")
    if x.size:
        axes.plot([], [], linestyle="none", label=f"best {np.nanmin(y):.4g}")
    if 0 < 5 * lowest < highest:
        axes.set_yscale("log")
    axes.set(title="Loss", ylabel="loss")
    axes.legend()


def _marker(x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Dots on curves with so few points that a line may be invisible."""
    return {"marker": "."} if x.size < 20 else {}


def _names(records: list[dict[str, Any]], prefix: str) -> list[str]:
    """Keys with a prefix, the prefix taken off; without parts of parts (`inner_npho` of `npho`)."""
    found = dict.fromkeys(key.removeprefix(prefix) for record in records for key in record if key.startswith(prefix))
    return [name for name in found if not name.startswith(tuple(f"{face}_" for face in FACE_NAMES))][: len(PALETTE)]


def _resolutions(epochs: list[dict[str, Any]]) -> list[str]:
    """Keys of the resolutions that were logged; of angles the opening angle's alone."""
    keys = dict.fromkeys(key for record in epochs for key in record)
    found = [k for k in keys if k.startswith("val/") and k.endswith(HEADLINE_SUFFIXES)]
    parts = ("val/theta_", "val/phi_") if "val/angle_resolution_68pct" in found else ()
    return [k for k in found if not k.startswith(parts)][: len(PALETTE)]


def _faces(epochs: list[dict[str, Any]]) -> list[str]:
    """Faces whose hidden sensors' errors were logged beside those of the neighbours' mean."""
    keys = {key for record in epochs for key in record}
    return [face for face in FACE_NAMES if f"val/mae_ring_{face}" in keys]


def _against_neighbours(axes: Axes, epochs: list[dict[str, Any]], faces: list[str]) -> None:
    """Mean absolute error of hidden sensors over that of the mean of their neighbours, per face."""
    for colour, face in zip(PALETTE, faces, strict=False):
        x, own = _series(epochs, f"val/mae_{face}")
        _, ring = _series(epochs, f"val/mae_ring_{face}")
        if x.size and ring.all():
            axes.plot(x, own / ring, color=colour, marker="o", label=f"{face}: {own[-1]:.4g} photons")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(title="Validation MAE of photons, over that of the neighbours' mean", ylabel="ratio")
    _beside(axes, "last value")


def _beside(axes: Axes, title: str) -> None:
    """A legend where it covers no curve."""
    axes.legend(title=title, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _several(
    axes: Axes, title: str, steps: list[dict[str, Any]], names: list[str], epochs: list[dict[str, Any]], prefix: str
) -> None:
    """One colour per name; training thin, validation with dots; without training curves relative to the first value."""
    drawn = False
    for colour, name in zip(PALETTE, names, strict=False):
        x, y = _series(steps, f"train/loss_{name}")
        if x.size:
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.6, label=name, **_marker(x))
            drawn = True
        x, y = _series(epochs, prefix + name)
        if x.size:
            scale = 1.0 if steps or y[0] == 0 else y[0]
            label = None if steps else f"{name.removeprefix('val/')}: {y[-1]:.4g}"
            axes.plot(x, y / scale, color=colour, marker="o", label=label)
            drawn = True
    axes.set(title=title, ylabel="loss" if steps else "fraction of the first value")
    if drawn:
        _beside(axes, "thin: training,\ndots: validation" if steps else "last value")


def _rates(axes: Axes, steps: list[dict[str, Any]]) -> None:
    x, y = _series(steps, "train/lr")
    if x.size:
        axes.plot(x, y, color=NETWORK_COLOUR, label="learning rate", **_marker(x))
    axes.set(title="Learning rate and gradient norm", ylabel="learning rate")
    axes.tick_params(axis="y", colors=NETWORK_COLOUR)
    x, y = _series(steps, "train/grad_norm")
    if x.size and np.nanmax(y) > 0:
        other = axes.twinx()
        other.plot(x, y, color=OTHER_COLOURS[0], linewidth=0.9, label="gradient norm", **_marker(x))
        other.set(ylabel="gradient norm", yscale="log")
        other.grid(visible=False)

"""The figures of docs/model.md: what the window of an event shows, and which of its sensors the predictions rest on.

    python benchmarks/model_figures.py --data data/toy/val
    python benchmarks/model_figures.py --data data/toy/val --run runs/first
    python benchmarks/model_figures.py --data data/toy/val --run runs/first --evaluation runs/first/evaluation/val
    python benchmarks/model_figures.py … --beside runs/whole-faces

The first needs no trained network. The second adds the mean |∂prediction/∂sensor| over some events, seen from the
window's middle; the third the course of the training beside the strong classical methods, whose figures are taken from
an evaluation on the validation data (`xec evaluate RUN DATA`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
import yaml

from shards import geometry as geo
from shards.dataset import Dataset
from shards.opening import open_dataset
from xectrain.baselines import STRONG
from xectrain.evaluation.insight import network_of
from xectrain.evaluation.plots.style import NETWORK_COLOUR, OTHER_COLOURS, STRONG_COLOUR, new_figure, style
from xectrain.evaluation.tables import TaskTable
from xectrain.inference.load import load
from xectrain.metrics import task_metrics
from xectrain.model_input import InputRules
from xectrain.models.focus import read_light
from xectrain.models.foveated import window_image
from xectrain.models.reference import LightReference, Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

WINDOW = 15
CHANNELS = ("√(photons / brightest)", "brightness", "lateness [ns]")
SHOWN = (0, 1, 3)
PREDICTIONS = {"pred_u": 0, "pred_w": 0, "pred_energy": 0, "pred_timing": 1}
"""What is asked about, and the channel of the sensors that it is asked of."""
THRESHOLD = 100.0
CURVES = {
    "uvw_dist_68pct": ("uvwFI", 10, "68 % distance [mm]"),
    "energy_half_width_68": ("energy", 1, "half of 68 % of the energies [%]"),
    "timing_core_sigma": ("timing", 1, "core of the time [ps]"),
}
"""Validation metrics whose course is drawn: task, factor, axis."""


def model_input(dataset: Dataset, events: int) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64]]:
    """Network input, mask and truth of a dataset's first events."""
    sensors, truth = dataset.read(np.arange(min(events, dataset.n_events)))
    rules = InputRules(dataset.normalization, dataset.normalization, THRESHOLD)
    return *rules.apply(torch.from_numpy(sensors)), truth


def window_figure(dataset: Dataset, event: int) -> Figure:
    """The inner face with the window of an event, and three of the channels that the network reads there."""
    x_BN2, mask_BN, truth = model_input(dataset, event + 1)
    scene: Scene = LightReference(WINDOW)(read_light(x_BN2[event:], mask_BN[event:], dataset.normalization))
    image = window_image(scene, WINDOW)[0].numpy()
    grid = geo.face_grid("inner")
    photons = scene.light.photons_BN[0].numpy()[grid]
    u, v = (truth[event, list(dataset.columns).index(name)] for name in "uv")
    places = geo.uvw_from_xyz(geo.nominal_positions())
    figure = new_figure(9.5, 3.4)
    axes = figure.subplots(1, 4, width_ratios=(0.8, 1, 1, 1))
    left = axes[0]
    z, phi = places[grid[0], 0], places[grid[:, 0], 1]
    left.pcolormesh(z, phi, np.log10(np.maximum(photons, 10)), cmap="viridis", rasterized=True)
    inside = scene.spot.channels_BS[0].numpy()
    inside = inside[inside < geo.N_SENSORS]
    low, high = places[inside, :2].min(axis=0) - 0.75, places[inside, :2].max(axis=0) + 0.75
    left.plot([low[0], high[0], high[0], low[0], low[0]], [low[1], low[1], high[1], high[1], low[1]], color="white")
    for axis in (left,):
        axis.set(title="inner face", xlabel="u [cm]", ylabel="v [cm]", aspect="equal")
    marks = [(u, v, "x", "truth"), (*scene.uvw_B3[0, :2].tolist(), "+", "light's centre")]
    for place_u, place_v, mark, label in marks:
        left.plot([place_u], [place_v], mark, color="#ff5c5c" if mark == "x" else "white", ms=7, label=label)
    left.legend(loc="lower left", labelcolor="white")
    for axis, channel, title in zip(axes[1:], SHOWN, CHANNELS, strict=True):
        drawn = axis.imshow(image[channel], cmap="coolwarm" if channel == 3 else "viridis", origin="lower")
        axis.set(title=title, xlabel="sensors along z")
        figure.colorbar(drawn, ax=axis, shrink=0.75)
    for axis in axes:
        axis.grid(visible=False)
    return figure


def saliency_figure(dataset: Dataset, run: Path, events: int) -> Figure:
    """Mean |∂prediction/∂sensor| in the window, largest = 1."""
    network = network_of(load(run, precision="fp32"))
    x_BN2, mask_BN, _ = model_input(dataset, events)
    x_BN2.requires_grad_()
    found = network.predict(x_BN2, mask_BN)
    scene = network.encoder.look(x_BN2.detach(), mask_BN)
    assert scene is not None
    names = [name for name in PREDICTIONS if name in found]
    figure = new_figure(2.4 * len(names), 2.7)
    side = network.config.encoder.focus
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        (slope_BN2,) = torch.autograd.grad(found[name].sum(), x_BN2, retain_graph=True)
        slope_BN = torch.nn.functional.pad(slope_BN2[..., PREDICTIONS[name]].abs(), (0, 1))
        mean = slope_BN.gather(1, scene.spot.channels_BS).mean(dim=0).view(side, side).numpy()
        axis.imshow(mean / mean.max(), cmap="magma", origin="lower", vmin=0, vmax=1)
        axis.set(title=f"{name.removeprefix('pred_')} by {('photons', 'time')[PREDICTIONS[name]]}")
        axis.grid(visible=False)
    return figure


def course(run: Path) -> tuple[list[float], list[dict[str, float]]]:
    """Thousand event passes and the record of every validation of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if "val/loss" in record]
    batch = yaml.safe_load((run / "config.yaml").read_text())["data"]["batch_size"]
    return [record["step"] * batch / 1000 for record in epochs], epochs


def curves_figure(run: Path, evaluation: Path, beside: Path | None) -> Figure:
    """Validation metrics against event passes, and the strong classical methods' on the same events."""
    figure = new_figure(3.2 * len(CURVES), 2.9)
    for axis, (metric, (task, factor, label)) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        frame = pl.read_parquet(evaluation / f"predictions_{task}.parquet")
        table = TaskTable(task, {c: frame[c].to_numpy() for c in frame.columns})
        classical = task_metrics(task, table.prediction(STRONG[task]), table.truth(), resamples=0).values()[metric]
        for one, colour, name in ((run, NETWORK_COLOUR, "network"), (beside, OTHER_COLOURS[1], "whole faces")):
            if one is not None:
                passes, epochs = course(one)
                values = [factor * epoch[f"val/{metric}"] for epoch in epochs]
                axis.plot(passes, values, "o-", markersize=3, color=colour, label=name)
        axis.axhline(factor * classical, color=STRONG_COLOUR, ls="--", label="strong classical")
        axis.margins(y=0.1)
        axis.set(xlabel="thousand event passes", ylabel=label, xscale="log", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.xaxis.set_major_formatter("{x:g}")
    figure.axes[0].legend(loc="center left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a shard dataset")
    parser.add_argument("--run", type=Path, help="a run with a focus")
    parser.add_argument("--evaluation", type=Path, help="of the run on its validation data")
    parser.add_argument("--beside", type=Path, help="a run of a network without a focus, validated on the same data")
    parser.add_argument("--event", type=int, default=0)
    parser.add_argument("--events", type=int, default=200, help="events that gradients are averaged over")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    with style():
        figures = {"model_window.png": window_figure(dataset, options.event)}
        if options.run:
            figures["model_saliency.png"] = saliency_figure(dataset, options.run, options.events)
        if options.run and options.evaluation:
            figures["model_learning.png"] = curves_figure(options.run, options.evaluation, options.beside)
        for name, figure in figures.items():
            figure.savefig(options.out / name, dpi=110)
            print(options.out / name)


if __name__ == "__main__":
    main()

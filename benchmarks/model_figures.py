"""The figures of docs/model.md: what the window of an event shows, and which of its sensors the predictions rest on.

    python benchmarks/model_figures.py --data data/toy/val
    python benchmarks/model_figures.py --data data/toy/val --run runs/first

The first needs no trained network. The second adds the mean |∂prediction/∂sensor| over some events, seen from the
window's middle.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from shards import geometry as geo
from shards.dataset import Dataset
from shards.opening import open_dataset
from xectrain.evaluation.plots.style import new_figure, style
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
    from xectrain.inference.regressor import TorchPredictor, load

    predictor = load(run, precision="fp32")
    assert isinstance(predictor, TorchPredictor)
    network = predictor.model
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a shard dataset")
    parser.add_argument("--run", type=Path, help="a run with a focus")
    parser.add_argument("--event", type=int, default=0)
    parser.add_argument("--events", type=int, default=200, help="events that gradients are averaged over")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    with style():
        figures = {"model_window.png": window_figure(dataset, options.event)}
        if options.run:
            figures["model_saliency.png"] = saliency_figure(dataset, options.run, options.events)
        for name, figure in figures.items():
            figure.savefig(options.out / name, dpi=110)
            print(options.out / name)


if __name__ == "__main__":
    main()

"""How well an inpainter fills hidden sensors, between the strong classical filling and the oracle.

xec toymc --events 20000 --energy flat --energy-range 15 65 --runs 20 --out train.root
xec ingest root2shards train.root --out data/train
xec train --mode inpaint --preset small --data data/train --minutes 30 --batch-size 64 --out runs/inpaint
python benchmarks/inpainting.py runs/inpaint
python benchmarks/write.py --page docs/dead-channels.md inpainting

Toy events of unseen runs; 5 % of their sensors are hidden at random and filled by every method. The oracle knows each
sensor's expected photons, its channel's miscalibration included: what is left is the sensor's own noise. `way` is how
much of the way from the strong classical filling to the oracle the network goes in mean absolute error; its error is
from a bootstrap over events. One sensor in a hundred makes most of it on the small faces, so the ways of two networks
are compared on the same events: `more` is a further network's way less that of the first, with the error of the
difference. `light` is the sum of what was filled over the sum of what was there, less 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import ToyOptions, generate
from shards import geometry as geo
from xectrain.baselines.inpainting import STRONG_FILL, fill_baselines
from xectrain.inference.events import Events
from xectrain.inference.load import load
from xectrain.inference.sensors import SensorPredictor
from xectrain.metrics.sensors import DECADES, filled_light

Array = NDArray[np.float64]

FILLINGS = (STRONG_FILL, "ring_mean", "local_fit")
HIDDEN = 0.05
AT_ONCE = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="run folders or checkpoints")
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--energy", default="signal", help="as of `xec toymc`")
    parser.add_argument("--seed", type=int, default=31)
    chosen = parser.parse_args()
    models: dict[str, SensorPredictor] = {}
    for path in chosen.models:
        model = load(path, device="cpu")
        if not isinstance(model, SensorPredictor):
            parser.error(f"{path} predicts no sensors")
        models[str(path)] = model
    options = ToyOptions(energy=chosen.energy, first_run=3001, runs=2, seed=chosen.seed, expected=True)
    print(f"{chosen.events} toy events ({chosen.energy}), {100 * HIDDEN:.0f} % of the sensors hidden")
    rows = collected(models, chosen.events, options)
    for name in models:
        print(f"\n{name}\n")
        print("\n".join(errors(rows, name, next(iter(models)))))
    print()
    print("\n".join(light(rows)))


def collected(models: dict[str, SensorPredictor], count: int, options: ToyOptions) -> dict[str, Array]:
    """A row per hidden sensor: event, face, truth, and what every method puts there."""
    toy = generate(count, options)
    hidden = np.random.default_rng(options.seed).random(toy.npho.shape) < HIDDEN
    parts: list[dict[str, Array]] = []
    for start in range(0, count, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        events = Events.of_raw(toy.npho[some], toy.relative_time[some])
        where = np.nonzero(hidden[some])
        norm = next(iter(models.values())).facts.normalization
        found = fill_baselines(events.photons(norm), hidden[some], FILLINGS)
        assert toy.expected is not None
        parts.append(
            {
                "event": where[0] + float(start),
                "face": np.asarray(geo.nominal_faces())[where[1]].astype(np.float64),
                "truth": toy.npho[some][where].astype(np.float64),
                **{
                    name: model.hide_and_predict(events, hidden[some]).predicted["npho"][where]
                    for name, model in models.items()
                },
                **{name: found[name].npho for name in FILLINGS},
                "oracle": toy.expected[some][where].astype(np.float64),
            }
        )
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    known = np.isfinite(rows[STRONG_FILL])  # a sensor whose whole ring is hidden, too, has no classical filling
    return {name: values[known] for name, values in rows.items()}


def errors(rows: dict[str, Array], model: str, first: str) -> Iterable[str]:
    """Mean absolute error per face, bias, and the way; for a further model also what it gains on the first."""
    methods = (model, *FILLINGS, "oracle")
    more = [] if model == first else ["more"]
    heads = ["face", "network", *FILLINGS, "oracle", "way", *more, "bias (network)", "light (network)"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for code, face in enumerate(geo.FACE_NAMES):
        on = rows["face"] == code
        mae = {m: float(np.mean(np.abs(rows[m][on] - rows["truth"][on]))) for m in methods}
        ways = [_way(rows, model, on)]
        ways += [ways[0] - _way(rows, first, on) for _ in more]
        told = [f"{way[0]:{sign}.0f} ± {np.std(way[1:]):.0f} %" for way, sign in zip(ways, ("", "+"), strict=False)]
        bias = float(np.mean(rows[model][on] - rows["truth"][on]))
        ratio = float(rows[model][on].sum() / rows["truth"][on].sum()) - 1
        cells = [*(f"{mae[m]:.1f}" for m in methods), *told, f"{bias:+.1f}", f"{100 * ratio:+.1f} %"]
        yield f"| {face} | " + " | ".join(cells) + " |"


def _way(rows: dict[str, Array], model: str, on: NDArray[np.bool_]) -> Array:
    """Percent of the way from the strong filling to the oracle: of all events, and of 200 bootstrap samples of them."""
    event = rows["event"][on].astype(np.int64)
    network, strong, oracle = (
        np.bincount(event, np.abs(rows[m][on] - rows["truth"][on]), minlength=event.max() + 1)
        for m in (model, STRONG_FILL, "oracle")
    )
    random = np.random.default_rng(1)
    drawn = [np.arange(len(strong)), *(random.integers(0, len(strong), len(strong)) for _ in range(200))]
    return np.array([100 * (strong - network)[some].sum() / (strong - oracle)[some].sum() for some in drawn])


def light(rows: dict[str, Array]) -> Iterable[str]:
    """Filled light per face and per decade of the true light: sums, and mean bias in photons."""
    methods = [name for name in rows if name not in ("event", "face", "truth")]
    face = rows["face"].astype(np.int64)
    found = {m: filled_light(rows["truth"], rows[m], face) for m in methods}
    places = [entry.place for entry in found[methods[0]]]
    yield "| light − 1 (bias in photons) | " + " | ".join(places) + " |"
    yield "|---" * (len(places) + 1) + "|"
    for method, entries in found.items():
        cells = [
            f"{100 * (e.ratio - 1):+.1f} % ({e.bias:+.1f})" if e.place != f"< {DECADES[0]:g}" else f"({e.bias:+.1f})"
            for e in entries
        ]
        yield f"| {method} | " + " | ".join(cells) + " |"
    for method in methods:
        yield f"{method}: {100 * np.mean(rows[method] < 0):.1f} % of the fillings are negative"


if __name__ == "__main__":
    main()

"""Which options of the network pay: paired trainings on toy data with a fixed budget, one option changed at a time.

    python benchmarks/ablations.py --base faces [--folder build/ablations] [--seeds 3] [--only pool=attention]
    python benchmarks/ablations.py --base focus --events 40000 --epochs 1
    python benchmarks/ablations.py --base focus --events 120000 --epochs 3 --processes 8 --set data.batch_size=256

`faces` is a network that reads whole faces, `focus` is `small` with the demo's settings.
Trainings run side by side, one thread each, and are ordinary `xec train` runs: what was interrupted continues, and
what is there is not trained again. The table goes to the screen and to `FOLDER/table.md` (`docs/ablations.md` holds
the one that decided a default). A difference is a ratio to the base with the same seed, so that the seed's luck
cancels; `score` is the geometric mean of the ratios of the four tasks' 68 % figures, below 1 where the option helps.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xectrain.checkpoint import LAST, read_checkpoint
from xectrain.training.runfolder import RunFolder, read_metrics

FACES = {
    "model.preset": "small",
    "model.encoder.focus": 0,
    "model.encoder.inner_resolution": 1,
    "model.encoder.hex_channels": 32,
    "model.encoder.hex_blocks": 2,
    "model.encoder.fusion_layers": 2,
    "model.regressor.time_mean": 0,
    "model.encoder.width": 128,
    "model.encoder.inner_tokens": 1,
    "model.encoder.fusion_norm": "post",
    "model.encoder.fusion_dropout": 0,
    "optim.lr": 1e-3,
    "schedule.kind": "onecycle",
    "data.batch_size": 16,
    "data.num_threads": 1,
    "tracking.mlflow": "false",
}
FACES_VARIANTS = {
    "inner_tokens=8": {"model.encoder.inner_tokens": 8},
    "fusion_norm=pre": {"model.encoder.fusion_norm": "pre"},
    "pool=attention": {"model.encoder.pool": "attention"},
    "pool=bilinear": {"model.encoder.pool": "bilinear"},
    "invalid_time=zero": {"model.encoder.invalid_time": "zero"},
    "validity_channel": {"model.encoder.validity_channel": "true"},
    "multiscale": {"model.encoder.multiscale": "true"},
    "outer_pool=1x1": {"model.encoder.outer_pool": "[1,1]"},
    "outer=split": {"model.encoder.outer": "split"},
    "mixer=attention": {"model.encoder.mixer": "attention"},
    "position=sinusoidal": {"model.encoder.position": "sinusoidal"},
    "position=geometric": {"model.encoder.position": "geometric"},
    "fusion_dropout=0.1": {"model.encoder.fusion_dropout": 0.1},
    "channel_dropout=0.02": {"augment.channel_dropout": 0.02},
    "inner_tokens=8 pool=attention": {"model.encoder.inner_tokens": 8, "model.encoder.pool": "attention"},
    "inner_tokens=8 multiscale": {"model.encoder.inner_tokens": 8, "model.encoder.multiscale": "true"},
    "inner_tokens=8 channel_dropout=0.02": {"model.encoder.inner_tokens": 8, "augment.channel_dropout": 0.02},
}
FOCUS = {
    "model.preset": "small",
    "model.encoder.fusion_layers": 0,
    "tasks.uvwFI.weight": 3,
    "tasks.angle.weight": 0.2,
    "augment.mirror_y": 0.5,
    "augment.mirror_z": 0.5,
    "optim.lr": 1e-3,
    "schedule.kind": "onecycle",
    "data.batch_size": 64,
    "data.num_threads": 1,
    "train.compile": "off",
    "train.precision": "fp32",
    "tracking.mlflow": "false",
    "checkpoint.save_artifacts": "false",
}
FOCUS_VARIANTS = {
    "focus=11": {"model.encoder.focus": 11},
    "focus=21": {"model.encoder.focus": 21},
    "focus_fit=0": {"model.encoder.focus_fit": 0},
    "fusion_layers=2": {"model.encoder.fusion_layers": 2},
    "uvwFI.reference=corrected": {"tasks.uvwFI.reference": "corrected"},
    "no mirrors": {"augment.mirror_y": 0, "augment.mirror_z": 0},
    "lr=5e-4": {"optim.lr": 5e-4},
    "lr=1e-3": {"optim.lr": 1e-3},
    "lr=2e-3": {"optim.lr": 2e-3},
    "lr=4e-3": {"optim.lr": 4e-3},
    "batch_size=512": {"data.batch_size": 512},
    "large": {"model.preset": "large", "model.encoder.fusion_layers": 3},
    "inner_resolution=8": {"model.encoder.inner_resolution": 8},
    "equal weights": {"tasks.uvwFI.weight": 1, "tasks.angle.weight": 1},
    "time_mean=0": {"model.regressor.time_mean": 0},
    "focus_channels=48,96": {"model.encoder.focus_channels": "[48,96]"},
    "precision=bf16": {"train.precision": "bf16"},
}
BASES = {"faces": (FACES, FACES_VARIANTS), "focus": (FOCUS, FOCUS_VARIANTS)}
"""Base → its settings, and what the variants change."""
FIGURES = {
    "angle [°]": "val/angle_resolution_68pct",
    "energy [MeV]": "val/energy_res_68pct",
    "time [ps]": "val/timing_res_68pct",
    "position [cm]": "val/uvw_dist_68pct",
}
"""The four tasks' figures: their keys in `metrics.jsonl`."""


def xec(*arguments: object, threads: int = 2) -> None:
    command = [sys.executable, "-m", "xec", *(str(a) for a in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def make_data(folder: Path, events: int, processes: int) -> None:
    val = max(1500, events // 20)
    for name, count, first_run, runs in (
        ("train", events, 1, max(5, events // 1000)),
        ("val", val, 1001, -(-val // 1500)),
    ):
        if (folder / name).exists():
            continue
        root = folder / f"{name}.root"
        which = ("--first-run", first_run, "--runs", runs, "--seed", first_run, "-j", min(processes, runs))
        xec("toymc", "--events", count, "--energy", "flat", "--energy-range", 15, 65, *which, "--out", root)
        xec("ingest", "root2shards", root, "--out", folder / name)
        root.unlink()


def run_folder(folder: Path, variant: str, seed: int) -> Path:
    return folder / "runs" / f"{re.sub('[=, ]', '-', variant)}-{seed}"


def train(folder: Path, base: str, changes: dict[str, str], variant: str, seed: int, epochs: int) -> None:
    settings, variants = BASES[base]
    values = {**settings, **changes, **variants.get(variant, {}), "train.seed": seed, "train.epochs": epochs}
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    where = ("--data", folder / "train", "--val", folder / "val", "--out", run_folder(folder, variant, seed))
    xec("train", "--tasks", "angle,energy,timing,uvwFI", *where, *sets, threads=1)
    print(f"{variant}, seed {seed}: {dict(zip(FIGURES, figures(folder, variant, seed), strict=True))}", flush=True)


def last_epoch(folder: Path, variant: str, seed: int) -> dict[str, float]:
    records = [r for r in read_metrics(RunFolder(run_folder(folder, variant, seed)).metrics) if r["kind"] == "epoch"]
    return records[-1]


def figures(folder: Path, variant: str, seed: int) -> list[float]:
    record = last_epoch(folder, variant, seed)
    return [record[key] for key in FIGURES.values()]


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def table(folder: Path, variants: list[str], seeds: range) -> str:
    """The table as Markdown."""
    heads = ["option", *FIGURES, "score", "σ", "parameters", "events/s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    base = {seed: figures(folder, "base", seed) for seed in seeds}
    speed = statistics.mean(last_epoch(folder, "base", s)["system/throughput_events_per_sec"] for s in seeds)
    for variant in variants:
        found = {seed: figures(folder, variant, seed) for seed in seeds}
        cells = [variant]
        for k in range(len(FIGURES)):
            column = [found[seed][k] for seed in seeds]
            cells.append(f"{statistics.mean(column):.3g} ± {spread(column):.2g}")
        logs = [
            statistics.mean(math.log(a / b) for a, b in zip(found[seed], base[seed], strict=True)) for seed in seeds
        ]
        error = spread(logs) / math.sqrt(len(logs))
        cells.append("1" if variant == "base" else f"{math.exp(statistics.mean(logs)):.3f} ± {error:.3f}")
        cells.append("" if variant == "base" else f"{statistics.mean(logs) / error:+.1f}")
        cells.append(f"{read_checkpoint(run_folder(folder, variant, seeds[0]) / LAST)['parameters']:,}")
        rate = statistics.mean(last_epoch(folder, variant, s)["system/throughput_events_per_sec"] for s in seeds)
        cells.append(f"{rate / speed:.2f}×")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=BASES, default="focus")
    parser.add_argument("--folder", type=Path, default=None, help="default: build/ablations-BASE")
    parser.add_argument("--events", type=int, default=3000, help="training events")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="options to try (default: all)")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the base and of every variant")
    options = parser.parse_args()
    known = BASES[options.base][1]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no {', '.join(sorted(unknown))} for {options.base}; there is {'; '.join(known)}")
    folder = options.folder or Path("build") / f"ablations-{options.base}"
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder, options.events, options.processes)
    seeds, variants = range(options.seeds), ["base", *(options.only or known)]
    with ThreadPoolExecutor(options.processes) as pool:
        what = (folder, options.base, dict(word.split("=", 1) for word in options.set))
        jobs = [pool.submit(train, *what, variant, seed, options.epochs) for variant in variants for seed in seeds]
        for job in jobs:
            job.result()
    text = table(folder, variants, seeds)
    (folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

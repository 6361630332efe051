"""The network against the classical methods on events of unseen runs, clean and hard, in one table.

    python benchmarks/reconstruction.py --folder build/reconstruction --minutes 5
    python benchmarks/reconstruction.py --of demo/evaluation/signal
    python benchmarks/reconstruction.py --only hard --events 120000 --minutes 60

Toy events of 15–65 MeV in many runs to train on, signal events of other runs to judge by (fiducial only). `clean` is
the toy as it comes; `hard` has 5 % dead channels, drawn anew for every run, 0.3 further gammas in an event and a
calibration good to 5 %, in training as in evaluation; `dead`, `pile-up` and `miscalibrated` have one of these each, and
in `surveyed` every sensor is a millimetre or so from its nominal place (`--only`). Every step is an ordinary `xec`
command: what is there is not made again, an interrupted training continues. The strong classical methods are calibrated
on the training events and see exactly the events that the network sees; `core` is the Gaussian core, `68 %` half of the
smallest interval with 68.27 % of the events. The table goes to the screen and to `FOLDER/table.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shards import geometry as geo
from shards.base import free_cores
from xectrain.baselines import STRONG
from xectrain.evaluation.tables import TaskTable
from xectrain.metrics.statistics import core_sigma, effective_sigma
from xectrain.metrics.tasks import direction_from_angles, opening_angle

TASKS = ("angle", "energy", "timing", "uvwFI")
SAMPLES = {
    "clean": (),
    "hard": ("--dead", 0.05, "--pileup", 0.3, "--calibration-spread", 0.05),
    "dead": ("--dead", 0.05),
    "pile-up": ("--pileup", 0.3),
    "miscalibrated": ("--calibration-spread", 0.05),
    "surveyed": ("--geometry", "survey.txt"),
}
SURVEY_MM = 1.0
"""Spread of the surveyed sensors' coordinates around the nominal ones."""
SCALES = {"u": (10, "mm"), "v": (10, "mm"), "w": (10, "mm"), "energy": (100, "%"), "timing": (1000, "ps")}
"""Display units; of the energy the relative deviation is shown."""
SETS = (
    *("schedule.kind=onecycle", "optim.lr=1e-3", "tracking.mlflow=false"),
    *("tasks.uvwFI.weight=3", "tasks.angle.weight=0.2", "model.encoder.fusion_layers=0"),
    *("augment.mirror_z=0.5", "augment.mirror_y=0.5"),
)
WRONG_CM = 10.0
"""A point farther than this from the truth belongs to another photon."""


@dataclass(frozen=True)
class Row:
    """One figure of network and classical method."""

    name: str
    unit: str
    network: float
    classical: float

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        ratio = self.network / self.classical if self.classical else float("nan")
        return [self.name, f"{self.network:.3g} {self.unit}", f"{self.classical:.3g} {self.unit}", f"**{ratio:.2f}**"]


def xec(*arguments: object) -> None:
    command = [sys.executable, "-m", "xec", *(str(a) for a in arguments)]
    print("$ xec", *arguments, flush=True)
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{' '.join(command)} failed")


def make_data(folder: Path, conditions: tuple[object, ...], events: int) -> None:
    """Training, validation and signal events, each of runs of its own."""
    flat = ("--energy", "flat", "--energy-range", 15, 65)
    placed: tuple[object, ...] = ()
    if "--geometry" in conditions:
        survey = folder / str(conditions[1])
        write_survey(survey)
        conditions = placed = ("--geometry", survey)
    for name, count, energy, first_run, runs in (
        ("train", events, flat, 1, max(10, events // 1000)),
        ("flat", 2000, flat, 1001, 2),
        ("signal", 7500, ("--energy", "signal"), 2001, 2),
    ):
        root = folder / f"{name}.root"
        which = ("--first-run", first_run, "--runs", runs, "--seed", first_run)
        xec("toymc", "--events", count, *energy, *which, *conditions, "-j", min(runs, free_cores()), "--out", root)
        xec("ingest", "root2shards", root, *placed, "--out", folder / name)


def write_survey(file: Path) -> None:
    """A table of sensors around their nominal places."""
    nominal, shift = geo.nominal(), np.random.default_rng(1).normal(0, SURVEY_MM / 10, (geo.N_SENSORS, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    geo.save(file, geo.Geometry(nominal.positions + shift, nominal.normals, nominal.face, file.name))


def train(folder: Path, options: argparse.Namespace) -> None:
    sets = (*SETS, *options.set)
    xec(
        *("train", "--preset", options.preset, "--tasks", ",".join(TASKS), "--minutes", options.minutes),
        *("--batch-size", options.batch, "--data", folder / "train", "--val", folder / "flat"),
        *(word for value in sets for word in ("--set", value)),
        *("--out", folder / "run"),
    )
    xec("evaluate", folder / "run", folder / "signal", "--out", folder / "evaluation")


def tables(evaluation: Path) -> tuple[dict[str, TaskTable], int]:
    """The fiducial events' predictions by task, and how many they are."""
    found = {}
    for task in TASKS:
        frame = pl.read_parquet(evaluation / f"predictions_{task}.parquet")
        found[task] = TaskTable(task, {c: frame[c].to_numpy() for c in frame.columns})
    truth = found["uvwFI"].truth()
    fiducial = geo.in_fiducial(np.column_stack([truth[c] for c in "uvw"]))
    return {task: table.selected(fiducial) for task, table in found.items()}, int(fiducial.sum())


def residuals(table: TaskTable, column: str, method: str) -> NDArray[np.float64]:
    """Sorted finite deviations in display units."""
    truth = table.truth()[column]
    r = table.prediction(method)[column] - truth
    r = (r / truth if column == "energy" else r) * SCALES[column][0]
    return np.sort(r[np.isfinite(r)])


def rows(found: dict[str, TaskTable]) -> list[Row]:
    """Every figure of a sample."""
    result = []
    for task in ("uvwFI", "energy", "timing"):
        for column in found[task].names:
            pair = [residuals(found[task], column, method) for method in ("network", STRONG[task])]
            for name, statistic in (("core", core_sigma), ("68 %", effective_sigma)):
                result.append(Row(f"{column}, {name}", SCALES[column][1], *(statistic(r) for r in pair)))
    points, truth = found["uvwFI"], np.stack(list(found["uvwFI"].truth().values()), axis=1)
    distances = []
    for method in ("network", STRONG["uvwFI"]):
        predicted = np.stack(list(points.prediction(method).values()), axis=1)
        distances.append(np.linalg.norm(predicted - truth, axis=1))
    result.append(Row("distance, 68 % of events", "mm", *(10 * float(np.quantile(d, 0.68)) for d in distances)))
    result.append(Row(f"beyond {WRONG_CM:g} cm", "%", *(100 * float(np.mean(d > WRONG_CM)) for d in distances)))
    angle = found["angle"]
    true = direction_from_angles(**angle.truth())
    opening = [
        opening_angle(direction_from_angles(**angle.prediction(method)), true)
        for method in ("network", STRONG["angle"])
    ]
    result.append(Row("angle, 68 % of events", "°", *(float(np.quantile(a, 0.68)) for a in opening)))
    return result


def report(evaluations: dict[str, Path]) -> str:
    """The tables of evaluations by name as Markdown."""
    lines: list[str] = []
    for sample, evaluation in evaluations.items():
        found, count = tables(evaluation)
        lines += [f"`{sample}`, {count} events:", "", "| | network | classical | ratio |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(row.cells) + " |" for row in rows(found)] + [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/reconstruction"))
    parser.add_argument("--only", choices=SAMPLES, action="append")
    parser.add_argument("--events", type=int, default=40_000, help="training events of each sample")
    parser.add_argument("--minutes", type=float, default=5.0, help="time to train on each sample")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], help="further training options")
    parser.add_argument("--of", type=Path, help="only the table of an evaluation, as demo/evaluation/signal")
    options = parser.parse_args()
    if options.of:
        print(report({str(options.of): options.of}))
        return
    samples = options.only or ["clean", "hard"]
    for sample in samples:
        make_data(options.folder / sample, SAMPLES[sample], options.events)
        train(options.folder / sample, options)
    text = report({sample: options.folder / sample / "evaluation" for sample in samples})
    (options.folder / "table.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()

"""`xec evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import ConfigError

if TYPE_CHECKING:
    from xectrain.evaluation.evaluate import Evaluation
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.sensors import SensorPredictor
    from xectrain.inference.sources import Part, Settings

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec evaluate runs/first

  xec evaluate runs/first shards/val --out report

  xec evaluate runs/first shards/flat shards/signal --out report --select fiducial --by run

  xec evaluate runs/first/checkpoint_last.pt shards/val --out report --sample 'deep=w > 10' --sample 'shallow=w < 2'

  xec evaluate runs/first shards/cex --out line --line 54.9 --group patch --cut 'gstatus < 2 and Angle > 170'

The folder receives report.html, metrics.json, and per dataset the tables predictions_TASK.parquet/.csv and the plots.
"""


@app.command(epilog=EPILOG)
def evaluate(
    model: Annotated[Path, Argument(help="Run folder, checkpoint or ONNX file.")],
    data: Annotated[
        list[Path] | None, Argument(help="Shard datasets, or ROOT files, with truth; none: the validation set.")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder to write; without data: RUN/artifacts.")] = None,
    select: Annotated[str | None, Option("--select", help="Only events that pass this expression.")] = None,
    sample: Annotated[list[str] | None, Option("--sample", help="A sub-sample, NAME=EXPRESSION; repeat.")] = None,
    by: Annotated[list[str] | None, Option("--by", help="A column to bin resolutions in; repeat.")] = None,
    baselines: Annotated[bool, Option(help="Compare with the classical methods.")] = True,
    baseline_data: Annotated[
        Path | None, Option("--baseline-data", help="Dataset to calibrate them on; default: the training data.")
    ] = None,
    baseline_events: Annotated[int, Option("--baseline-events", help="Events to calibrate on.", min=200)] = 20_000,
    max_events: Annotated[
        int, Option("--max-events", help="Pre-training and inpainting: events to look at.", min=1)
    ] = 1000,
    line: Annotated[
        float | None, Option("--line", help="Study this energy line [MeV] instead: peak and width per --group.")
    ] = None,
    group: Annotated[str | None, Option("--group", help="Line: the column that makes groups (patch, run).")] = None,
    cut: Annotated[str | None, Option("--cut", help="Line: the same as --select.")] = None,
    shape: Annotated[str, Option("--shape", help="Line: expgauss, double or single.")] = "expgauss",
    inpainter: Annotated[Path | None, Option("--inpainter", help="Line: also fill dead sensors by this model.")] = None,
    schema: Annotated[str, Option("--schema", help="Meaning of ROOT branches: mc, real, cex, a file.")] = "mc",
    batch_size: Annotated[int | None, Option("--batch-size", help="Events per forward pass.", min=1)] = None,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, Option("--precision", help="auto, fp32 or bf16.")] = "auto",
    normalization: Annotated[
        str | None, Option("--normalization", help="Input of an ONNX file from elsewhere: standard, sqrt or legacy.")
    ] = None,
    backend: Annotated[str, Option("--backend", help="Reader of shards: auto, dali or webdataset.")] = "auto",
) -> None:
    """Metrics with uncertainties, plots and a report: the network against classical methods on the same events."""
    from xectrain.evaluation.evaluate import Options
    from xectrain.evaluation.evaluate import evaluate as run
    from xectrain.evaluation.own_metrics import evaluate_own
    from xectrain.inference.load import load
    from xectrain.inference.regressor import Predictor, TorchPredictor
    from xectrain.inference.sensors import SensorPredictor
    from xectrain.inference.sources import Settings, open_parts

    if not data:
        from xectrain.evaluation.artifacts import write_artifacts

        typer.echo(f"Wrote predictions, plots, insight, report and card to {write_artifacts(model, folder=out)}.")
        return
    if out is None:
        raise ConfigError("where to write is not said", item="--out")
    parts = open_parts(data, schema)
    predictor = load(model, device=device, precision=precision, batch_size=batch_size, normalization=normalization)
    if isinstance(predictor, SensorPredictor):
        _sensors(predictor, parts, out, Settings(select, None, backend), max_events)
        return
    if line is not None and isinstance(predictor, Predictor):
        study = _Study(line, group, shape, " and ".join(f"({c})" for c in (select, cut) if c) or None)
        _line(predictor, parts, out, study, baseline_data if baselines else None, inpainter)
        return
    if not isinstance(predictor, Predictor):
        raise ConfigError("cannot be evaluated from ONNX", file=model, remedy="give the run folder")
    if isinstance(predictor, TorchPredictor) and not predictor.facts.tasks:
        for name, metrics in evaluate_own(predictor, parts, out, Settings(select, None, backend)).items():
            typer.echo(f"{name}: " + ", ".join(f"{metric} {value:.6g}" for metric, value in metrics.items()))
        typer.echo(f"Wrote {out / 'metrics.json'}.")
        return
    options = Options(
        settings=Settings(select, None, backend),
        samples=_samples(sample or []),
        by=tuple(by or ()),
        baselines=baselines,
        baseline_data=baseline_data,
        baseline_events=baseline_events,
    )
    found = run(predictor, parts, out, options)
    if found is None:
        typer.echo(f"Nothing to do: the same evaluation is already in {out}.")
        return
    _table(found)
    typer.echo(
        f"Wrote {out / 'report.html'} with metrics, tables and plots of {', '.join(d.name for d in found.data)}."
    )


@dataclass(frozen=True)
class _Study:
    energy: float
    group: str | None
    shape: str
    cut: str | None


def _line(
    predictor: Predictor, parts: list[Part], out: Path, study: _Study, calibration: Path | None, inpainter: Path | None
) -> None:
    """`--line`."""
    from xectrain.evaluation.classical import calibrated_baselines
    from xectrain.evaluation.energy_line import Line, study_line
    from xectrain.evaluation.report import compact_number
    from xectrain.inference.load import load
    from xectrain.inference.sensors import Filler
    from xectrain.inference.sources import Settings

    filler = None if inpainter is None else load(inpainter, device=predictor.device)
    if filler is not None and not isinstance(filler, Filler):
        raise ConfigError("fills no sensors", file=inpainter, found=filler.facts.mode, expected="inpaint")
    baselines = calibrated_baselines(predictor.facts, calibration)
    line = Line(study.energy, study.group, study.shape)
    for result in study_line(predictor, parts, line, out, Settings(study.cut), baselines, filler):
        fit = result.together
        told = "no fit" if fit is None else f"σ {compact_number(fit.sigma, fit.sigma_error)} MeV, {fit.events} events"
        typer.echo(f"{result.name:<28} {len(result.groups)} groups fitted; together: {told}")
    typer.echo(f"Wrote line.json and line.pdf to {out}.")


def _sensors(model: SensorPredictor, parts: list[Part], out: Path, settings: Settings, max_events: int) -> None:
    """Modes that predict sensors."""
    from xectrain.cli.compare import print_sensors
    from xectrain.evaluation.sensors import evaluate_sensors

    print_sensors(evaluate_sensors({"network": model}, parts, out, settings, max_events))
    typer.echo(f"Wrote metrics.json, the table of hidden sensors and its plots to {out}.")


def _samples(given: list[str]) -> dict[str, str]:
    samples = {}
    for text in given:
        name, equals, expression = text.partition("=")
        if not equals or not name.strip() or not expression.strip():
            raise ConfigError("is not NAME=EXPRESSION", item="--sample", found=text)
        samples[name.strip()] = expression.strip()
    return samples


def _table(evaluation: Evaluation) -> None:
    """Network, strong rival, a simple method and the mean, the datasets side by side, one row per headline number."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.baselines import MEAN, STRONG
    from xectrain.evaluation.report import compact, headline_label
    from xectrain.evaluation.tables import NETWORK
    from xectrain.metrics import HEADLINE

    simple = {"energy": "photon_sum", "timing": "mean_time"}
    table = Table(title=f"{evaluation.facts.file.parent.name}: network against classical methods", title_justify="left")
    table.add_column("")
    samples = [next((s for s in d.samples if s.name == "fiducial"), d.samples[0]) for d in evaluation.data]
    for data, sample in zip(evaluation.data, samples, strict=True):
        table.add_column(f"{data.name}\n{sample.name}\nnetwork", justify="right", style="bold")
        for head in ("strong", "simple", "mean"):
            table.add_column(f"\n\n{head}", justify="right")
    for task in evaluation.facts.tasks:
        for name in HEADLINE[task]:
            cells, unit = [], ""
            for sample in samples:
                methods = sample.metrics.get(task, {})
                for method in (NETWORK, STRONG[task], simple.get(task, "light_weighted"), MEAN):
                    found = methods.get(method)
                    cells.append(compact(found[name]) if found is not None and name in found else "")
                    unit = found[name].unit if found is not None and name in found else unit
            if any(cells):
                table.add_row(f"{task} {headline_label(name)} ({unit})".replace(" ()", ""), *cells)
        table.add_section()
    console = Console()
    if not console.is_terminal:
        console = Console(width=40 + 56 * len(samples))
    console.print(table)
    typer.echo(
        "strong: per-face energy weights, corrected local fit, light-path time; simple: photon sum, light-weighted"
    )
    typer.echo("position, mean time; mean: of the training set. Brackets: bootstrap uncertainty of the last digits.")

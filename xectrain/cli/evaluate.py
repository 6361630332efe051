"""`xec evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import ConfigError, counted
from xectrain.cli import options as o

if TYPE_CHECKING:
    from xectrain.evaluation.results import Evaluation, EvaluationOptions
    from xectrain.inference.model import Model
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.sensors import SensorPredictor
    from xectrain.inference.sources import Part

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec evaluate runs/first

  xec evaluate runs/first shards/val --out report

  xec evaluate runs/first shards/flat shards/signal --out report --select fiducial --by run

  xec evaluate runs/first/checkpoint_last.pt shards/val --out report --sample 'deep=w > 10' --sample 'shallow=w < 2'

  xec evaluate runs/inpaint shards/val --out report --masks random:0.1 --max-events 500

Writes report.html, metrics.json, and for each dataset the tables predictions_*.parquet and the plots to the folder.
Without data, the run is evaluated on its validation set, into RUN/artifacts. See also `xec lines` and `xec dead`.
"""
REGRESSION = ("sample", "by", "baselines", "baseline_data", "baseline_events", "toy_limit")
SENSORS = ("max_events", "masks")


@app.command(epilog=EPILOG)
def evaluate(
    context: typer.Context,
    model: o.ModelFile,
    data: Annotated[
        list[Path] | None, Argument(help="Shard datasets or ROOT files with truth (default: the validation set).")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder to write to (without data: RUN/artifacts).")] = None,
    select: o.Select = None,
    sample: Annotated[list[str] | None, Option("--sample", help="A sub-sample, NAME=EXPRESSION; repeatable.")] = None,
    by: Annotated[list[str] | None, Option("--by", help="A column to bin resolutions in; repeatable.")] = None,
    baselines: o.UseBaselines = True,
    baseline_data: o.BaselineData = None,
    baseline_events: o.BaselineEvents = 20_000,
    toy_limit: Annotated[
        bool, Option("--toy-limit", help="Toy data: also show what the best linear estimator attains.")
    ] = False,
    max_events: o.MaxEvents = 1000,
    masks: o.Masks = None,
    schema: o.Schema = "mc",
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    normalization: o.InputNormalization = None,
    backend: o.Backend = "auto",
    check: o.Check = False,
    line: Annotated[float | None, Option("--line", hidden=True)] = None,
) -> None:
    """Evaluate a model beside classical methods on the same events: metrics with uncertainties, plots and a report."""
    from xectrain.evaluation.results import EvaluationOptions
    from xectrain.inference.load import load
    from xectrain.inference.sensors import SensorPredictor
    from xectrain.inference.sources import ReadOptions, open_parts

    if line is not None:
        remedy = f"xec lines {model} DATA --energy {line:g} --out DIR"
        raise ConfigError("line studies have a command of their own", item="--line", remedy=remedy)
    samples = _samples(sample or [])
    if not data:
        o.refuse(context, ("schema",), "to the validation set, which is a shard dataset")
    elif out is None:
        raise ConfigError("is required when data are given", item="--out", remedy="name the folder to write to")
    if out is not None:
        o.refuse_inputs(out, [model], data or ())
    if not baselines:
        o.refuse(context, ("baseline_data", "baseline_events"), "with --no-baselines")
    device = "cpu" if check else device
    loaded = load(model, device=device, precision=precision, batch_size=batch_size, normalization=normalization)
    predictor = _suited(loaded, context)
    options = EvaluationOptions(
        ReadOptions(select, None, backend),
        samples,
        tuple(by or ()),
        baselines,
        baseline_data,
        baseline_events,
        toy_limit=toy_limit,
    )
    if check:
        _say_checked(predictor, options, open_parts(data, schema) if data else None)
        return
    if masks is not None and isinstance(predictor, SensorPredictor):
        predictor.hide_by(masks)
    if not data:
        from xectrain.evaluation.artifacts import write_artifacts  # with matplotlib, a third of the start

        place = write_artifacts(predictor, folder=out, options=options, max_events=max_events)
        typer.echo(f"Wrote report, predictions, plots and card to {place}.")
        return
    assert out is not None
    _evaluate(predictor, open_parts(data, schema), out, options, max_events)


def _suited(model: Predictor | SensorPredictor, context: typer.Context) -> Predictor | SensorPredictor:
    """The model, if it can be evaluated with the options that were given."""
    from xectrain.inference.regressor import Predictor, TorchPredictor

    if isinstance(model, Predictor):
        o.refuse(context, SENSORS, "to a regressor, for which no sensors are hidden")
        if not model.facts.tasks and not isinstance(model, TorchPredictor):
            problem = "was exported from a mode that learns no task and has metrics of its own"
            raise ConfigError(problem, file=model.facts.file, remedy="give the run folder")
    else:
        o.refuse(context, REGRESSION, "to a model that predicts sensors")
    return model


def _evaluate(
    model: Predictor | SensorPredictor,
    parts: Sequence[Part],
    out: Path,
    options: EvaluationOptions,
    max_events: int,
) -> None:
    """Evaluate a model on given data, according to what it predicts: sensors, quantities of its own, or tasks."""
    from xectrain.cli.compare import print_sensors
    from xectrain.evaluation.evaluate import evaluate
    from xectrain.evaluation.own_metrics import evaluate_own
    from xectrain.evaluation.sensors import evaluate_sensors
    from xectrain.inference.regressor import TorchPredictor
    from xectrain.inference.sensors import SensorPredictor

    if isinstance(model, SensorPredictor):
        print_sensors(evaluate_sensors({"network": model}, parts, out, options.settings, max_events))
        typer.echo(f"Wrote {out / 'report.html'} with metrics, the table of hidden sensors and its plots.")
        return
    if isinstance(model, TorchPredictor) and not model.facts.tasks:
        for name, metrics in evaluate_own(model, parts, out, options.settings).items():
            typer.echo(f"{name}: " + ", ".join(f"{metric} {value:.6g}" for metric, value in metrics.items()))
        typer.echo(f"Wrote {out / 'metrics.json'}.")
        return
    found = evaluate(model, parts, out, options)
    if found is None:
        typer.echo(f"Nothing to do: the same evaluation is already in {out}.")
        return
    _table(found)
    names = ", ".join(data.name for data in found.data)
    typer.echo(f"Wrote {out / 'report.html'} with metrics, tables and plots of {names}.")


def _say_checked(model: Model, options: EvaluationOptions, given: Sequence[Part] | None) -> None:
    """Open what an evaluation would read, and check that the selections can be applied to it.

    Args:
        given: the data; None: the validation set.
    """
    from shards.opening import open_dataset
    from xectrain.inference.infer import check as check_request
    from xectrain.inference.request import Request
    from xectrain.inference.sources import check_selection

    parts = given
    if parts is None:
        from xectrain.evaluation.artifacts import validation_parts  # with matplotlib

        parts = validation_parts(model.facts)
    check_request(model, parts, Request(options.settings))
    for expression in options.samples.values():
        check_selection(parts, expression)
    if options.baseline_data is not None:
        open_dataset(options.baseline_data)
    typer.echo(f"{counted(sum(part.events for part in parts), 'event')} to evaluate {model.facts.file} on")


def _samples(given: list[str]) -> dict[str, str]:
    samples = {}
    for text in given:
        name, equals, expression = text.partition("=")
        if not equals or not name.strip() or not expression.strip():
            raise ConfigError("is not NAME=EXPRESSION", item="--sample", found=text)
        samples[name.strip()] = expression.strip()
    return samples


def _table(evaluation: Evaluation) -> None:
    """Network, strong rival, a simple method and the mean, datasets side by side, one row per headline number."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.baselines import MEAN
    from xectrain.evaluation.tables import NETWORK
    from xectrain.evaluation.wording import compact, digits, headline_label
    from xectrain.tasks import TASKS

    table = Table(title=f"{evaluation.facts.file.parent.name}: network against classical methods", title_justify="left")
    table.add_column("")
    samples = [d.shown for d in evaluation.data]
    for data, sample in zip(evaluation.data, samples, strict=True):
        table.add_column(f"{data.name}\n{sample.name}\nnetwork", justify="right", style="bold")
        for head in ("strong", "simple", "mean", *(("best linear",) if sample.limits else ())):
            table.add_column(f"\n\n{head}", justify="right")
    for task in evaluation.facts.tasks:
        for name in TASKS[task].headline:
            cells, unit = [], ""
            for sample in samples:
                methods = sample.metrics.get(task, {})
                for method in (NETWORK, TASKS[task].strong, TASKS[task].simple, MEAN):
                    found = methods.get(method)
                    cells.append(compact(found[name]) if found is not None and name in found else "")
                    unit = found[name].unit if found is not None and name in found else unit
                if sample.limits:
                    cells.append(digits(sample.limits[name]) if name in sample.limits else "")
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
    typer.echo(
        "position, mean time; mean: that of the training set. In brackets: bootstrap uncertainty of the last digits."
    )

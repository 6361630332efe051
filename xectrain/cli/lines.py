"""`xec lines`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from shards.base import ConfigError
from xectrain.cli import options as o

if TYPE_CHECKING:
    from pathlib import Path

    from xectrain.inference.model import Model
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.sensors import SensorPredictor

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec lines runs/first shards/cex --energy 54.9 --out line --group patch --select 'gstatus < 2 and Angle > 170'

  xec lines runs/first cex.root --schema cex --energy 54.9 --out line --inpainter runs/inpaint --shape expgauss

Writes report.html, line.json, line.pdf and a table with one row per event, line_events.parquet and .csv, to the folder.
"""


@app.command(epilog=EPILOG)
def lines(
    context: typer.Context,
    model: o.ModelFile,
    data: o.Inputs,
    out: o.Out,
    energy: Annotated[float, Option("--energy", help="Energy of the line [MeV].", min=0.1)],
    group: Annotated[str | None, Option("--group", help="Column to group events by (e.g. patch, run).")] = None,
    select: o.Cut = None,
    shape: Annotated[str, Option("--shape", help="Shape of the peak: double, expgauss or single.")] = "double",
    inpainter: o.Inpainter = None,
    baselines: o.UseBaselines = True,
    baseline_data: o.BaselineData = None,
    baseline_events: o.BaselineEvents = 20_000,
    schema: o.Schema = "mc",
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    normalization: o.InputNormalization = None,
    backend: o.Backend = "auto",
) -> None:
    """Fit peak and width of a line of known energy, per group of events, for the network and its rivals."""
    from xectrain.evaluation.classical import calibrated_baselines
    from xectrain.evaluation.lines import study_line
    from xectrain.evaluation.results import Line
    from xectrain.evaluation.wording import compact_number, fit_quality
    from xectrain.inference.load import load
    from xectrain.inference.sources import ReadOptions, open_parts

    if not baselines:
        o.refuse(context, ("baseline_data", "baseline_events"), "with --no-baselines")
    o.refuse_inputs(out, [model], data)
    loaded = load(model, device=device, precision=precision, batch_size=batch_size, normalization=normalization)
    predictor = energy_predictor(loaded, model)
    parts = open_parts(data, schema)
    filler = None if inpainter is None else load_filler(inpainter, predictor.device)
    calibrated = calibrated_baselines(predictor.facts, baseline_data, baseline_events) if baselines else None
    settings = ReadOptions(select, None, backend)
    study = study_line(predictor, parts, Line(energy, group, shape), out, settings, calibrated, filler)
    for result in study.results:
        fit = result.together
        told = "no fit"
        if fit is not None:
            width = compact_number(fit.sigma, fit.sigma_error)
            told = f"σ {width} MeV, {fit.events} events, χ² / ndf {fit_quality(fit)}"
        peak = (
            "" if result.as_is is None else f"peak {compact_number(result.as_is.mean, result.as_is.mean_error)} MeV, "
        )
        typer.echo(f"{result.name:<28} {peak}{len(result.groups)} groups fitted; together: {told}")
    typer.echo(f"Wrote {out / 'report.html'} with line.json, line.pdf and the table line_events.")


def energy_predictor(model: Model, path: Path) -> Predictor:
    """The model, if it is in a mode that predicts energies.

    Raises:
        ConfigError: it is not.
    """
    from xectrain.inference.regressor import Predictor

    if not isinstance(model, Predictor):
        raise ConfigError("does not predict energies", file=path, found=model.facts.mode, expected="a regressor")
    return model


def load_filler(path: Path, device: str) -> SensorPredictor:
    """A model that fills dead sensors.

    Raises:
        ConfigError: it does not.
    """
    from xectrain.inference.load import load
    from xectrain.inference.sensors import SensorPredictor

    filler = load(path, device=device)
    if not isinstance(filler, SensorPredictor):
        raise ConfigError("does not fill sensors", file=path, found=filler.facts.mode, expected="inpaint")
    return filler

"""`xec dead`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from shards.base import ConfigError, counted
from xectrain.cli import options as o

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec dead runs/first shards/val --out dead --dead-fraction 0.03

  xec dead runs/first shards/val --out dead --dead dead.csv --strategy neighbours,solid-angle,inpaint:runs/inpaint

Strategies: neighbours (mean of the ring), solid-angle (ring, weighted), near (within 20 cm), local-fit, inpaint:RUN.
The network with the sensors missing (raw) and with none missing is always shown. Writes report.html, dead.json, plots,
and a table with one row per event, dead_events.parquet and .csv, to the folder.
"""


@app.command(epilog=EPILOG)
def dead(
    model: o.ModelFile,
    data: o.Inputs,
    out: o.Out,
    dead: o.Dead = None,
    dead_fraction: Annotated[
        float | None,
        Option(
            "--dead-fraction",
            help="Fraction of the sensors to remove, different ones in each event.",
            min=1e-4,
            max=0.9,
        ),
    ] = None,
    strategy: Annotated[
        str, Option("--strategy", help="Ways to fill them, comma-separated.")
    ] = "neighbours,solid-angle",
    max_events: Annotated[int, Option("--max-events", help="Events to use, of all data together.", min=1)] = 4000,
    select: o.Select = None,
    schema: o.Schema = "mc",
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    normalization: o.InputNormalization = None,
    backend: o.Backend = "auto",
) -> None:
    """Measure what dead channels cost a regressor, and what filling them recovers."""
    from shards.dead import read_dead
    from xectrain.cli.lines import load_filler
    from xectrain.evaluation.dead_channels import RAW, WHOLE, DeadOptions, strategy_label, study_dead
    from xectrain.evaluation.dead_channels import strategy as named
    from xectrain.evaluation.wording import compact, digits, headline_label
    from xectrain.inference.load import load
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.sources import ReadOptions, open_parts
    from xectrain.tasks import QUANTITIES, TASKS

    if (dead is None) == (dead_fraction is None):
        raise ConfigError(
            "one choice of dead sensors is needed", remedy="give either --dead FILE or --dead-fraction FRACTION"
        )
    wanted = [name.strip() for name in strategy.split(",") if name.strip() and name.strip() != RAW]
    o.refuse_inputs(out, [model], data)
    predictor = load(model, device=device, precision=precision, batch_size=batch_size, normalization=normalization)
    if not isinstance(predictor, Predictor):
        raise ConfigError(
            "is not a regressor", file=model, found=predictor.facts.mode, remedy="name it as --strategy inpaint:RUN"
        )
    fillers = {
        name: load_filler(Path(name.removeprefix("inpaint:")), predictor.device)
        for name in wanted
        if name.startswith("inpaint:")
    }
    strategies = {name: named(name, fillers) for name in wanted}
    options = DeadOptions(fraction=dead_fraction or 0.0)
    if dead is not None:
        listed = read_dead(dead[0])
        for file in dead[1:]:
            listed |= read_dead(file)
        options = DeadOptions(listed)
    settings = ReadOptions(select, None, backend)
    study = study_dead(predictor, open_parts(data, schema), out, strategies, options, settings, max_events)
    events = counted(study.events, "event")
    typer.echo(f"{events}, {study.missing:.0f} sensors and {100 * study.lost:.2f} % of the light removed")
    for task, shifts in study.shifts.items():
        for column in shifts[RAW]:
            cells = (f"{strategy_label(m)} {digits(shifts[m][column])}" for m in shifts)
            typer.echo(f"{task} {column}, 68 % of the shift ({QUANTITIES[column].unit}): {', '.join(cells)}")
    for task, methods in study.metrics.items():
        for name in (n for n in TASKS[task].headline if n in methods[WHOLE]):
            cells = (f"{strategy_label(m)} {compact(methods[m][name])}" for m in study.methods)
            typer.echo(f"{task} {headline_label(name)} ({methods[WHOLE][name].unit}): {', '.join(cells)}")
    typer.echo(f"Wrote {out / 'report.html'} with tables, plots, dead.json and the table dead_events.")

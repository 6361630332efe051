"""`xec compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from shards.base import ConfigError, counted
from xectrain.cli import options as o
from xectrain.cli.compare_runs import EPILOG as RUNS_EPILOG
from xectrain.cli.compare_runs import runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xectrain.evaluation.results import SensorResult
    from xectrain.inference.sensors import SensorPredictor


class _Compare(TyperGroup):
    """`xec compare runs …`; anything else is for `inpainters`, whose name may be left out."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:  # type: ignore[override]
        named = bool(args) and args[0] in self.commands
        return super().resolve_command(ctx, args if named else ["inpainters", *args])


app = typer.Typer(
    cls=_Compare,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)

EPILOG = """
Examples:

  xec compare runs runs/scan/* --metric val/energy_res_68pct --out comparison

  xec compare runs/inpaint_a runs/inpaint_b --data shards/val --out comparison

  xec compare runs/inpaint_a --data run430000.root --schema real --masks fixed:5 --max-events 500 --out comparison

Every model and every classical filling predicts the same hidden sensors: those of --masks, or those hidden in the first
model's validation. In real data they are hidden in addition to the dead ones.
"""


@app.callback(epilog=EPILOG)
def _compare() -> None:
    """Rank runs by a metric, or compare inpainters on the same hidden sensors."""


app.command("runs", epilog=RUNS_EPILOG)(runs)


@app.command(epilog=EPILOG)
def inpainters(
    models: Annotated[list[Path], Argument(help="Run folders, checkpoints or ONNX files.")],
    data: Annotated[list[Path], Option("--data", help="Shard dataset or ROOT file; repeatable.")],
    out: o.Out,
    select: o.Select = None,
    masks: o.Masks = None,
    max_events: o.MaxEvents = 1000,
    schema: o.Schema = "mc",
    device: o.Device = "auto",
) -> None:
    """Compare inpainters and the classical fillings on the same hidden sensors: per face, and by light."""
    from xectrain.evaluation.sensors import evaluate_sensors
    from xectrain.inference.sources import ReadOptions, open_parts

    o.refuse_inputs(out, models, data)
    loaded = {label: _sensor_model(path, device) for label, path in zip(_labels(models), models, strict=True)}
    first = next(iter(loaded.values()))
    if masks is not None:
        first.hide_by(masks)
    results = evaluate_sensors(loaded, open_parts(data, schema), out, ReadOptions(select), max_events)
    print_sensors(results)
    typer.echo(f"Wrote report.html, tables, plots and metrics.json of {counted(len(loaded), 'model')} to {out}.")


def _labels(models: list[Path]) -> list[str]:
    """Names of run folders, numbered where two are alike."""
    names: list[str] = []
    for path in models:
        base = path.name if path.is_dir() else path.parent.name
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def _sensor_model(path: Path, device: str) -> SensorPredictor:
    from xectrain.inference.load import load
    from xectrain.inference.sensors import SensorPredictor

    model = load(path, device=device)
    if not isinstance(model, SensorPredictor):
        raise ConfigError("does not predict sensors", file=path, found=model.facts.mode, expected="mae or inpaint")
    return model


def print_sensors(results: Sequence[SensorResult]) -> None:
    """Per part: every method's errors over all hidden sensors."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.evaluation.sensors import HEADS
    from xectrain.evaluation.wording import compact
    from xectrain.metrics.sensors import UNITS

    for result in results:
        title = f"{result.name}: {len(result.rows['event_idx'])} hidden sensors of {counted(result.events, 'event')}"
        table = Table(title=title, title_justify="left")
        table.add_column("method")
        for head in HEADS.values():
            table.add_column(head, justify="right")
        for method, metrics in result.metrics.items():
            found = {m.name: m for m in metrics}
            for channel, unit in UNITS.items():
                if f"bias_all_{channel}" in found:
                    cells = (compact(found[f"{name}_all_{channel}"]) for name in HEADS)
                    table.add_row(f"{method}, {channel} ({unit})", *cells)
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(table)

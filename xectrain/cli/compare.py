"""`xec compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xectrain.evaluation.sensors import SensorResult
    from xectrain.inference.sensors import SensorPredictor

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec compare --inpaint runs/inpaint_a runs/inpaint_b --data shards/val --out comparison

  xec compare --inpaint runs/inpaint_a --data run430000.root --schema real --max-events 500 --out comparison

Every model and every classical filling predicts the same hidden sensors: those that the first model's validation hides.
"""


@app.command(epilog=EPILOG)
def compare(
    models: Annotated[list[Path], Argument(help="Run folders or checkpoints.")],
    data: Annotated[list[Path], Option("--data", help="Shard dataset or ROOT file; repeat.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder to write.")],
    inpaint: Annotated[bool, Option("--inpaint", help="Compare what they put at hidden sensors.")] = True,
    select: Annotated[str | None, Option("--select", help="Only events that pass this expression.")] = None,
    max_events: Annotated[int, Option("--max-events", help="Events of each dataset.", min=1)] = 1000,
    schema: Annotated[str, Option("--schema", help="Meaning of ROOT branches: mc, real, cex, a file.")] = "mc",
    device: Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Several inpainters and the classical fillings on the same hidden sensors: per face, against the light."""
    from xectrain.evaluation.sensors import evaluate_sensors
    from xectrain.inference.sources import Settings, open_parts

    if not inpaint:
        raise ConfigError("there is nothing else to compare yet", item="--inpaint", remedy="use `xec evaluate`")
    loaded = {label: _sensor_model(path, device) for label, path in zip(_labels(models), models, strict=True)}
    results = evaluate_sensors(loaded, open_parts(data, schema), out, Settings(select), max_events)
    print_sensors(results)
    typer.echo(f"Wrote tables, plots and metrics.json of {len(loaded)} models to {out}.")


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
        raise ConfigError("predicts no sensors", file=path, found=model.facts.mode, expected="mae or inpaint")
    return model


def print_sensors(results: Sequence[SensorResult]) -> None:
    """Per part: every method's errors over all hidden sensors."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.evaluation.report import compact
    from xectrain.metrics.sensors import UNITS

    for result in results:
        title = f"{result.name}: {len(result.rows['event_idx'])} hidden sensors of {result.events} events"
        table = Table(title=title, title_justify="left")
        table.add_column("method")
        heads = {
            "bias": "bias",
            "median": "median",
            "mae": "MAE",
            "res_68pct": "68 %",
            "res_95pct": "95 %",
            "rmse": "RMSE",
        }
        for head in heads.values():
            table.add_column(head, justify="right")
        for method, metrics in result.metrics.items():
            found = {m.name: m for m in metrics}
            for channel, unit in UNITS.items():
                if f"bias_all_{channel}" in found:
                    cells = (compact(found[f"{name}_all_{channel}"]) for name in heads)
                    table.add_row(f"{method}, {channel} ({unit})", *cells)
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(table)

"""`xec model`: inspect networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

app = typer.Typer(add_completion=False, no_args_is_help=True)

EPILOG = """
Examples:

  xec model describe --preset reference

  xec model describe runs/first

  xec model describe --mode inpaint --set model.inpainter.head=cross_attention
"""


@app.callback()
def _model() -> None:
    """Inspect networks."""


@app.command(epilog=EPILOG)
def describe(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder or checkpoint (default: what the options describe).")
    ] = None,
    mode: Annotated[str | None, Option("--mode", "-m", help="regress (default), mae or inpaint.")] = None,
    config: Annotated[list[Path] | None, Option("--config", "-c", help="YAML file as for `xec train`.")] = None,
    preset: Annotated[str | None, Option("--preset", help="small (default), large, reference or tiny.")] = None,
    assignments: Annotated[list[str] | None, Option("--set", help="key.path=value; overrides all else.")] = None,
) -> None:
    """List the parts of a network with parameters and FLOPs per event, and its tokens."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.config.files import validate
    from xectrain.modes import load_config
    from xectrain.modes.describe import describe_network

    if run is not None:
        from xectrain.checkpoint import find_checkpoint, read_checkpoint

        settings = validate(read_checkpoint(find_checkpoint(run))["config"])
    else:
        options = {"mode": mode} if mode else {}
        named = {"model": {"preset": preset}} if preset else {}
        settings = load_config(config or [], assignments or [], {**options, **named})
    found = describe_network(settings.resolved(gpu=True))
    table = Table("part", "parameters", "MFLOP/event", box=None)
    for part in found.parts:
        table.add_row("  " * part.depth + part.name, f"{part.parameters:,}", f"{part.flops / 1e6:,.1f}")
    console = Console()
    console.print(table)
    console.print(f"{len(found.tokens)} tokens of {found.width}: {', '.join(found.tokens)}", highlight=False)

"""`xec track`: the MLflow mirror of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)

EPILOG = """
Examples:

  xec track sync runs/first

  mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1
"""


@app.callback(epilog=EPILOG)
def _track() -> None:
    """Bring runs to MLflow. The run folder is the truth; MLflow mirrors it."""


@app.command(epilog=EPILOG)
def sync(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    uri: Annotated[str | None, typer.Option("--uri", help="MLflow store; default: the run's own.")] = None,
) -> None:
    """Send everything in a run's metrics.jsonl to MLflow; doing it twice changes nothing."""
    from xectrain.checkpoint import newest_valid
    from xectrain.modes import load_config
    from xectrain.training.runfolder import RunFolder
    from xectrain.training.tracking import sync as send
    from xectrain.training.tracking import tracking_uri

    folder = RunFolder(run)
    options = {"tracking": {"mlflow": True, **({"uri": uri} if uri else {})}}
    config = load_config([folder.config], options=options)
    found = newest_valid(run)
    count = send(folder, config, found[1]["tracking_run_id"] if found else None)
    typer.echo(f"{run}: {count} records are in {tracking_uri(config, run)}")

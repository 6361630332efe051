"""`xec track`: the MLflow mirror of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shards.base import InputError, counted

app = typer.Typer(add_completion=False, no_args_is_help=True)

EPILOG = """
Examples:

  xec track sync runs/first

  xec track collect runs/scan

  mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1
"""


@app.callback(epilog=EPILOG)
def _track() -> None:
    """Send runs to MLflow. The run folder is the original; MLflow mirrors it."""


@app.command(epilog=EPILOG)
def sync(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    uri: Annotated[str | None, typer.Option("--uri", help="MLflow store (default: the run's own).")] = None,
) -> None:
    """Send everything in a run's metrics.jsonl to MLflow; doing so again changes nothing."""
    count, where = _send(run, uri)
    typer.echo(f"{run}: sent {counted(count, 'record')} to {where}")


@app.command(epilog=EPILOG)
def collect(
    folder: Annotated[Path, typer.Argument(help="Folder of run folders, e.g. a scan.")],
    uri: Annotated[str | None, typer.Option("--uri", help="MLflow store (default: FOLDER/mlflow.db).")] = None,
) -> None:
    """Send all runs of a folder to one MLflow store, one after the other; doing so again changes nothing.

    Each job of a scan has its own database, because many writers on one SQLite file lock each other out.
    """
    store = uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    runs = sorted(path.parent for path in folder.glob("*/config.yaml") if (path.parent / "metrics.jsonl").exists())
    if not runs:
        raise InputError("holds no runs", file=folder, expected="run folders of `xec train`")
    total = sum(_send(run, store)[0] for run in runs)
    typer.echo(f"{folder}: sent {counted(total, 'record')} of {counted(len(runs), 'run')} to {store}")


def _send(run: Path, uri: str | None) -> tuple[int, str]:
    """Send a run; the number of records, and the store.

    Raises:
        OutputError: MLflow did not accept it.
    """
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
    return count, tracking_uri(config, run)

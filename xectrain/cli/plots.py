"""`xec plots`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from shards.base import InputError, counted

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec plots report

  xec plots runs/first

  xec plots report --by run --select 'true_w > 10' --out deep

Uses the tables predictions_TASK.parquet and the metrics.jsonl found in the folder; no model is run.
"""


@app.command(epilog=EPILOG)
def plots(
    folder: Annotated[Path, Argument(help="Folder of an evaluation or a run; subfolders are searched, too.")],
    out: Annotated[Path | None, Option("--out", "-o", help="Folder to write to (default: beside each table).")] = None,
    by: Annotated[
        list[str] | None, Option("--by", help="A column of the tables to bin in; repeatable (default: as evaluated).")
    ] = None,
    select: Annotated[
        str | None, Option("--select", help="Use only rows that pass this expression on the tables' columns.")
    ] = None,
) -> None:
    """Redraw every plot from saved tables."""
    from xectrain.evaluation.plots import loss_curves, resolution_pages, save_pages
    from xectrain.evaluation.sensors import TABLE, redrawn
    from xectrain.evaluation.tables import read_table, selected_by

    tables, logs = sorted(folder.rglob("predictions_*.parquet")), sorted(folder.rglob("metrics.jsonl"))
    if not tables and not logs:
        raise InputError(
            "holds neither prediction tables nor a metrics.jsonl", file=folder, remedy="`xec evaluate` writes them"
        )
    written: list[Path] = []
    for path in tables:
        if path.name == TABLE:
            pages = redrawn(path, select)
        else:
            table = selected_by(read_table(path), select)
            columns = _grouped_by(path) if by is None else tuple(by)
            pages = resolution_pages(table, path.parent.name, columns) if table.has_truth else []
        if pages:
            place = path.parent if out is None else out / path.parent.relative_to(folder)
            written += save_pages(pages, place / f"{path.stem.replace('predictions', 'resolution')}.pdf")
    for path in logs:
        place = path.parent if out is None else out / path.parent.relative_to(folder)
        written += save_pages(loss_curves(path), place / "loss_curves.pdf")
    found = f"{counted(len(tables), 'table')} and {counted(len(logs), 'log')}"
    typer.echo(f"Wrote {counted(len(written), 'file')} of plots to {out or folder}, from {found} in {folder}.")


def _grouped_by(table: Path) -> tuple[str, ...]:
    """The columns that the evaluation which wrote a table was binned in (`--by`)."""
    from shards.base.documents import read_json

    for file in (table.parent / "metrics.json", table.parent.parent / "metrics.json"):
        if file.is_file():
            return tuple(read_json(file, "evaluation").get("request", {}).get("by", ()))
    return ()

"""`xec compare runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import counted, output_folder

if TYPE_CHECKING:
    from xectrain.evaluation.results import Comparison

EPILOG = """
Examples:

  xec compare runs runs/scan/* --metric val/energy_res_68pct --out comparison

  xec compare runs runs/a runs/b --metric energy_res_68pct --reports reports --out comparison

Writes report.html, comparison.json, and the curves as PDF and PNG to the folder.
"""


def runs(
    paths: Annotated[list[Path], Argument(help="Run folders of any mode.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder to write to.")],
    metric: Annotated[
        str, Option("--metric", help="A val/… metric of the training log, or a metric of an evaluation.")
    ] = "val/loss",
    largest: Annotated[bool, Option("--largest", help="Larger values are better.")] = False,
    reports: Annotated[
        Path | None, Option("--reports", help="Folder of evaluations named after the runs (default: RUN/artifacts).")
    ] = None,
) -> None:
    """Rank runs by a metric: runs that differ only in their seed are one setting, with their spread as its uncertainty.

    The difference to the best is taken seed by seed where settings share seeds, as the points of a scan do.
    """
    from xectrain.evaluation.runs import compare_runs, write_comparison

    output_folder(out, "comparison of runs", lambda path: (path / "comparison.json").exists(), paths)
    found = compare_runs([path for path in paths if path.is_dir()], metric, largest, reports)
    write_comparison(found, out)
    print_runs(found)
    runs = counted(sum(len(s.runs) for s in found.settings), "run")
    typer.echo(f"Wrote {out / 'report.html'} with comparison.json and the curves of {runs}.")


def print_runs(comparison: Comparison) -> None:
    """One line per setting, the best first."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.evaluation.runs import caveats, comparison_table

    made = comparison_table(comparison)
    table = Table(title=f"Runs by {comparison.metric}", title_justify="left")
    for head in made.heads:
        table.add_column(head, justify="left" if head == "setting" else "right")
    for row in made.rows:
        table.add_row(*row.cells)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    for sentence in caveats(comparison):
        typer.echo(sentence)

"""`xec compare runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import counted, output_folder

if TYPE_CHECKING:
    from xectrain.evaluation.results import Comparison

MOST_KEYS = 5
"""Keys that are named; of more only the number is told."""

EPILOG = """
Examples:

  xec compare runs runs/scan/* --metric val/energy_res_68pct --out comparison

  xec compare runs runs/a runs/b --metric energy_res_68pct --reports reports --out comparison
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
    typer.echo(f"Wrote comparison.json and the curves of {runs} to {out}.")


def print_runs(comparison: Comparison) -> None:
    """One line per setting, the best first."""
    from rich.console import Console
    from rich.table import Table

    from xectrain.evaluation.wording import compact_number

    def number(value: float, error: float | None) -> str:
        return f"{value:.4g}" if error is None else compact_number(value, error)

    table = Table(title=f"Runs by {comparison.metric}", title_justify="left")
    for head in ("", "setting", "runs", comparison.metric, "minus the best", "best epoch"):
        table.add_column(head, justify="left" if head == "setting" else "right")
    for rank, s in enumerate(comparison.settings, 1):
        behind = number(s.difference, s.difference_error) if rank > 1 else ""
        paired = f" ({s.pairs} pairs)" if s.pairs > 1 else ""
        epochs = ", ".join(f"{run.epoch}/{run.epochs}" for run in s.runs)
        table.add_row(str(rank), s.name, str(len(s.runs)), number(s.value, s.error), behind + paired, epochs)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    if comparison.differ:
        typer.echo(_warning(comparison))
    if all(s.error is None for s in comparison.settings):
        typer.echo("There are no uncertainties with one seed each: train several, or use a metric of an evaluation.")


def _warning(comparison: Comparison) -> str:
    """That the metric is not the same thing in all runs, why, and what to do."""
    keys = comparison.differ
    shown = ", ".join(keys[:MOST_KEYS]) + (f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else "")
    said = f"{comparison.metric} is not the same thing in all of these runs, which differ in {shown}: "
    one_loss = "loss" in comparison.metric and not any(key.startswith("data.") for key in keys)
    if one_loss and comparison.shared:
        usual = [name for name in comparison.shared if name.endswith(("68pct", "mae_all"))]
        return f"{said}rank them by what they share, such as --metric {(usual or comparison.shared)[0]}."
    return (
        f"{said}evaluate each on the same data (xec evaluate RUN DATA --out REPORTS/RUN) and rank by --reports REPORTS."
    )

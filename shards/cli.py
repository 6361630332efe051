"""`xec shards`: inspect, check and divide datasets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shards.base import CorruptError, counted, output_file

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inspect, check and divide datasets.",
)

Data = Annotated[Path, typer.Argument(help="Dataset folder (the one with manifest.json).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where the result goes.")]


class SplitBy(StrEnum):
    """What a split keeps together."""

    event = "event"
    run = "run"
    source = "source"


@app.command(epilog="Examples:  xec shards info data/train   |   xec shards info data/train --json")
def info(
    data: Data,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Describe a dataset: columns, sizes, normalization, bad values, and what float16 costs."""
    import json as json_module

    from shards.opening import open_dataset
    from shards.operations.describe import describe, sampled_rounding, summary

    dataset = open_dataset(data)
    report = sampled_rounding(dataset)
    if json:
        typer.echo(json_module.dumps(summary(dataset, report), indent=2, ensure_ascii=False))
    else:
        typer.echo(describe(dataset, report))


@app.command(epilog="Examples:  xec shards verify data/train   |   xec shards verify --full data/train data/val")
def verify(
    data: Annotated[list[Path], typer.Argument(help="Dataset folders.")],
    full: Annotated[bool, typer.Option("--full", help="Read every byte, not only sizes, indexes and headers.")] = False,
) -> None:
    """Check that datasets are as they were written; list everything that is not."""
    from shards.verify import verify as check

    damaged = 0
    for path in data:
        report = check(path, full)
        for problem in report.problems:
            typer.echo(f"{problem}")
        if report.ok:
            how = "every byte" if full else "sizes, indexes and a sample of headers; --full reads every byte"
            typer.echo(
                f"{path}: intact, {counted(report.events, 'event')} in {counted(report.shards, 'shard')} ({how})"
            )
        damaged += not report.ok
    if damaged:
        raise CorruptError(
            f"{damaged} of {counted(len(data), 'dataset')} damaged", remedy="restore the files listed, or convert again"
        )


@app.command(
    epilog="Examples:  xec shards select data/train 'abs(u) < 23.9 and w >= 0' --out view.json   |   "
    "xec shards select data/train 'fiducial and n_dead < 100'   |   xec train --data data/train --select view.json …"
)
def select(
    data: Data,
    expression: Annotated[
        str, typer.Argument(help="Condition on columns, e.g. 'fiducial and 0.05 < energy < 0.06'.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a view file, for use with --select.", show_default=False)
    ] = None,
) -> None:
    """Count the events that pass a condition; --out saves it as a view: an expression, not a copy of the data."""
    from shards.opening import open_dataset
    from shards.selection import SavedView

    if out is not None:
        output_file(out, "view file", SavedView.read)
    dataset = open_dataset(data)
    view = dataset.view(expression)
    share = 100 * view.count / max(len(dataset), 1)
    typer.echo(f"{view.count} of {counted(len(dataset), 'event')} ({share:.2f} %) pass {expression!r}")
    if out is not None:
        view.write(out)
        typer.echo(f"view written to {out}")


@app.command(
    epilog="Examples:  xec shards head data/train   |   xec shards head data/train -n 3 --columns run,event,n_dead"
)
def head(
    data: Data,
    events: Annotated[int, typer.Option("--events", "-n", min=0, help="Number of events.")] = 10,
    select: Annotated[str | None, typer.Option(help="Only events that pass this condition.")] = None,
    columns: Annotated[str | None, typer.Option(help="Comma-separated names (default: all but offsets).")] = None,
) -> None:
    """Print the columns of the first events."""
    import polars as pl

    from shards.opening import open_dataset
    from shards.sidecar import OFFSET_COLUMNS

    dataset = open_dataset(data)
    default = [name for name in dataset.table_columns if name not in OFFSET_COLUMNS]
    names = [name.strip() for name in columns.split(",")] if columns else default
    rows = dataset.rows(select)[:events]
    frame = dataset.table(names, rows)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=4000, fmt_str_lengths=60, tbl_hide_dataframe_shape=True):
        typer.echo(str(frame))
    typer.echo(f"{len(rows)} of {counted(len(dataset), 'event')} of {data}")


@app.command(epilog="Examples:  xec shards merge data/2021 data/2022 --out data/both")
def merge(
    data: Annotated[list[Path], typer.Argument(help="Dataset folders with equal settings.")],
    out: Out,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept events that share run and event number.")
    ] = False,
) -> None:
    """Merge datasets; the bytes are those that a single conversion of all their sources would have given."""
    from shards.operations.merge import merge as join

    manifest = join(data, out, allow_duplicates)
    events, shards = counted(manifest.n_events, "event"), counted(len(manifest.shards), "shard")
    typer.echo(f"{out} holds {events} of {counted(len(data), 'dataset')} in {shards}")


@app.command(epilog="Examples:  xec shards split data/all --into train=0.9,val=0.1 --by run --out data/parts")
def split(
    data: Data,
    out: Out,
    into: Annotated[
        str, typer.Option(metavar="NAME=FRACTION,…", help="Parts and their fractions.")
    ] = "train=0.9,val=0.1",
    by: Annotated[SplitBy, typer.Option(help="What to keep together.")] = SplitBy.run,
    seed: Annotated[int, typer.Option(help="Seed of the division.")] = 0,
) -> None:
    """Copy a dataset into one dataset per part, divided by a hash of each event, or by whole runs or sources."""
    from shards.operations.split import split as cut
    from shards.order import parse_split

    manifests = cut(data, out, parse_split(into), by.value, seed)
    parts = ", ".join(f"{name} {manifest.n_events}" for name, manifest in manifests.items())
    typer.echo(f"events of {data} are in the parts {parts} in {out}")

"""`xec compare-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from xectrain.cli import options as o

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec compare-data run430000.root --against shards/simulation --schema real --out comparison

  xec compare-data data/before --against data/after --events 5000 --out comparison

Writes report.html, comparison.json, comparison.pdf, and the features of each event, features_a and features_b
(.parquet, .csv), to the folder. No model is needed.
"""


@app.command(epilog=EPILOG)
def compare_data(
    data: Annotated[list[Path], Argument(help="Shard datasets or ROOT files.")],
    against: Annotated[list[Path], Option("--against", help="Data to compare them with; repeatable.")],
    out: o.Out,
    events: Annotated[int, Option("--events", "-n", help="Events to use of each.", min=20)] = 2000,
    select: o.Select = None,
    schema: o.Schema = "mc",
    against_schema: Annotated[
        str | None, Option("--against-schema", help="Schema of the ROOT files of --against (default: --schema).")
    ] = None,
    tree: o.Tree = None,
    backend: o.Backend = "auto",
) -> None:
    """Compare two sets of events: light, hit sensors and times per face, and what tells the sets apart."""
    from shards.normalization import preset
    from xectrain.evaluation.compare_data import compare_data as run
    from xectrain.inference.sources import ReadOptions, open_parts

    o.refuse_inputs(out, data, against)
    first, second = open_parts(data, schema, tree), open_parts(against, against_schema or schema, tree)
    found = run(first, second, out, ReadOptions(select, None, backend), preset("standard"), events)
    for test in found.tests[:8]:
        mark = "differs" if test.differs else "agrees"
        typer.echo(f"{test.name:<26} distance {test.distance:.3f}, chance {test.chance:.2g}: {mark}")
    differing = sum(test.differs for test in found.tests)
    typer.echo(f"{differing} of {len(found.tests)} features differ. Wrote {out / 'report.html'}.")

"""`xec channels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from xectrain.cli import options as o

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec channels shards/real --reference shards/simulation --out channels

  xec channels 'data/run43*.root' --schema real --reference shards/simulation --max-events 50000 --out channels

Writes report.html, channels.csv (run_first, run_last, sensor, response, error, state), channels.json and plots to the
folder. No model is needed. A reference, simulated events with similar light, corrects for the bias of the filling.
"""


@app.command(epilog=EPILOG)
def channels(
    data: o.Inputs,
    out: o.Out,
    reference: Annotated[
        list[Path] | None,
        Option("--reference", help="Events with well-calibrated channels (simulated ones); repeatable."),
    ] = None,
    max_events: Annotated[
        int, Option("--max-events", help="Events to use; of the reference, 3 times as many.", min=20)
    ] = 10_000,
    select: o.Select = None,
    schema: o.Schema = "mc",
    reference_schema: Annotated[
        str, Option("--reference-schema", help="Schema of the reference, if it is ROOT.")
    ] = "mc",
    tree: o.Tree = None,
    backend: o.Backend = "auto",
) -> None:
    """Measure the response of each channel by run from the data alone; find hot, weak, dead and drifting channels."""
    import numpy as np

    from shards.normalization import preset
    from xectrain.evaluation.channels import study_channels
    from xectrain.evaluation.results import CHANNEL_STATES
    from xectrain.inference.sources import ReadOptions, open_parts

    o.refuse_inputs(out, data, reference or ())
    parts = open_parts(data, schema, tree)
    right = open_parts(reference, reference_schema) if reference else []
    found = study_channels(parts, out, ReadOptions(select, None, backend), preset("standard"), right, max_events)
    for one in found:
        told = {state: one.state.count(state) for state in CHANNEL_STATES}
        words = ", ".join(f"{count} {state}" for state, count in told.items() if count) or "nothing remarkable"
        spread, error = 100 * np.nanstd(one.response), 100 * np.nanmedian(one.error)
        typer.echo(f"run {one.run}: {one.events} events, spread {spread:.2f} %, median error {error:.2f} %; {words}")
    typer.echo(f"Wrote {out / 'report.html'} with channels.csv, channels.json and plots.")

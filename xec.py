"""The `xec` command and its notebook twin.

On the command line every package brings one Typer app, imported when it is used. In a notebook the same things are
functions: `xec.open` a dataset, `xec.load` a model, `xec.display` an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shards.base.cli import LazyCommand, LazyGroup, run

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from shards.dataset import Dataset
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.sensors import SensorPredictor

__version__ = "0.1.0"
__all__ = ["app", "display", "load", "main", "open"]


class _Root(LazyGroup):
    commands_table = {  # noqa: RUF012
        "demo": LazyCommand("xectrain.cli.demo:app", "Run the whole chain on toy data, in minutes."),
        "toymc": LazyCommand("ingest.toymc.cli:app", "Simulate photons in the detector, as ROOT files."),
        "ingest": LazyCommand("ingest.cli:app", "Convert ROOT files to shards; inspect ROOT files."),
        "shards": LazyCommand("shards.cli:app", "Inspect, check and divide datasets."),
        "train": LazyCommand("xectrain.cli.train:app", "Train a network: regression, pre-training or inpainting."),
        "evaluate": LazyCommand("xectrain.cli.evaluate:app", "Judge a model beside classical methods: metrics, plots."),
        "lines": LazyCommand("xectrain.cli.lines:app", "Fit a line of known energy: peak and width per group."),
        "calibrate": LazyCommand("xectrain.cli.calibrate:app", "Calibrate a model's energy on lines, or undo it."),
        "dead": LazyCommand("xectrain.cli.dead:app", "Measure what dead channels cost, and filling recovers."),
        "infer": LazyCommand("xectrain.cli.infer:app", "Predict: shards or ROOT in, ROOT out."),
        "export": LazyCommand("xectrain.cli.export:app", "Export a network to ONNX: raw sensors in, physics out."),
        "plots": LazyCommand("xectrain.cli.plots:app", "Redraw every plot from saved tables."),
        "channels": LazyCommand(
            "xectrain.cli.channels:app", "Measure each channel's response by run, from data alone."
        ),
        "compare": LazyCommand("xectrain.cli.compare:app", "Rank runs by a metric; compare inpainters."),
        "compare-data": LazyCommand("xectrain.cli.compare_data:app", "Compare two sets of events."),
        "model": LazyCommand("xectrain.cli.model:app", "Describe a network: parts, parameters, FLOPs, tokens."),
        "display": LazyCommand("xectrain.cli.display:app", "Draw an event."),
        "cluster": LazyCommand("cluster.cli:app", "Run conversions, trainings and scans on SLURM, as sbatch scripts."),
        "track": LazyCommand("xectrain.cli.track:app", "Send runs to MLflow."),
        "doctor": LazyCommand("xectrain.cli.doctor:app", "Show what this machine can do: GPU, DALI, ONNX, versions."),
    }


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reconstruct photons in the MEG II liquid-xenon detector: ROOT → shards → network → predictions in ROOT.",
    epilog="Every command has --help with examples.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from shards.base import code_version

        typer.echo(f"xec {code_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug messages; accepted anywhere on the line.")
    ] = False,
) -> None:
    """`run` has taken --debug off the line already; it is declared here for `--help`."""


def main() -> None:
    """Entry point of the `xec` script."""
    run(app)


def open(path: Path | str) -> Dataset:
    """Open a shard dataset: `.table()` is a Polars frame of its columns, `.read(rows)` its sensors and truth as arrays,
    `pipelines.open_loader` feeds it as torch batches.

    Raises:
        InputError: there is no complete dataset.
    """
    from shards.opening import open_dataset

    return open_dataset(path)


def load(model: Path | str, **options: Any) -> Predictor | SensorPredictor:
    """Load a trained model: a regressor for `.predict(npho, time, dead=None)` in physical units, an inpainter for
    `.fill(npho, time, dead=None)`.

    Args:
        model: run folder, checkpoint file or `.onnx` file.
        options: `device`, `precision` and `batch_size`, as of `xectrain.inference.load.load`.
    """
    from xectrain.inference.load import load as load_predictor

    return load_predictor(model, **options)


def display(npho: Any, time: Any, **options: Any) -> Figure:
    """Draw one event, npho (4760,) photons and time (4760,) s, as a matplotlib figure.

    Args:
        npho: float (4760,), photons at each sensor, NaN where unknown.
        time: float (4760,), s, NaN where unknown.
        options: as of `xectrain.display.event.event_figure` (`dead`, `truth`, `prediction`, `title`).
    """
    from xectrain.display.event import event_figure

    return event_figure(npho, time, **options)


if __name__ == "__main__":
    main()

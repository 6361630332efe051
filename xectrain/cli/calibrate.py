"""`xec calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import ConfigError, output_file
from xectrain.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xectrain.evaluation.calibrate import LineChoice
    from xectrain.inference.sources import Part, ReadOptions

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec calibrate runs/first shards/cex --line 54.9

  xec calibrate runs/first cex.root --schema cex --line '54.9=Ebgo > 65' --line '82.9=Ebgo < 65' --select 'gstatus < 2'

  xec calibrate runs/first --undo

  xec calibrate runs/first shards/other --uncertainties --out calibrated.pt

The calibration of the energy is stored beside the checkpoint (checkpoint_best.calibration.json), and applied by
everything that loads the run: infer, evaluate, lines, export. Its report is in RUN/calibration, or --out. ONNX files
made before do not have it: export again. That of the uncertainties is a checkpoint of its own.
"""


@app.command(epilog=EPILOG)
def calibrate(
    context: typer.Context,
    model: Annotated[Path, Argument(help="Run folder or checkpoint.")],
    data: Annotated[list[Path] | None, Argument(help="Shard datasets or ROOT files with events of the lines.")] = None,
    lines: Annotated[
        list[str] | None, Option("--line", help="Energy [MeV], or MeV=EXPRESSION for some of the events; repeatable.")
    ] = None,
    undo: Annotated[bool, Option("--undo", help="Remove the calibration.")] = False,
    uncertainties: Annotated[
        bool, Option("--uncertainties", help="Calibrate σ and quantiles instead, on events with truth.")
    ] = False,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            help="Folder for the report (default: RUN/calibration); --uncertainties: checkpoint to write.",
        ),
    ] = None,
    select: o.Cut = None,
    schema: o.Schema = "mc",
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    backend: o.Backend = "auto",
) -> None:
    """Calibrate a model's energy on lines of known energy, over position and run; or its uncertainties."""
    from xectrain.checkpoint import find_checkpoint, read_checkpoint
    from xectrain.cli.lines import energy_predictor
    from xectrain.evaluation.calibrate import calibrate as run
    from xectrain.evaluation.calibrate import undo as remove
    from xectrain.evaluation.wording import compact_number
    from xectrain.inference.calibration import calibration_path, summary
    from xectrain.inference.load import load
    from xectrain.inference.sources import ReadOptions, open_parts

    if model.suffix == ".onnx":
        raise ConfigError("is an exported model", file=model, remedy="calibrate the run folder, then export it again")
    checkpoint = find_checkpoint(model)
    if undo:
        o.refuse(context, ("data", "lines", "uncertainties", "out", "select", "schema"), "with --undo")
        there = remove(checkpoint)
        typer.echo(
            f"Removed {calibration_path(checkpoint)}." if there else f"Nothing to do: {checkpoint} is not calibrated."
        )
        return
    if not data:
        raise ConfigError("are required", item="DATA", remedy="give the events of the lines, or --undo")
    if uncertainties:
        o.refuse(context, ("lines",), "with --uncertainties")
        if out is None:
            raise ConfigError("is required", item="--out", remedy="name the checkpoint to write, as in calibrated.pt")
        output_file(out, "checkpoint", read_checkpoint, [checkpoint, *data])
        read = ReadOptions(select, None, backend)
        _uncertainties(checkpoint, open_parts(data, schema), out, read, device, precision, batch_size)
        return
    if not lines:
        raise ConfigError("is required", item="--line", remedy="give the energy in MeV, as in --line 54.9")
    if out is not None:
        o.refuse_inputs(out, [model], data)
    found = load(checkpoint, device=device, precision=precision, batch_size=batch_size, calibrated=False)
    predictor = energy_predictor(found, model)
    chosen = [_line(text) for text in lines]
    folder = out or checkpoint.parent / "calibration"
    study = run(predictor, open_parts(data, schema), chosen, folder, ReadOptions(select, None, backend))
    if study is None:
        typer.echo(f"Nothing to do: {checkpoint} already has this calibration.")
        return
    for line, before, after in zip(study.calibration.lines, study.before, study.after, strict=True):
        told = ["no fit" if f is None else compact_number(f.mean, f.mean_error) for f in (before, after)]
        widths = ["" if f is None else compact_number(f.sigma, f.sigma_error) for f in (before, after)]
        typer.echo(f"{line.energy:g} MeV: peak {told[0]} → {told[1]} MeV, σ {widths[0]} → {widths[1]} MeV")
    for one in study.uniformity:
        spreads = [compact_number(*one.spread(after=when)) for when in (False, True)]
        typer.echo(f"spread over {one.name}: {spreads[0]} → {spreads[1]} %")
    typer.echo(summary(study.calibration))
    typer.echo(f"Wrote {calibration_path(checkpoint)}, which is applied from now on, and {folder / 'report.html'}.")


def _uncertainties(
    checkpoint: Path,
    parts: Sequence[Part],
    out: Path,
    settings: ReadOptions,
    device: str,
    precision: str,
    batch_size: int | None,
) -> None:
    from xectrain.evaluation.uncertainties import calibrate_uncertainties
    from xectrain.inference.load import load
    from xectrain.inference.regressor import TorchPredictor

    found = load(checkpoint, device=device, precision=precision, batch_size=batch_size, calibrated=False)
    if not isinstance(found, TorchPredictor):
        raise ConfigError("predicts no uncertainties", file=checkpoint, found=found.facts.mode, expected="a regressor")
    events = calibrate_uncertainties(found, parts, out, settings)
    if events is None:
        typer.echo(f"Nothing to do: {out} is {checkpoint} calibrated on these events already.")
    else:
        typer.echo(f"Wrote {out}: {checkpoint} with its uncertainties calibrated on {events} events.")


def _line(text: str) -> LineChoice:
    from xectrain.evaluation.calibrate import LineChoice

    energy, equals, expression = text.partition("=")
    try:
        value = float(energy)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 1000 or (equals and not expression.strip()):
        raise ConfigError("is not MeV or MeV=EXPRESSION", item="--line", found=text)
    return LineChoice(value, expression.strip())

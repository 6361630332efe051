"""`xec infer`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from shards.base import ConfigError, InputError, counted, output_file, output_folder
from xectrain.cli import options as o

if TYPE_CHECKING:
    from ingest.reading.rootio import Skipped
    from shards.dead import DeadList
    from xectrain.inference.regressor import Predictor
    from xectrain.inference.request import Request, Result
    from xectrain.inference.sensors import SensorPredictor
    from xectrain.inference.sources import Part

logger = logging.getLogger(__name__)

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec infer runs/energy data/run430000.root --output pred.root

  xec infer runs/energy shards/val --output pred.root --select fiducial

  xec infer runs/energy 'data/*.root' --output predictions/ --per-file --schema real --dead dead.txt

  xec infer runs/energy shards/all --output predictions/ --task-index 3 --task-count 20    (then --join predictions/)

  xec infer runs/inpaint shards/val --output hidden.root --hide --masks random:0.1

  xec infer old.onnx data/run430000.root --output old.root --normalization legacy

  xec infer runs/energy/checkpoint_last.pt data/ --output pred.root --columns energyReco,true_energy --device cuda

The tree `predictions` has one row per event, in input order; the tree `metadata` says how they were made.
"""


@app.command(epilog=EPILOG)
def infer(
    model: o.ModelFile,
    data: o.Inputs,
    output: Annotated[Path, Option("--output", "-o", help="ROOT file to write; with --per-file, a folder.")],
    select: o.Select = None,
    columns: Annotated[
        str | None, Option("--columns", help="Input columns to copy, comma-separated, or `none` (default: all).")
    ] = None,
    per_file: Annotated[bool, Option("--per-file", help="Write one output per input, NAME_pred.root.")] = False,
    schema: o.Schema = "mc",
    tree: o.Tree = None,
    dead: o.Dead = None,
    skip_bad_files: Annotated[
        bool, Option("--skip-bad-files", help="Leave out ROOT files that cannot be read completely, and list them.")
    ] = False,
    hide: Annotated[
        bool, Option("--hide", help="Inpainter: hide sensors as in validation, and write one row per hidden sensor.")
    ] = False,
    masks: o.Masks = None,
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    normalization: o.InputNormalization = None,
    allow_cpu: Annotated[bool, Option("--allow-cpu", help="ONNX: accept the CPU where CUDA is unavailable.")] = False,
    backend: o.Backend = "auto",
    threads: Annotated[int, Option("--threads", help="Reader threads.", min=1)] = 2,
    task_index: Annotated[int, Option("--task-index", help="Predict only this share, counting from 0.", min=0)] = 0,
    task_count: Annotated[
        int | None,
        Option(
            "--task-count",
            help="Number of shares that shards or files are divided into; --output is then a folder.",
            min=1,
        ),
    ] = None,
    join: Annotated[
        Path | None, Option("--join", help="Join the outputs of all shares in this folder, without predicting.")
    ] = None,
    check: o.Check = False,
) -> None:
    """Predict every event of shards or ROOT files, into a ROOT file, in constant memory."""
    from shards.manifest import takes_folders
    from xectrain.inference.infer import check as check_request
    from xectrain.inference.infer import infer, share_name
    from xectrain.inference.infer import join as join_shares
    from xectrain.inference.load import load
    from xectrain.inference.request import Request
    from xectrain.inference.sources import ReadOptions, open_parts

    _check_options(per_file, skip_bad_files, task_count, join)
    if per_file or (task_count is not None and join is None):
        output_folder(output, "folder of predictions", takes_folders)
    else:
        output_file(output, "file of predictions", lambda path: True, inputs=data)  # an existing file is examined later
    skipped: list[Skipped] | None = [] if skip_bad_files else None
    parts = open_parts(data, schema, tree, skipped)
    predictor = load(
        model,
        device="cpu" if check else device,
        precision=precision,
        batch_size=batch_size,
        normalization=normalization,
        allow_cpu=allow_cpu,
    )
    request = Request(ReadOptions(select, _dead(dead or []), backend, threads), _names(columns), precision, hide, masks)
    if masks is not None:
        _hide(predictor, masks, hide)
    if check:
        check_request(predictor, parts, request)
        _say_extent(parts)
        return
    if join is not None and task_count is not None:
        _say(join_shares(predictor, parts, output, request, join, task_count))
    elif task_count is not None:
        task = (task_index, task_count)
        _say(infer(predictor, parts, output / share_name(*task), request, task))
    elif per_file:
        _each(predictor, parts, output, request, skipped)
    else:
        _say(infer(predictor, parts, output, request, skipped=skipped))
    if skipped:
        typer.echo(f"Skipped {counted(len(skipped), 'file')}: {', '.join(item.path.name for item in skipped)}")


def _check_options(per_file: bool, skip_bad_files: bool, task_count: int | None, join: Path | None) -> None:
    """Refuse options that exclude one another."""
    shared = join is not None or task_count is not None
    if shared and per_file:
        raise ConfigError(
            "excludes --task-count and --join", item="--per-file", remedy="shares have files of their own"
        )
    if join is not None and task_count is None:
        raise ConfigError("needs --task-count, the number of shares", item="--join")
    if shared and skip_bad_files:
        raise ConfigError(
            "excludes --task-count and --join", item="--skip-bad-files", remedy="shares must agree on their inputs"
        )


def _each(
    model: Predictor | SensorPredictor, parts: list[Part], folder: Path, request: Request, skipped: list[Skipped] | None
) -> None:
    """Predict each part into a file of its own; bad ones are added to `skipped`, if it is given."""
    from ingest.reading.rootio import Skipped
    from xectrain.inference.infer import infer

    outputs = [folder / f"{Path(part.name).stem}_pred.root" for part in parts]
    if len(set(outputs)) < len(outputs):
        raise ConfigError("inputs with the same name would get the same output", remedy="predict them separately")
    for part, target in zip(parts, outputs, strict=True):
        try:
            _say(infer(model, [part], target, request))
        except InputError as error:
            if skipped is None:
                raise
            logger.warning("skipped: %s", error)
            skipped.append(Skipped(Path(str(error.file)), str(error)))


def _hide(model: Predictor | SensorPredictor, masks: str, hide: bool) -> None:
    """Make a model hide other sensors than in its validation."""
    from xectrain.inference.sensors import SensorPredictor

    if not isinstance(model, SensorPredictor):
        raise ConfigError("needs an inpainter or autoencoder", item="--masks", found=model.facts.mode)
    if model.fills and not hide:
        raise ConfigError("needs --hide; without it, dead sensors are filled", item="--masks")
    model.hide_by(masks)


def _say_extent(parts: list[Part]) -> None:
    from xectrain.inference.sources import count_pieces

    events = counted(sum(part.events for part in parts), "event")
    typer.echo(f"{events} in {counted(count_pieces(parts), 'piece')} (shards and files)")


def _names(columns: str | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    return () if columns == "none" else tuple(name.strip() for name in columns.split(",") if name.strip())


def _dead(files: list[Path]) -> DeadList | None:
    if not files:
        return None
    from shards.dead import DeadList, read_dead

    united = DeadList()
    for file in files:
        united |= read_dead(file)
    return united


def _say(result: Result) -> None:
    verb = "Nothing to do: the same predictions are already in" if result.existed else "Wrote predictions to"
    outside = f", {result.outside} of them outside the training range" if result.outside else ""
    typer.echo(f"{verb} {result.path} ({counted(result.events, 'event')}{outside}).")

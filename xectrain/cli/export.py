"""`xec export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from shards.base import ConfigError, output_file

if TYPE_CHECKING:
    from xectrain.exporting import Exported, GateEvents
    from xectrain.inference.model import ModelFacts

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec export runs/energy --output energy.onnx

  xec export runs/first --output timing.onnx --tasks timing --data shards/val

  xec export runs/first --output bare.onnx --normalized

  xec export runs/mae --output encoder.pt --encoder

The file takes raw sensors (npho, time, dead) and gives physical units; docs/onnx.md shows how to run it from C++.
"""

GATE_EVENTS = 64


@app.command(epilog=EPILOG)
def export(
    model: Annotated[Path, Argument(help="Run folder or checkpoint.")],
    output: Annotated[Path, Option("--output", "-o", help="File to write.")],
    tasks: Annotated[str | None, Option("--tasks", help="Only these tasks, comma-separated.")] = None,
    normalized: Annotated[
        bool, Option("--normalized", help="Only the network itself, which takes normalized sensors.")
    ] = False,
    encoder: Annotated[bool, Option("--encoder", help="Only the encoder's weights, as a PyTorch file.")] = False,
    data: Annotated[
        Path | None, Option("--data", help="Dataset for the comparison (default: the training data, else toy events).")
    ] = None,
    weights: Annotated[str, Option("--weights", help="auto (the moving average, if any), ema or raw.")] = "auto",
) -> None:
    """Export a model to ONNX, after comparing it with PyTorch at several batch sizes."""
    from xectrain.checkpoint import find_checkpoint, read_checkpoint
    from xectrain.exporting import export as run
    from xectrain.exporting import module_for, restricted
    from xectrain.inference.load import load_mode

    path = find_checkpoint(model)
    output_file(output, "exported encoder" if encoder else "ONNX file", _is_encoder if encoder else _any, [path])
    state = read_checkpoint(path)
    if encoder:
        if tasks or normalized:
            raise ConfigError("--encoder writes only weights; --tasks and --normalized do not apply")
        count = _write_encoder(state, path, output, weights)
        typer.echo(f"Wrote {output}: {count} tensors of the encoder.")
        return
    mode, facts = load_mode(state, path, weights)
    if tasks:
        mode, facts = restricted(mode, facts, [t.strip() for t in tasks.split(",") if t.strip()])
    module = module_for(mode, facts, normalized)
    _say(run(module, output, _gate_events(facts, data)))


def _any(path: Path) -> bool:
    """An existing ONNX file is compared with what would be written, later."""
    return True


def _is_encoder(path: Path) -> bool:
    """Whether `--encoder` wrote a file."""
    import pickle

    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError):
        return False
    return isinstance(value, dict) and value.get("format") == "xec-encoder-1"


def _write_encoder(state: dict[str, object], path: Path, output: Path, weights: str) -> int:
    import torch

    from shards.base import published
    from xectrain.inference.model import chosen_weights

    prefix = "model.encoder."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in chosen_weights(state, path, weights).items()
        if name.startswith(prefix)
    }
    with published(output) as part:
        torch.save({"format": "xec-encoder-1", "encoder": tensors, "normalization": state["normalization"]}, part)
    return len(tensors)


def _gate_events(facts: ModelFacts, data: Path | None) -> GateEvents:
    """Real events to compare on: of `data`, else of the training set, else simulated ones."""
    import logging

    from shards.base import XecError
    from xectrain.exporting import GateEvents

    logger = logging.getLogger(__name__)
    try:
        from xectrain.evaluation.classical import training_sample

        return GateEvents.spoiled(*training_sample(facts, data, GATE_EVENTS))
    except XecError as error:
        if data is not None:
            raise
        logger.info("the training data cannot be read (%s); comparing on simulated events", error)
    from ingest.toymc import ToyOptions, generate

    toy = generate(GATE_EVENTS, ToyOptions(energy="flat"))
    return GateEvents.spoiled(toy.npho, toy.relative_time if facts.targets.relative_time else toy.time)


def _say(result: Exported) -> None:
    if not result.deviations:
        typer.echo(f"Nothing to do: {result.path} already holds this model.")
        return
    width = max(len(d.output) for d in result.deviations)
    typer.echo("largest deviation of onnxruntime from PyTorch, over batches of 1, 2, 7 and 64 events:")
    for d in result.deviations:
        typer.echo(f"  {d.output:<{width}}  {d.largest:.2e}  (allowed {d.allowed:.2e})")
    typer.echo(f"Wrote {result.path}: inputs {', '.join(result.inputs)}; outputs {', '.join(result.outputs)}.")

"""Option types that several commands share: one spelling, one help text each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option

from shards.base import ConfigError

ModelFile = Annotated[Path, Argument(help="Run folder, checkpoint or ONNX file.")]
Inputs = Annotated[list[Path], Argument(help="Shard datasets; or ROOT files, folders, globs and lists of them.")]
Out = Annotated[Path, Option("--out", "-o", help="Folder to write.")]
Select = Annotated[str | None, Option("--select", help="Only events that pass this expression.")]
Cut = Annotated[str | None, Option("--select", "--cut", help="Only events that pass this expression.")]
"""`Select` of the studies of lines, where it is also called a cut."""
Schema = Annotated[str, Option("--schema", help="Meaning of ROOT branches: mc, real, cex, a file.")]
Tree = Annotated[str | None, Option("--tree", help="Name of the input tree.")]
Dead = Annotated[list[Path] | None, Option("--dead", help="List of dead sensors (text, CSV, Parquet); repeat.")]
BatchSize = Annotated[int | None, Option("--batch-size", help="Events per forward pass.", min=1)]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, Option("--precision", help="auto, fp32 or bf16.")]
InputNormalization = Annotated[
    str | None, Option("--normalization", help="Input of an ONNX file from elsewhere: standard, sqrt or legacy.")
]
Backend = Annotated[str, Option("--backend", help="Reader of shards: auto, dali or webdataset.")]
UseBaselines = Annotated[bool, Option("--baselines/--no-baselines", help="Compare with the classical methods.")]
BaselineData = Annotated[
    Path | None, Option("--baseline-data", help="Dataset to calibrate them on; default: the training data.")
]
BaselineEvents = Annotated[int, Option("--baseline-events", help="Events to calibrate on.", min=200)]
MaxEvents = Annotated[int, Option("--max-events", help="Hidden sensors: events of each dataset to look at.", min=1)]
Masks = Annotated[
    str | None,
    Option("--masks", help="Sensors to hide: random:0.05, flat:0.05, fixed:N (a face), pattern:FILE, sensor-front."),
]
Check = Annotated[bool, Option("--check", help="Only see whether model, data and options go together.")]
Inpainter = Annotated[Path | None, Option("--inpainter", help="Also fill dead sensors by this model.")]


def refuse(context: Context, names: Iterable[str], reason: str, remedy: str | None = None) -> None:
    """Refuse options that were given on the command line though they do not apply.

    Args:
        names: of the function's parameters.
        reason: goes on from "--option does not apply", as in "to ROOT files".

    Raises:
        ConfigError: naming the first of them.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"does not apply {reason}", item="--" + name.replace("_", "-"), remedy=remedy)

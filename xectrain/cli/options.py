"""Option types that several commands share: one spelling and one help text each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option

from shards.base import ConfigError, output_folder

ModelFile = Annotated[Path, Argument(help="Run folder, checkpoint or ONNX file.")]
Inputs = Annotated[list[Path], Argument(help="Shard datasets; or ROOT files, folders, globs and list files.")]
Out = Annotated[Path, Option("--out", "-o", help="Folder to write to.")]
Select = Annotated[str | None, Option("--select", help="Use only events that pass this expression.")]
Cut = Annotated[str | None, Option("--select", "--cut", help="Use only events that pass this expression.")]
"""`Select` of the studies of lines, where it is also called a cut."""
Schema = Annotated[str, Option("--schema", help="Schema of ROOT files: mc, real, cex or a YAML file.")]
Tree = Annotated[str | None, Option("--tree", help="Name of the input tree.")]
Dead = Annotated[list[Path] | None, Option("--dead", help="Dead list (text, CSV or Parquet); repeatable.")]
BatchSize = Annotated[
    int | None, Option("--batch-size", help="Events per forward pass; 128 on a CPU, 1024 on a GPU.", min=1)
]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, Option("--precision", help="auto, fp32 or bf16.")]
InputNormalization = Annotated[
    str | None, Option("--normalization", help="Input normalization of a foreign ONNX file: standard, sqrt or legacy.")
]
Backend = Annotated[str, Option("--backend", help="Shard reader: auto, dali or webdataset.")]
UseBaselines = Annotated[bool, Option("--baselines/--no-baselines", help="Compare with the classical methods.")]
BaselineData = Annotated[
    Path | None, Option("--baseline-data", help="Dataset to calibrate them on (default: the training data).")
]
BaselineEvents = Annotated[int, Option("--baseline-events", help="Events to calibrate on.", min=200)]
MaxEvents = Annotated[int, Option("--max-events", help="Hidden sensors: events to use of each dataset.", min=1)]
Masks = Annotated[
    str | None,
    Option("--masks", help="Sensors to hide: random:0.05, flat:0.05, fixed:N (per face), pattern:FILE, sensor-front."),
]
Check = Annotated[bool, Option("--check", help="Only check that model, data and options fit together.")]
Inpainter = Annotated[Path | None, Option("--inpainter", help="Also fill dead sensors with this model.")]


def refuse_inputs(out: Path, *inputs: Iterable[Path]) -> None:
    """OutputError where a report would go into a model, a dataset or a folder of files that it is made of,
    or into another run or dataset."""
    from shards.manifest import takes_report

    output_folder(out, "report", takes_report, [path for some in inputs for path in some])


def refuse(context: Context, names: Iterable[str], reason: str, remedy: str | None = None) -> None:
    """Refuse options that were given on the command line but do not apply.

    Args:
        names: of the function's parameters.
        reason: continues "--option does not apply …", as in "to ROOT files".

    Raises:
        ConfigError: naming the first of them.
    """
    spelled = {parameter.name: max(parameter.opts, key=len) for parameter in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"does not apply {reason}", item=spelled[name], remedy=remedy)

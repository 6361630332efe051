"""From a network to an ONNX file that has been compared with it."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from shards.base import ConfigError, CorruptError, OutputError, published
from xectrain.exporting.gate import Deviation, GateEvents, compare
from xectrain.exporting.modules import ExportModule, NormalizedInput, SensorInput
from xectrain.inference.calibration import of_columns
from xectrain.inference.metadata import OPTIONAL, metadata
from xectrain.inference.model import ModelFacts
from xectrain.inference.onnx import open_session
from xectrain.modes.base import EventMode, Mode

logger = logging.getLogger(__name__)

OPSET = 20


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    deviations: tuple[Deviation, ...]
    """Empty when the file existed already."""


def restricted(mode: Mode, facts: ModelFacts, tasks: Sequence[str]) -> tuple[Mode, ModelFacts]:
    """The mode with only some of its tasks (changed in place), and facts to match.

    Raises:
        ConfigError: a task that the model does not have, or a calibration that also needs another one.
    """
    if not isinstance(mode, EventMode):
        raise ConfigError("has no tasks to choose from", file=facts.file, found=facts.mode)
    mode.restrict(tasks)
    calibration = of_columns(facts.calibration, mode.columns, facts.file)
    return mode, dataclasses.replace(facts, tasks=mode.tasks, columns=mode.columns, calibration=calibration)


def export(module: ExportModule | SensorInput, output: Path, events: GateEvents) -> Exported:
    """Export a model, compare it with PyTorch, and publish it if it agrees; a file of the same model is left as it is.

    Args:
        module: of `module_for`.
        output: the file to write.
        events: what the comparison is made on.

    Raises:
        OutputError: some output deviates by more than the tolerance (nothing is published), or the file exists and
            holds something else.
    """
    if output.exists():
        _check_same(output, metadata(module.facts, isinstance(module, NormalizedInput)))
        return Exported(output, module.inputs, module.outputs, ())
    with published(output) as part:
        part.write_bytes(onnx_bytes(module))
        deviations = compare(part, module, events)
        bad = [d for d in deviations if not d.passes]
        if bad:
            worst = ", ".join(f"{d.output} by {d.largest:.3g} (allowed {d.allowed:.3g})" for d in bad)
            raise OutputError(f"is not published: onnxruntime deviates from PyTorch in {worst}", file=output)
    return Exported(output, module.inputs, module.outputs, tuple(deviations))


def _check_same(output: Path, wanted: dict[str, str]) -> None:
    """Refuse a file that is not what would be exported."""
    try:
        properties = open_session(output, "cpu").get_modelmeta().custom_metadata_map
    except CorruptError as error:
        raise OutputError(
            "exists, but is not a readable ONNX file", file=output, remedy="choose another --output, or remove it"
        ) from error
    different = sorted(key for key in wanted if properties.get(key) != wanted[key])
    if different:
        raise OutputError(
            f"exists, but holds another model, which differs in {', '.join(different)}",
            file=output,
            remedy="remove it, or choose another --output",
        )


def onnx_bytes(module: ExportModule | SensorInput) -> bytes:
    """The module as an ONNX model with its metadata, with any number of events per batch."""
    batch = torch.export.Dim("N", min=1)
    example = module.example()
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for value in model.graph.input:  # the exporter freezes the batch of an input that no output depends on
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for name in sorted(set(module.inputs) & OPTIONAL.keys()):
        _make_optional(model, name, OPTIONAL[name])
    del model.graph.value_info[:]  # shapes that the exporter recorded for its example; runtimes reuse buffers by them
    onnx.helper.set_model_props(model, metadata(module.facts, isinstance(module, NormalizedInput)))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _make_optional(model: Any, name: str, default: float) -> None:
    """Let a float64 (N,) input be left out, for one element of `default`.

    It becomes of an optional type. (An initializer of the same name would do as well, but onnxruntime warns of it each
    time the file is loaded.)
    """
    double = onnx.TensorProto.DOUBLE
    (value,) = (i for i in model.graph.input if i.name == name)
    value.type.CopyFrom(onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(double, ["N"])))
    given, known = f"{name}_given", f"{name}_or_default"
    for node in model.graph.node:
        node.input[:] = [known if i == name else i for i in node.input]
    constant = onnx.numpy_helper.from_array(np.array([default]))
    branches = {
        "then_branch": onnx.helper.make_node("OptionalGetElement", [name], [f"{name}_value"]),
        "else_branch": onnx.helper.make_node("Constant", [], [f"{name}_default"], value=constant),
    }
    graphs = {
        key: onnx.helper.make_graph(
            [node], key, [], [onnx.helper.make_tensor_value_info(node.output[0], double, ["N_or_1"])]
        )
        for key, node in branches.items()
    }
    model.graph.node.insert(0, onnx.helper.make_node("If", [given], [known], **graphs))
    model.graph.node.insert(0, onnx.helper.make_node("OptionalHasElement", [name], [given]))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Attention's fast path switched off (it cannot be exported), and the exporter's messages suppressed."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    remarks = logging.getLogger("torch.onnx")
    level = remarks.level
    torch.backends.mha.set_fastpath_enabled(False)
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        remarks.setLevel(level)

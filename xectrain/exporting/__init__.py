"""ONNX: raw sensors in, physical units out, compared with PyTorch before anything is published.

`modules` says what a graph holds, `graph` makes it, `gate` compares it with PyTorch. Reading such a file is
`xectrain.inference.onnx`. May import `inference`, `modes` and what lies below.
"""

from xectrain.exporting.gate import GATE_BATCHES, TOLERANCE, Deviation, GateEvents, compare
from xectrain.exporting.graph import Exported, export, restricted
from xectrain.exporting.modules import SensorInput, module_for
from xectrain.inference.metadata import EARLIEST, FACTS_KEY, NORMALIZED_INPUT, RAW_INPUTS, facts_from_metadata, metadata

__all__ = [
    "EARLIEST",
    "FACTS_KEY",
    "GATE_BATCHES",
    "NORMALIZED_INPUT",
    "RAW_INPUTS",
    "TOLERANCE",
    "Deviation",
    "Exported",
    "GateEvents",
    "SensorInput",
    "compare",
    "export",
    "facts_from_metadata",
    "metadata",
    "module_for",
    "restricted",
]

"""What a normalized sensor value means: schemes, presets, sentinels, bad-value classes; the only definition there is.

Works on NumPy arrays and on torch tensors of any device with the same functions. torch is imported only when a tensor
is given, and the tensor path has no data-dependent Python control flow: it can be compiled and exported to ONNX.
"""

from shards.normalization.rounding import ChannelRounding, RoundingReport, rounding
from shards.normalization.scheme import NPHO_THRESHOLD, PRESETS, SCHEMES, Normalization, preset
from shards.normalization.sensors import (
    HUGE,
    Classes,
    NormalizedBatch,
    SensorCounts,
    apply_threshold,
    check_remap,
    classify,
    denormalize,
    mark_dead,
    normalize,
    remap,
    valid,
)

__all__ = [
    "HUGE",
    "NPHO_THRESHOLD",
    "PRESETS",
    "SCHEMES",
    "ChannelRounding",
    "Classes",
    "Normalization",
    "NormalizedBatch",
    "RoundingReport",
    "SensorCounts",
    "apply_threshold",
    "check_remap",
    "classify",
    "denormalize",
    "mark_dead",
    "normalize",
    "preset",
    "remap",
    "rounding",
    "valid",
]

"""Classical reconstruction, vectorized: what a network has to beat, on the same events and in the same tables.

A method is added in `suite` (its name, what it predicts, which task it rivals), a filling in `inpainting`. Pure NumPy;
may import `shards` and `xectrain.tasks` only.
"""

from xectrain.baselines.inpainting import FILLS, STRONG_FILL, fill, fill_baselines
from xectrain.baselines.raw import RawEvents
from xectrain.baselines.suite import DESCRIPTIONS, STRONG, Baselines, calibrate
from xectrain.tasks import MEAN

__all__ = [
    "DESCRIPTIONS",
    "FILLS",
    "MEAN",
    "STRONG",
    "STRONG_FILL",
    "Baselines",
    "RawEvents",
    "calibrate",
    "fill",
    "fill_baselines",
]

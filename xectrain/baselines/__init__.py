"""Classical reconstruction, vectorized: what a network has to beat, on the same events and in the same tables."""

from xectrain.baselines.raw import RawEvents, fill_from_neighbours
from xectrain.baselines.suite import DESCRIPTIONS, MEAN, STRONG, Baselines, calibrate

__all__ = ["DESCRIPTIONS", "MEAN", "STRONG", "Baselines", "RawEvents", "calibrate", "fill_from_neighbours"]

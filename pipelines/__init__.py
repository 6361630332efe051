"""From shards to batches on the device: `open_loader` turns one rank's plan of an epoch into torch batches."""

from pipelines.batch import Batch, Loader
from pipelines.loader import open_loader

__all__ = ["Batch", "Loader", "open_loader"]

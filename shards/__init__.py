"""What an event is, on disk and in memory.

The 4760-sensor axis and its geometry, normalization and sentinels, truth columns with units, the shard format with its
manifest, and the epoch plans that turn a dataset into an order of events. Imports nothing else of this project.
"""

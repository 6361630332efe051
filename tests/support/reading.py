"""A file of a few events read as the tests of `ingest.reading` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ingest.reading.rootio import Chunk, open_sources, read_chunks

N = 40


def joined(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    columns = {name: np.concatenate([c.columns[name] for c in chunks]) for name in chunks[0].columns}
    return np.concatenate([c.npho for c in chunks]), np.concatenate([c.time for c in chunks]), columns


def read(path: Path, schema: str = "mc", **options: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    (source,) = open_sources([path], schema=schema, **options)
    return joined(list(read_chunks(source, 16)))

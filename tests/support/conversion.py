"""Conversions of two small files, as the tests of `ingest.conversion` run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ingest.conversion.convert import Conversion, convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.dataset import Dataset
from shards.opening import open_dataset

MC = load_schema("mc")


N = (70, 33)


def options(**changes: Any) -> ConversionOptions:
    return ConversionOptions(**{"schema": MC, "events_per_shard": 25, **changes})


def run(files: list[Path], out: Path, workers: int = 1, **changes: Any) -> Conversion:
    wanted = options(**changes)
    return convert(open_sources(files, schema=wanted.schema), out, wanted, workers=workers)


def rows(out: Path) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """(dataset, run, event) in dataset order."""
    data = open_dataset(out, check="full")
    table = data.table()
    return data, table["run"].to_numpy(), table["event"].to_numpy()

"""Two small files, and the conversion of both that others are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.conversion import MC, N, options
from support.ingest_files import events, write_tree

from ingest.conversion import bucket
from ingest.conversion import plan as plan_module
from ingest.conversion.convert import convert
from ingest.reading.rootio import open_sources


@pytest.fixture(scope="session")
def trees() -> list[dict[str, np.ndarray]]:
    return [events(N[0], run=100), events(N[1], run=101, first=500)]


@pytest.fixture(scope="session")
def files(trees: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("root")
    return [write_tree(folder / f"run{i}.root", tree) for i, tree in enumerate(trees)]


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units, spills and reads so small that a hundred events go through all of it."""
    monkeypatch.setattr(plan_module, "MIN_UNIT", 20)
    monkeypatch.setattr("ingest.reading.sources.CUT_DISTANCE", 16)
    monkeypatch.setattr(bucket, "SPILL", 16)
    monkeypatch.setattr(bucket, "READ", 8)


@pytest.fixture(scope="session")
def reference(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain conversion, with the units of real life."""
    out = tmp_path_factory.mktemp("reference") / "data"
    convert(open_sources(files, schema=MC), out, options())
    return out

"""The events of a file, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.ingest_files import events, write_tree
from support.reading import N


@pytest.fixture(scope="session")
def branches() -> dict[str, np.ndarray]:
    return events(N)


@pytest.fixture(scope="session")
def file(branches: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("root") / "a.root", branches)

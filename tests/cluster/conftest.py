"""The real SLURM that the slow tests share, and the `xec` command run with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.slurm import Slurm, Xec, why_not


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    running = Slurm(tmp_path_factory.mktemp("slurm")).start()
    yield running
    running.stop()


@pytest.fixture
def xec(slurm: Slurm, tmp_path: Path) -> Iterator[Xec]:
    """Runs `xec` in `tmp_path`; afterwards nothing of it is left in the queue."""
    yield Xec(slurm, tmp_path)
    slurm.idle()

"""The crew of a conversion: how many there are."""

from __future__ import annotations

import pytest

from ingest.conversion.engine import WORTH_A_PROCESS, default_workers
from shards.base import free_cores


def test_by_default_there_are_as_many_workers_as_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_workers(100) == default_workers(WORTH_A_PROCESS) == 1
    assert default_workers(10**9) == free_cores()

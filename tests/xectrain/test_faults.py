"""Old state or new state, never a third: faults at opens, writes, fsyncs, renames and links of all but conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fault_shim import built, drive
from support.trained import Trained


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(
    ("kind", "mode", "stride"),
    [
        ("infer", "fail", 300),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("infer", "fail", 23),
                ("infer", "kill", 41),
                ("evaluate", "fail", 9),
                ("evaluate", "kill", 17),
                ("export", "fail", 1),
                ("export", "kill", 3),
                ("train", "fail", 7),
                ("train", "kill", 13),
            )
        ),
    ],
)
def test_a_fault_at_some_calls_leaves_old_or_new_state(
    shim: Path, trained: Trained, tmp_path: Path, kind: str, mode: str, stride: int
) -> None:
    assert trained.regress.parent == trained.roots[0].parent == trained.data.parent
    *complaints, summary = drive("fault_commands.py", shim, trained.folder, tmp_path, kind, mode, stride).splitlines()
    assert complaints == []
    calls, tried = (int(word.partition("=")[2]) for word in summary.split())
    assert calls >= 5
    assert tried == -(-calls // stride)

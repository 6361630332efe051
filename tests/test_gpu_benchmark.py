"""The benchmark for a borrowed GPU, with a CPU standing in: nothing that fails ends it, and it can be continued."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_each_result_is_written_whatever_fails(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"

    def run(*steps: str) -> list[dict[str, object]]:
        words = [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--out", out, "--folder", tmp_path / "folder"]
        subprocess.run([*words, "--only", ",".join(steps)], check=True, capture_output=True)
        return [json.loads(line) for line in out.read_text().splitlines()]

    found = run("DALI delivery", "step CUDA graphs", "step float32", "loading 8 by 2 threads", "older network 8")
    assert [result["step"] for result in found] == [
        *("DALI delivery", "step float32", "older network 8", "loading 8 by 2 threads", "step CUDA graphs"),
    ]
    assert found[0]["values that differ"] == 0
    assert found[1]["ok"]
    assert "CUDA graphs need a GPU" in str(found[-1]["error"])
    assert len(run("DALI delivery", "step CUDA graphs")) == len(found) + 1  # what failed is tried again, nothing else

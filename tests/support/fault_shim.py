"""The library that makes system calls fail, compiled for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent


def built(folder: Path) -> Path:
    """The library in a folder; the test is skipped where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler to intercept system calls")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "fault_shim.c", "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def drive(driver: str, shim: Path, *arguments: object) -> str:
    """What a driver in this folder prints, run with the library in place."""
    command = [sys.executable, HERE / driver, shim, *arguments]
    paths = f"{TESTS.parent}:{TESTS}"
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout

"""Old state or new state, never a third: faults at every open, write, fsync and rename, and kills at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.fault_shim import built, drive
from support.ingest_files import digests, events, write_tree

from shards.base import InputError
from shards.opening import open_dataset

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_tree(folder / "a.root", events(14, run=1), basket=4)
    write_tree(folder / "b.root", events(9, run=2), basket=4)
    return folder


def check(output: str, least_calls: int, stride: int) -> None:
    *complaints, summary = output.splitlines()
    assert complaints == []
    calls, tried = (int(word.partition("=")[2]) for word in summary.split())
    assert calls >= least_calls
    assert tried == -(-calls // stride)


@pytest.mark.parametrize("mode", ["fail", "kill"])
def test_a_fault_at_some_calls_leaves_old_or_new_state(shim: Path, files: Path, tmp_path: Path, mode: str) -> None:
    check(drive("fault_driver.py", shim, files, tmp_path, mode, 53), least_calls=150, stride=53)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fail", "kill"])
def test_a_fault_at_every_call_leaves_old_or_new_state(shim: Path, files: Path, tmp_path: Path, mode: str) -> None:
    check(drive("fault_driver.py", shim, files, tmp_path, mode, 1), least_calls=150, stride=1)


def command(files: Path, out: Path) -> list[str]:
    program = "import sys; from ingest.cli import app; app(sys.argv[1:])"
    options = ["--out", str(out), "--events-per-shard", "16", "--workers", "2", "--split", "train=0.6,val=0.4"]
    return [sys.executable, "-c", program, "root2shards", str(files), *options]


def complete(out: Path) -> bool:
    """Whether both datasets are; each must be whole or not look like one."""
    done = []
    for split in ("train", "val"):
        if (out / split / "manifest.json").exists():
            open_dataset(out / split, check="full")
            done.append(split)
        else:
            with pytest.raises(InputError, match=r"is not a complete dataset|there is no such dataset"):
                open_dataset(out / split)
    return len(done) == 2


def test_workers_end_with_a_parent_that_was_killed(files: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(files, tmp_path / "d"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    workers: list[psutil.Process] = []
    while not workers and process.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children()
            workers = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        time.sleep(0.005)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.slow
def test_killing_a_conversion_with_workers_at_random_moments(files: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run(command(files, tmp_path / "reference"), env=environment, check=True, capture_output=True)
    whole = time.monotonic() - began
    rng = random.Random(1)
    out = tmp_path / "out"
    for _ in range(12):
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(10):  # kill again and again until it gets through
            process = subprocess.Popen(
                command(files, out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(rng.uniform(0.3, 1.1) * whole)
            process.send_signal(signal.SIGKILL)
            process.wait()
            if complete(out):
                break
        subprocess.run(command(files, out), env=environment, check=True, capture_output=True)
        assert digests(out) == digests(tmp_path / "reference")

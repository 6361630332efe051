"""The user's first command: the whole chain, killed anywhere and continued, repeated and recognised as done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import uproot

from shards.opening import open_dataset

pytestmark = pytest.mark.slow

DEMO = (sys.executable, "-m", "xec", "demo", "--events", "40", "--epochs", "1", "--preset", "tiny")
TITLES = ["toy train", "toy flat", "toy signal", "ingest train", "ingest flat", "ingest signal", "train", "evaluate"]


def run_demo(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, "--out", str(out)], capture_output=True, text=True, check=False)


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_complete(out: Path) -> None:
    with uproot.open(out / "predictions.root") as predicted, uproot.open(out / "root" / "signal.root") as given:
        assert predicted["predictions"].classname == "TTree"
        rows = predicted["predictions"].arrays(library="np")
        source = given["tree"].arrays(["run", "event"], library="np")
    assert np.array_equal(rows["run"], source["run"])
    assert np.array_equal(rows["event"], source["event"])
    for column in ("theta", "phi", "energy", "timing", "u", "v", "w"):
        assert np.isfinite(rows[f"pred_{column}"]).all()
    report = (out / "evaluation" / "report.html").read_text()
    assert "energy" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    for name in ("train", "flat", "signal"):
        assert open_dataset(out / "shards" / name, check="full").n_events == (40 if name == "train" else 20)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    done = run_demo(out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_demo_makes_everything_and_says_where(finished: tuple[Path, str]) -> None:
    out, printed = finished
    assert_complete(out)
    for title in [*TITLES, "infer"]:
        assert title in printed
    for name in ("report.html", "predictions.root"):
        assert name in printed
    assert "light-weighted" in printed


def test_a_second_run_says_that_all_is_there_and_changes_nothing(finished: tuple[Path, str]) -> None:
    out, _ = finished
    before = files(out)
    done = run_demo(out)
    assert done.returncode == 0, done.stderr
    assert "Everything existed already" in done.stdout
    after = files(out)
    before.pop("stages.json")
    after.pop("stages.json")
    assert after == before


def test_killed_at_random_it_ends_as_if_undisturbed(finished: tuple[Path, str], tmp_path: Path) -> None:
    undisturbed, _ = finished
    chance = random.Random(4)
    for _ in range(8):
        running = subprocess.Popen(
            [*DEMO, "--out", str(tmp_path)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.5, 12))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_complete(tmp_path)
    for name in ("train", "flat", "signal"):
        one, two = (open_dataset(folder / "shards" / name) for folder in (undisturbed, tmp_path))
        assert one.n_events == two.n_events
        assert np.array_equal(one.read(one.rows())[1], two.read(two.rows())[1], equal_nan=True)

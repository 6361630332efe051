"""Scans, predictions, reports and notebooks on a real SLURM, and what is said of jobs that SLURM has forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.slurm import Slurm, Xec
from support.synthetic import make_dataset
from support.trained import COLUMNS, tiny_run

pytestmark = pytest.mark.slow

TINY = (
    *("--preset", "tiny", "--tasks", "energy", "--epochs", "1", "--batch-size", "8", "--device", "cpu"),
    *("--set", "checkpoint.save_artifacts=false"),
)


def site_with_jupyter(xec: Xec) -> Path:
    """A profile whose `jupyter` says what it was asked and lives until there is a file `end`: the real one is no
    dependency."""
    (xec.folder / "bin").mkdir()
    stub = xec.folder / "bin" / "jupyter"
    stub.write_text('#!/bin/bash\necho "jupyter $*"\nuntil [ -e end ]; do sleep 0.1; done\n')
    stub.chmod(0o755)
    path = f"{xec.folder / 'bin'}:{os.environ['PATH']}"
    site = xec.folder / "site.yaml"
    site.write_text(
        f"name: here\npartitions: {{default: {{}}}}\nenvironments: {{x86_64: {{setup: ['export PATH={path}']}}}}\n"
    )
    return site


def test_a_scan_sends_its_failed_points_again_and_is_collected(xec: Xec, slurm: Slurm) -> None:
    data = make_dataset(xec.folder / "d", 24, events_per_shard=16, columns=COLUMNS).path
    slurm.call("scontrol", "update", "partitionname=debug", "state=down")
    xec(
        "cluster",
        "submit",
        "scan",
        "--grid",
        "optim.lr=1e-4,3e-4",
        "--out",
        "scan",
        "--data",
        data,
        "--val",
        data,
        *TINY,
    )
    job = xec.jobs("scan")[0]
    slurm.call("scancel", f"{job}_1")
    slurm.call("scontrol", "update", "partitionname=debug", "state=up")
    told = xec("cluster", "status", "scan", "--wait", fails=True)
    assert "scan       1 cancelled, 1 done" in told
    assert "Resubmitted 2 elements" in xec("cluster", "resubmit", "scan")  # the point, and the collection of all points
    xec.finish("scan")
    for lr in ("1e-4", "3e-4"):
        run = xec.folder / "scan" / f"lr={lr}"
        assert (run / "checkpoint_best.pt").exists()
        assert (run / "mlflow.db").exists()
    assert "of 1 run to sqlite:///" in xec.log("scan", "collect*")
    assert "of 2 runs to sqlite:///" in xec.log("scan", "collect*")
    assert (xec.folder / "scan" / "mlflow.db").exists()


def test_predictions_of_an_array_join_to_those_of_one_run(xec: Xec) -> None:
    dataset = make_dataset(xec.folder / "d", 40, events_per_shard=6, columns=COLUMNS)
    tiny_run(xec.folder / "run", dataset)
    arguments = ("run", "d", "--device", "cpu", "--precision", "fp32", "--batch-size", 4)
    told = xec("cluster", "submit", "infer", *arguments, "--out", "p", "--tasks", 8, fails=True)
    assert "--tasks: exceeds the number of shards and files (found 8, expected at most 7)" in told
    xec("cluster", "submit", "infer", *arguments, "--out", "p", "--tasks", 3, "--merge")
    xec("cluster", "submit", "evaluate", "--run", "run", "d", "--no-baselines", "--device", "cpu", "--out", "reports")
    xec("infer", *arguments, "--output", "whole.root")
    xec.finish("p")
    with uproot.open(xec.folder / "whole.root") as one, uproot.open(xec.folder / "p" / "predictions.root") as two:
        whole, joined = (file["predictions"].arrays(library="np") for file in (one, two))
    for name, values in whole.items():
        np.testing.assert_allclose(joined[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert len(list((xec.folder / "p").glob("part-*"))) == 3
    xec.finish("reports")
    assert (xec.folder / "reports" / "run" / "report.html").exists()


def test_a_notebook_listens_on_loopback_and_its_log_says_how_to_reach_it(xec: Xec, slurm: Slurm) -> None:
    site = site_with_jupyter(xec)
    (xec.folder / "end").touch()
    xec("cluster", "submit", "notebook", "--site", site, "--out", "nb", "--ServerApp.root_dir=/data")
    xec.finish("nb")
    log = xec.log("nb")
    assert "ssh -N -L 8888:127.0.0.1:" in log
    assert "jupyter lab --no-browser --ip=127.0.0.1" in log
    assert "--ServerApp.root_dir=/data" in log


def test_jobs_survive_the_controller_and_forgotten_ones_are_no_success(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path / "slurm").start()
    try:
        xec = Xec(slurm, tmp_path)
        site = site_with_jupyter(xec)
        xec("cluster", "submit", "notebook", "--site", site, "--out", "survives")
        slurm.until(lambda: "jupyter" in xec.log("survives"), "a running job")
        slurm.stop_controller()
        told = xec("cluster", "status", "survives", fails=True)
        assert "SLURM could not be queried" in told
        assert "notebook 0 is unknown" in told
        slurm.start_controller()
        slurm.until(lambda: slurm.call("sinfo", "-h") != "", "controller")
        (tmp_path / "end").touch()
        xec.finish("survives")
        (tmp_path / "end").unlink()
        xec("cluster", "submit", "notebook", "--site", site, "--out", "forgotten")
        slurm.until(lambda: "jupyter" in xec.log("forgotten"), "a running job")
        slurm.kill_processes(xec.jobs("forgotten")[0])
        slurm.stop_controller()
        slurm.start_controller("-c")  # a controller that has lost its memory
        slurm.until(lambda: slurm.call("sinfo", "-h") != "", "controller")
        told = xec("cluster", "status", "forgotten", fails=True)
        assert "notebook 0 is lost" in told
        assert "does not know job" in told
    finally:
        slurm.stop()

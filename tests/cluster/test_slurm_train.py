"""Trainings on a real SLURM: stopped by a time limit, by preemption or with their node, they go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.slurm import Slurm, Xec
from support.synthetic import make_dataset
from support.trained import COLUMNS

from xectrain.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

OPTIONS = (
    *("--preset", "tiny", "--tasks", "energy", "--epochs", "2", "--batch-size", "4", "--device", "cpu"),
    *("--set", "train.deterministic=true", "--set", "train.precision=fp32", "--set", "train.log_every=1"),
    *("--set", "data.epoch_events=120", "--set", "checkpoint.every=5", "--set", "tracking.mlflow=false"),
    *("--set", "checkpoint.save_artifacts=false"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options that name a training and a validation set."""
    folder = tmp_path_factory.mktemp("data")
    sets = [make_dataset(folder / str(n), n, events_per_shard=32, columns=COLUMNS).path for n in (140, 20)]
    return ("--data", str(sets[0]), "--val", str(sets[1]))


@pytest.fixture(scope="module")
def whole(data: tuple[str, ...], slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank that nothing interrupted."""
    xec = Xec(slurm, tmp_path_factory.mktemp("whole"))
    xec("train", *data, *OPTIONS, "--out", "whole")
    return xec.folder / "whole"


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = read_checkpoint(run / "checkpoint_last.pt")
    return {**state["model"], **{f"ema.{name}": tensor for name, tensor in state["ema"].items()}}


def assert_same(one: Path, two: Path) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
    assert (one / "metrics.jsonl").read_bytes().count(b"\n") == (two / "metrics.jsonl").read_bytes().count(b"\n")


def begun(slurm: Slurm, run: Path, lines: int = 5) -> None:
    """Wait until a run has done some steps."""
    metrics = run / "metrics.jsonl"
    slurm.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= lines, f"steps of {run}", 120)


def test_stopped_on_one_node_and_on_two_it_goes_on_to_the_same_weights(
    data: tuple[str, ...], whole: Path, xec: Xec, slurm: Slurm
) -> None:
    xec("cluster", "submit", "train", *data, *OPTIONS, "--nodes", 2, "--out", "whole2")
    for name, nodes in (("one", 1), ("two", 2)):
        xec("cluster", "submit", "train", *data, *OPTIONS, "--nodes", nodes, "--out", name)
        begun(slurm, xec.folder / name)
        slurm.call("scancel", "--batch", "--signal=USR1", str(xec.jobs(name)[0]))
    for name in ("one", "two", "whole2"):
        xec.finish(name)
    for name in ("one", "two"):
        assert "USR1 came: yes, restarts: 0" in xec.log(name)
        assert f"continuing {name}/checkpoint_last.pt at epoch 1" in xec.log(name)
        assert "the run is 'done', srun ended with 0, USR1 came: no, restarts: 1" in xec.log(name)
    assert_same(whole, xec.folder / "one")
    assert_same(xec.folder / "whole2", xec.folder / "two")


def test_preempted_or_with_its_node_gone_it_goes_on_to_the_same_weights(
    data: tuple[str, ...], whole: Path, xec: Xec, slurm: Slurm
) -> None:
    xec("cluster", "submit", "train", *data, *OPTIONS, "--sbatch=--nodelist=127.0.0.1", "--out", "preempted")
    begun(slurm, xec.folder / "preempted")
    urgent = ("--partition=urgent", "--nodelist=127.0.0.1", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    slurm.call("sbatch", *urgent)
    xec("cluster", "submit", "train", *data, *OPTIONS, "--sbatch=--nodelist=127.0.0.2", "--out", "orphaned")
    begun(slurm, xec.folder / "orphaned")
    slurm.lose_node("127.0.0.2", xec.jobs("orphaned")[0])
    slurm.start_node("127.0.0.2")
    for name in ("preempted", "orphaned"):
        xec.finish(name)
        assert "restarts: 1" in xec.log(name)
        assert_same(whole, xec.folder / name)


def test_the_time_limit_itself_requeues(data: tuple[str, ...], xec: Xec, slurm: Slurm) -> None:
    site = xec.folder / "site.yaml"
    site.write_text("name: here\nsignal_seconds: 25\npartitions: {debug: {}}\n")
    endless = ("--epochs", 1000, "--time", 1, "--site", site)
    xec("cluster", "submit", "train", *data, *OPTIONS, *endless, "--out", "long")
    slurm.until(lambda: "restarts: 0" in xec.log("long"), "requeue at the time limit", 120)
    assert "USR1 came: yes, restarts: 0" in xec.log("long")
    assert "waiting" in xec("cluster", "status", "long") or "running" in xec("cluster", "status", "long")
    job = str(xec.jobs("long")[0])
    slurm.until(lambda: {"JobState=RUNNING", "Restarts=1"} <= set(slurm.job(job)), "second run")
    assert "Cancelled 1" in xec("cluster", "cancel", "long")
    assert "train 0 is cancelled" in xec("cluster", "status", "long", fails=True)

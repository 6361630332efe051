"""Conversions as arrays on a real SLURM: the bytes of one process, whatever happens to the elements."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.slurm import Slurm, Xec
from support.trained import write_root

pytestmark = pytest.mark.slow

OPTIONS = ("--events-per-shard", "4", "--split", "train=0.7,val=0.3", "--split-by", "event")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_inputs(folder: Path, files: int, events: int) -> Path:
    folder.mkdir()
    for number in range(files):
        write_root(folder / f"f{number:04d}.root", events, seed=number, first_event=10 * number)
    return folder


def test_elements_that_fail_are_repeated_or_run_twice_leave_the_bytes_of_one_process(xec: Xec, slurm: Slurm) -> None:
    inputs = write_inputs(xec.folder / "inputs", 8, 3)
    whole = ("--max-events", 20, "--select", "energy > 0")  # needs the step that looks through all data first
    xec("ingest", "root2shards", inputs, "--out", "alone", *OPTIONS, *whole)
    slurm.call("scontrol", "update", "partitionname=debug", "state=down")
    submit = ("cluster", "submit", "ingest", inputs, "--out", "array", "--tasks", 4, *OPTIONS, *whole)
    said = xec(*submit)
    assert "Submitted prepare" in said
    prepare, bucket = xec.jobs("array")[:2]
    slurm.call("scontrol", "update", "partitionname=debug", "state=up")
    slurm.until(
        lambda: slurm.call("squeue", "-h", "-t", "all", "-j", str(prepare), "-o", "%T") == "COMPLETED\n", "step 1"
    )
    missing = inputs / "f0002.root"
    missing.rename(xec.folder / "aside.root")
    slurm.call("scontrol", "requeue", f"{bucket}_0")
    slurm.call("sbatch", "--array=0,1", "--output=/dev/null", str(xec.folder / "array.jobs" / "bucket.sbatch"))
    told = xec("cluster", "status", "array", "--wait", fails=True)
    assert "to look at: bucket" in told
    assert "f0002.root: does not exist" in told or "No such file" in told
    assert not (xec.folder / "array" / "train" / "manifest.json").exists()
    (xec.folder / "aside.root").rename(missing)
    assert "Resubmitted" in xec("cluster", "resubmit", "array")
    xec.finish("array")
    assert contents(xec.folder / "array") == contents(xec.folder / "alone")
    assert "Nothing to do" in xec(*submit)
    assert "Nothing to do" in xec("cluster", "resubmit", "array")
    other = ("cluster", "submit", "ingest", inputs, "--out", "array", "--tasks", 5, *OPTIONS)
    assert "another campaign with this output" in xec(*other, fails=True)


def test_a_thousand_files_and_a_thousand_shards(xec: Xec) -> None:
    inputs = write_inputs(xec.folder / "inputs", 1000, 1)
    options = ("--events-per-shard", 1)
    too_many = xec("cluster", "submit", "ingest", inputs, "--out", "array", "--tasks", 1001, *options, fails=True)
    assert "--tasks: exceeds the number of units of work (found 1001, expected at most 1000)" in too_many
    xec("cluster", "submit", "ingest", inputs, "--out", "array", "--tasks", 4, *options)
    xec("ingest", "root2shards", inputs, "--out", "alone", *options)
    xec.finish("array")
    assert len(list((xec.folder / "array" / "shards").glob("*.tar"))) == 1000
    assert contents(xec.folder / "array") == contents(xec.folder / "alone")

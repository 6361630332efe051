from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.ingest_files import digests, events, write_tree

from shards.base import ConfigError, InputError, OutputError
from shards.opening import open_dataset

Run = Callable[..., str]
APP = "ingest.cli:app"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("root") / "a.root", events(40))


def test_options_reach_the_dataset(file: Path, tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "dead.txt").write_text("9  # cable\n")
    out = run_command(
        APP, "root2shards", file, "--out", tmp_path / "d", "--dtype", "float16", "--normalization", "sqrt",
        "--norm-param", "npho_scale=1e4", "--events-per-shard", 7, "--seed", 5, "--select", "u > -100",
        "--max-events", 20, "--time-floor", 10, "--dead", tmp_path / "dead.txt", "--dead-if-invalid-fraction", 0.9,
    )  # fmt: skip
    data = open_dataset(tmp_path / "d", check="full")
    settings = data.manifest.settings
    assert (settings.dtype, settings.normalization.scheme, settings.normalization.npho_scale) == (
        "float16",
        "sqrt",
        1e4,
    )
    assert (data.n_events, settings.events_per_shard, settings.seed) == (20, 7, 5)
    assert settings.conversion["time_floor"] == 10
    assert {entry["sensor"] for entry in settings.conversion["dead"]} >= {9, 17, 4100}
    assert f"{tmp_path / 'd'} written: 20 events of 1 file in 3 shards" in out
    again = run_command(
        APP, "root2shards", file, "--out", tmp_path / "d", "--dtype", "float16", "--normalization", "sqrt",
        "--norm-param", "npho_scale=10000", "--events-per-shard", 7, "--seed", 5, "--select", "u > -100",
        "--max-events", 20, "--time-floor", 10, "--dead", tmp_path / "dead.txt", "--dead-if-invalid-fraction", 0.9,
        "--workers", 2,
    )  # fmt: skip
    assert "is already complete" in again


@pytest.mark.parametrize("split", [(), ("--split", "train=0.5,val=0.5")])
def test_after_the_plan_the_steps_need_nothing_but_the_folder(
    file: Path, tmp_path: Path, run_command: Run, split: tuple[str, ...]
) -> None:
    common = ("root2shards", file, "--events-per-shard", 7, *split)
    run_command(APP, *common, "--out", tmp_path / "whole")
    out = tmp_path / "steps"
    said = run_command(APP, *common, "--out", out, "--step", "plan")
    assert said == f"planned in {out}: 1 file, 40 events, 1 unit of work, at most {6 + len(split) // 2} shards\n"
    for name in ("bucket", "sort"):
        for task in range(2):
            said = run_command(APP, "step", name, "--out", out, "--task-index", task, "--task-count", 2)
            assert said == f"{name} step, task {task} of 2, done for {out}\n"
    run_command(APP, "finalize", "--out", out)
    assert digests(out) == digests(tmp_path / "whole")
    for command in (("step", "bucket"), ("finalize",)):
        assert "is already complete" in run_command(APP, *command, "--out", out)
    assert "is already complete" in run_command(APP, *common, "--out", out, "--step", "plan")


def test_a_plan_is_replaced_as_long_as_nothing_was_done_of_it(file: Path, tmp_path: Path, run_command: Run) -> None:
    common = ("root2shards", file, "--out", tmp_path / "d", "--step", "plan", "--events-per-shard")
    assert "at most 6 shards" in run_command(APP, *common, 7)
    assert "at most 4 shards" in run_command(APP, *common, 10)
    run_command(APP, "step", "bucket", "--out", tmp_path / "d")
    with pytest.raises(OutputError, match="holds an unfinished conversion with a different 'events_per_shard'"):
        run_command(APP, *common, 7)


def test_a_step_without_a_plan_says_how_to_begin(tmp_path: Path, run_command: Run) -> None:
    with pytest.raises(InputError, match=r"no conversion was begun here; begin with `xec ingest root2shards`"):
        run_command(APP, "step", "bucket", "--out", tmp_path)


def test_real_data_are_split_by_run_unless_told_otherwise(tmp_path: Path, run_command: Run) -> None:
    for run in range(8):
        write_tree(tmp_path / f"r{run}.root", events(3, run=run))
    common = ("root2shards", tmp_path, "--schema", "real", "--split", "train=0.5,val=0.5")
    run_command(APP, *common, "--out", tmp_path / "d")
    runs = [set(open_dataset(tmp_path / "d" / name).table()["run"].to_list()) for name in ("train", "val")]
    assert runs[0] | runs[1] == set(range(8))
    assert not runs[0] & runs[1]
    assert "energy" not in open_dataset(tmp_path / "d" / "train").columns
    run_command(APP, *common, "--split-by", "event", "--out", tmp_path / "e")
    runs = [set(open_dataset(tmp_path / "e" / name).table()["run"].to_list()) for name in ("train", "val")]
    assert runs[0] & runs[1]


def test_steps_as_a_cluster_runs_them(file: Path, tmp_path: Path, run_command: Run) -> None:
    common = ("root2shards", file, "--events-per-shard", 9)
    run_command(APP, *common, "--out", tmp_path / "whole")
    for step in ("bucket", "sort"):
        for task in (1, 0):
            out = run_command(
                APP, *common, "--out", tmp_path / "d", "--step", step, "--task-index", task, "--task-count", 2
            )
            assert f"{step} step, task {task} of 2, done" in out
    assert "written: 40 events" in run_command(APP, "finalize", "--out", tmp_path / "d")
    assert digests(tmp_path / "d") == digests(tmp_path / "whole")
    with pytest.raises(ConfigError, match="divide one --step"):
        run_command(APP, *common, "--out", tmp_path / "e", "--task-count", 2)


def test_skipped_files_are_named(file: Path, tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "bad.root").write_bytes(b"nothing")
    out = run_command(APP, "root2shards", file, tmp_path / "bad.root", "--skip-bad-files", "--out", tmp_path / "d")
    assert "skipped 1 file: bad.root" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--norm-param", "npho_scale"), "--norm-param: is not KEY=VALUE"),
        (("--norm-param", "npho_scale=big"), "--norm-param npho_scale: is not a number"),
        (("--norm-param", "scale=1"), "unknown normalization parameter 'scale'"),
        (("--split", "train=0.9"), "fractions do not add up to 1"),
        (("--schema", "reel"), "no schema 'reel'; did you mean 'real'"),
        (("--dead-if-invalid-fraction", "0"), "expected greater than 0"),
        (("--select", "u >"), "is not an expression"),
    ],
)
def test_mistakes_are_named(
    file: Path, tmp_path: Path, run_command: Run, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_command(APP, "root2shards", file, "--out", tmp_path / "d", *arguments)
    assert not list(tmp_path.iterdir())


def test_checksums_are_compared(file: Path, tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "SUMS").write_text("0" * 64 + "  a.root\n")
    with pytest.raises(InputError, match="does not have the listed checksum"):
        run_command(APP, "root2shards", file, "--out", tmp_path / "d", "--checksums", tmp_path / "SUMS")


def test_inspect_tells_everything_before_converting(file: Path, tmp_path: Path, run_command: Run) -> None:
    other = write_tree(tmp_path / "b.root", events(5, run=9))
    out = run_command(APP, "inspect", file, other, "--events", 30)
    for part in (
        "TTree 'tree': 40 entries",
        "relative_time  float[4760]",
        "… and 1 file more; 45 entries in all",
        "uvwTruth[1]",
        "absent: theta, phi",
        "dead-channel candidates: 17, 4100",
        "out_of_domain",
        "every (run, event) occurs once",
        "converting all of it (45 events) gives 1.797 MB",
    ):
        assert part in out
    with pytest.raises(InputError, match="has no branch for npho"):
        write_tree(tmp_path / "c.root", {"x": np.ones(3)})
        run_command(APP, "inspect", tmp_path / "c.root")


def test_dead_lists_are_compared(tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "a.txt").write_text("1\n2  # noisy\n")
    (tmp_path / "b.csv").write_text("run_first,run_last,sensor\n,,1\n5,9,3\n7,,4\n")
    lines = run_command(APP, "dead-diff", tmp_path / "a.txt", tmp_path / "b.csv").splitlines()
    assert lines == [
        f"only in {tmp_path / 'a.txt'}: 1",
        "     2  all runs  bad  noisy",
        f"only in {tmp_path / 'b.csv'}: 2",
        "     3  runs 5–9  bad  b.csv",
        "     4  runs 7–  bad  b.csv",
        "in both: 1",
    ]


def test_an_error_is_one_line_and_a_status(tmp_path: Path) -> None:
    (tmp_path / "x.root").write_bytes(b"PK")
    command = [sys.executable, ROOT / "xec.py", "ingest", "root2shards", tmp_path / "x.root", "--out", tmp_path / "d"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"xec: error: {tmp_path / 'x.root'}: is not a ROOT file (found b'PK' at its start, expected b'root')"
    ]
    assert not (tmp_path / "d").exists()

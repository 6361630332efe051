"""`xec shards`: what the commands say and write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.synthetic import make_dataset

from shards.base import ConfigError, CorruptError, OutputError
from shards.opening import open_dataset
from shards.selection import SavedView

CLI = "shards.cli:app"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "d", events=40, events_per_shard=16).path


def test_info_says_what_the_dataset_is(data: Path, run_command: Callable[..., str]) -> None:
    text = run_command(CLI, "info", data)
    dataset = open_dataset(data)
    for expected in (
        "40 events in 3 shards",
        dataset.fingerprint,
        "standard: npho log1p / 1000 / 4.08, time / 1.14e-07 s +0.46, sentinels -1 / -5",
        "shuffled with seed 0, 16 events a shard",
        "theta            degree   truth",
        f"{dataset.manifest.counts.totals()['dead']:>14} ",
        "50           channels are dead in every event",
        "float16 instead of float32 would round",
        " ps",
        "2 sources",
        "20 of 20        synthetic-0000.root:tree",
    ):
        assert expected in text, expected


def test_info_of_a_part_and_of_float16(tmp_path: Path, run_command: Callable[..., str]) -> None:
    whole = make_dataset(tmp_path / "whole", events=40, events_per_shard=16, dtype="float16", shuffle=False).path
    assert "float16 has rounded (from the spacing" in run_command(CLI, "info", whole)
    assert "as in the sources" in run_command(CLI, "info", whole)
    said = run_command(CLI, "split", whole, "--into", "a=0.5,b=0.5", "--by", "event", "--out", tmp_path / "parts")
    assert "are in the parts a " in said
    text = run_command(CLI, "info", tmp_path / "parts" / "a")
    assert "split          'a' of {'a': 0.5, 'b': 0.5} by event" in text
    assert "dropped events: other splits" in text


def test_info_as_json(data: Path, run_command: Callable[..., str]) -> None:
    value = json.loads(run_command(CLI, "info", data, "--json"))
    assert (value["events"], value["shards"]) == (40, 3)
    assert value["float16_rounding"]["measured"] is True
    assert 1e-11 < value["float16_rounding"]["time"]["rms"] < 3.2e-11
    assert value["bytes"]["tar"] == sum(f.stat().st_size for f in (data / "shards").glob("*.tar"))


def test_verify_lists_every_problem_and_fails(tmp_path: Path, run_command: Callable[..., str]) -> None:
    good = make_dataset(tmp_path / "good", events=20, events_per_shard=8)
    assert "intact, 20 events in 3 shards (sizes" in run_command(CLI, "verify", good.path)
    assert "shards (every byte)" in run_command(CLI, "verify", "--full", good.path)
    bad = make_dataset(tmp_path / "bad", events=20, events_per_shard=8)
    bad.file(0, "idx").unlink()
    os.truncate(bad.file(2, "tar"), 512)
    with pytest.raises(CorruptError, match="1 of 2 datasets damaged"):
        run_command(CLI, "verify", good.path, bad.path)
    command = [sys.executable, "-c", "import xec; xec.main()", "shards", "verify", str(good.path), str(bad.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "000000.idx: is missing" in done.stdout
    assert "000002.tar: has the wrong size (found 512, expected" in done.stdout
    assert "good: intact, 20 events in 3 shards" in done.stdout
    assert done.stderr.strip().endswith("restore the files listed, or convert again")


def test_select_counts_and_writes_a_view(data: Path, tmp_path: Path, run_command: Callable[..., str]) -> None:
    rows = open_dataset(data).rows("w < 20")
    said = run_command(CLI, "select", data, "w < 20", "--out", tmp_path / "view.json")
    assert f"{len(rows)} of 40 events" in said
    assert SavedView.read(tmp_path / "view.json").count == len(rows)
    with pytest.raises(ConfigError, match="unknown column 'ww'"):
        run_command(CLI, "select", data, "ww < 20")


def test_head_prints_the_first_events(data: Path, run_command: Callable[..., str]) -> None:
    table = open_dataset(data).table(["event", "w"])
    text = run_command(CLI, "head", data, "-n", 3, "--columns", "event,w,n_dead")
    assert all(f" {event} " in text for event in table["event"][:3])
    assert f" {table['event'][3]} " not in text
    assert "n_dead" in text
    assert text.rstrip().endswith(f"3 of 40 events of {data}")
    passing = open_dataset(data).rows("w > 30")[:2]
    text = run_command(CLI, "head", data, "-n", 2, "--select", "w > 30", "--columns", "event")
    assert all(f" {event} " in text for event in table["event"].gather(passing))


def test_merge_says_where_the_events_are(data: Path, tmp_path: Path, run_command: Callable[..., str]) -> None:
    other = make_dataset(tmp_path / "other", events=10, events_per_shard=16, first_source=5).path
    said = run_command(CLI, "merge", data, other, "--out", tmp_path / "both")
    assert said == f"{tmp_path / 'both'} holds 50 events of 2 datasets in 4 shards\n"
    assert open_dataset(tmp_path / "both").n_events == 50


def test_listing_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, shards.cli; from typer.main import get_command; get_command(shards.cli.app);"
        "print([m for m in ('numpy', 'torch', 'polars', 'pyarrow', 'nvidia') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_datasets_are_read_without_torch() -> None:
    modules = "shards.dataset, shards.plan, shards.verify, shards.writer"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_select_replaces_its_own_view_and_nothing_else(
    data: Path, tmp_path: Path, run_command: Callable[..., str]
) -> None:
    view = tmp_path / "v.json"
    for expression in ("energy > 0", "energy > 1"):
        run_command(CLI, "select", data, expression, "--out", view)
    assert SavedView.read(view).expression == "energy > 1"
    for other in (data / "manifest.json", data / "shards" / "000000.tar"):
        before = other.read_bytes()
        with pytest.raises(OutputError, match="exists, and is not a view file that this command wrote"):
            run_command(CLI, "select", data, "energy > 0", "--out", other)
        assert other.read_bytes() == before

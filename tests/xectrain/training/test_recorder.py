"""What the first rank writes keeps nobody waiting, and what goes wrong with it is not lost."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from support.training import assert_same_run, config, curve

from shards.base import CorruptError, OutputError
from shards.dataset import Dataset
from xectrain.checkpoint import LAST
from xectrain.training import session
from xectrain.training.background import Background
from xectrain.training.runfolder import RunFolder, read_metrics


def test_a_disk_that_takes_its_time_holds_up_no_step(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk answers only when the last record has been written: with the checkpoint inside training, never."""
    real, main = os.fsync, threading.get_ident()

    def slow(file: int) -> None:
        deadline = time.monotonic() + 120
        while threading.get_ident() != main and time.monotonic() < deadline:
            if (tmp_path / "metrics.jsonl").exists() and len(curve(tmp_path)) == len(curve(undisturbed)):
                break
            time.sleep(0.01)
        assert time.monotonic() < deadline, "a checkpoint was waited for"
        real(file)

    monkeypatch.setattr(os, "fsync", slow)
    session.train(config(dataset, checkpoint__every=1), tmp_path)
    assert_same_run(undisturbed, tmp_path)


def test_a_full_disk_ends_the_run_with_one_line(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, main = os.fsync, threading.get_ident()

    def full(file: int) -> None:
        if threading.get_ident() != main:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OutputError, OSError), match="No space left on device"):
        session.train(config(dataset), tmp_path)
    assert RunFolder(tmp_path).read_state().state == "failed"


def test_work_is_done_in_order_and_what_is_superseded_is_left_out() -> None:
    done: list[str] = []
    begin = threading.Event()
    work = Background("test")
    work.submit(lambda: begin.wait(10))
    for name in ("best 1", "last 1", "other", "best 2", "last 2"):
        work.submit(lambda name=name: done.append(name), None if name == "other" else name.split()[0])  # type: ignore[misc]
    assert not work.close(0.01)
    begin.set()
    assert work.close()
    assert done == ["other", "best 2", "last 2"]


def test_a_failure_in_the_background_is_raised_where_work_is_given() -> None:
    work = Background("test")

    def fail() -> None:
        raise OutputError("cannot be written", file="x")

    work.submit(fail)
    with pytest.raises(OutputError, match="x: cannot be written"):
        work.close()


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"state": 3}', "[" * 3000, '{"state": "done", "epochs": "many"}'])
def test_a_state_of_another_shape_is_named(dataset: Dataset, undisturbed: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / LAST).write_bytes((undisturbed / LAST).read_bytes())
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CorruptError, match=r"state\.json: (is not a valid state|(state|epochs): has a wrong value)"):
        session.train(config(dataset), tmp_path)


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"state": 3}', "[" * 3000, "\xff", '{"kind": NaN}'])
def test_a_line_of_metrics_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    good = '{"kind": "steps", "epoch": 0, "step": 1, "time": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good.encode() + text.encode("latin-1") + b"\n")
    with pytest.raises(CorruptError, match=r"metrics\.jsonl: (line 2: )?is not a (valid )?record of a run"):
        list(read_metrics(tmp_path / "metrics.jsonl"))


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    good = '{"kind": "steps", "epoch": 0, "step": 1, "time": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(good + good[:-10])
    assert len(list(read_metrics(tmp_path / "metrics.jsonl"))) == 1

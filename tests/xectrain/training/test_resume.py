"""A run that was stopped, killed or damaged goes on as if nothing had happened; what does not fit it is refused."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import assert_same_run, at_step, config, curve, launch, signalled, write_config

from shards.base import ConfigError
from shards.dataset import Dataset
from xectrain.checkpoint import LAST, PREVIOUS, newest_valid, previous_names, read_checkpoint
from xectrain.training import session
from xectrain.training.runfolder import RunFolder
from xectrain.training.trainer import Stopped


@pytest.mark.parametrize("step", [1, 3, 4, 7, 8, 14])
def test_stopping_at_any_step_and_continuing_is_as_if_nothing_happened(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    with at_step(step, signalled()), pytest.raises(Stopped, match="stopped by SIGTERM after step"):
        session.train(config(dataset), tmp_path)
    assert RunFolder(tmp_path).read_state().state == "requeue"
    session.train(config(dataset), tmp_path)
    assert_same_run(undisturbed, tmp_path)


def test_a_kill_between_checkpoints_repeats_from_the_last(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from support.training import at_step, signalled\n"
        "from xectrain.modes import load_config\n"
        "from xectrain.training import session\n"
        "with at_step(10, signalled(signal.SIGKILL)):\n"
        "    session.train(load_config([Path(sys.argv[1])]), Path(sys.argv[2]))\n"
    )
    settings = write_config(config(dataset), tmp_path / "c.yaml")
    run = tmp_path / "run"
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", script, str(settings), str(run)]
    done = subprocess.run(command, check=False, capture_output=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert RunFolder(run).read_state().state == "running"
    session.train(config(dataset), run)
    assert_same_run(undisturbed, run)


def test_a_finished_run_is_left_alone(dataset: Dataset, undisturbed: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (undisturbed / LAST).stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        session.train(config(dataset), undisturbed)
    assert "already trained for 2 epochs" in caplog.text
    assert (undisturbed / LAST).stat().st_mtime_ns == before


def test_a_damaged_newest_checkpoint_falls_back(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    with at_step(11, signalled()), pytest.raises(Stopped):
        session.train(config(dataset, checkpoint__every=3), tmp_path)
    (tmp_path / LAST).write_bytes(b"garbage")
    assert (tmp_path / PREVIOUS).exists()
    session.train(config(dataset, checkpoint__every=3), tmp_path)
    assert curve(tmp_path) == curve(undisturbed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model__encoder.width": 256},
            r"model\.encoder\.width: is not what the run began with \(found 256, expected \d+\)",
        ),
        ({"data__normalization": "sqrt"}, "the checkpoint's normalization is not this run's"),
        ({"data__select": "w > 3"}, "the checkpoint's fingerprint is not this run's"),
        ({"tasks__energy.weight": 2}, r"tasks\.energy\.weight: is not what the run began with"),
        ({"data__batch_size": 5}, r"data\.batch_size: is not what the run began with \(found 5, expected 4\)"),
        ({"train__seed": 1}, r"train\.seed: is not what the run began with \(found 1, expected 0\)"),
        ({"checkpoint__resume": "off"}, "already holds a run"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    dataset: Dataset, undisturbed: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        session.train(config(dataset, train__epochs=3, **change), undisturbed)


def test_a_reset_run_begins_anew_from_the_weights_once(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    reset = config(dataset, checkpoint__reset_epoch="true", optim__lr=1e-12, train__ema_decay=0)
    with at_step(10, signalled()), pytest.raises(Stopped):
        session.train(reset, run)
    session.train(reset, run)  # continues, and does not begin a third time
    before, after = read_checkpoint(undisturbed / LAST), read_checkpoint(run / LAST)
    assert all(torch.allclose(after["model"][n], t, atol=1e-7) for n, t in before["model"].items())
    assert after["position"]["global_step"] == before["position"]["global_step"]
    assert [r["step"] for r in curve(run) if r["kind"] == "epoch"] == [7, 14]
    assert (run / "metrics.1.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert not (run / "metrics.2.jsonl").exists()


def test_a_fresh_schedule_begins_once_where_the_run_goes_on(
    dataset: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    longer = config(dataset, train__epochs=4, checkpoint__refresh_lr="true")
    with at_step(10, signalled()), pytest.raises(Stopped):
        session.train(longer, run)
    session.train(longer, run)
    assert read_checkpoint(run / LAST)["position"]["schedule_start"] == 14
    rates = [r["train/lr"] for r in curve(run) if r["kind"] == "steps"]
    first = [r["train/lr"] for r in curve(undisturbed) if r["kind"] == "steps"]
    assert rates[len(first)] == pytest.approx(first[0])


def test_as_many_checkpoints_are_kept_as_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    session.train(config(dataset, checkpoint__every=2, checkpoint__keep=3), tmp_path)
    names = [LAST, *previous_names(3)]
    steps = [read_checkpoint(tmp_path / name)["position"]["global_step"] for name in names]
    assert steps == [14, 12, 10, 8]
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"damaged")
    found = newest_valid(tmp_path)
    assert found is not None
    assert found[1]["position"]["global_step"] == 10


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_identical(dataset: Dataset, tmp_path: Path) -> None:
    chaos = config(dataset, train__epochs=60, checkpoint__every=1)
    settings = write_config(chaos, tmp_path / "c.yaml")
    session.train(chaos, tmp_path / "undisturbed")
    chance = random.Random(6)
    kills = 0
    while kills < 20:
        running = launch(settings, tmp_path / "killed")
        time.sleep(chance.uniform(2.5, 6.0))
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        if running.poll() is None:
            os.killpg(running.pid, number)
            kills += 1
        running.communicate(timeout=60)
        if RunFolder(tmp_path / "killed").read_state().state == "done":
            break
    running = launch(settings, tmp_path / "killed")
    output, _ = running.communicate(timeout=600)
    assert running.returncode == 0, output
    assert kills >= 5
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")


def as_written_before(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it was before the digest: `Optimizer.state_dict()`, in groups that went by names and shapes."""
    exempt = ("embedding", "position", "query", "queries", "balance", "grn", "norm")
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name in state["optimizer"]["state"]:
        tensor = state["model"][name]
        decays = tensor.ndim > 1 and tensor.numel() > max(tensor.shape) and not any(word in name for word in exempt)
        groups.setdefault((name.startswith("model.encoder."), decays), []).append(name)
    order = [name for _, names in sorted(groups.items()) for name in names]
    optimizer = {
        "state": {k: state["optimizer"]["state"][name] for k, name in enumerate(order)},
        "param_groups": [{"params": list(range(len(order))), "lr": 1.0}],
    }
    position = {key: value for key, value in state["position"].items() if key not in ("rate", "spent_s")}
    return {**state, "format": "xec-checkpoint-1", "optimizer": optimizer, "position": position}


def test_a_checkpoint_written_before_is_continued_exactly(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    torch.save(as_written_before(read_checkpoint(undisturbed / PREVIOUS)), tmp_path / LAST)
    shutil.copy(undisturbed / "metrics.jsonl", tmp_path)
    session.train(config(dataset), tmp_path)
    assert_same_run(undisturbed, tmp_path)


def test_a_budget_of_minutes_ends_a_run_and_more_continue_it(dataset: Dataset, tmp_path: Path) -> None:
    settings = {"train__epochs": 10**6, "train__log_every": 1}
    session.train(config(dataset, train__minutes=0.02, **settings), tmp_path)
    first = read_checkpoint(tmp_path / LAST)["position"]
    state = RunFolder(tmp_path).read_state()
    assert (state.state, state.minutes) == ("done", 0.02)
    assert first["spent_s"] > 0
    session.train(config(dataset, train__minutes=0.02 + first["spent_s"] / 60, **settings), tmp_path)
    second = read_checkpoint(tmp_path / LAST)["position"]
    assert second["global_step"] > first["global_step"]
    assert second["spent_s"] > first["spent_s"]
    assert [r["step"] for r in curve(tmp_path) if r["kind"] == "steps"] == list(range(1, second["global_step"] + 1))

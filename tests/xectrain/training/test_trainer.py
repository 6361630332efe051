"""The trainer on tiny data with the tiny network: it learns, resumes exactly, and refuses what does not fit."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from support.synthetic import make_dataset

from shards.base import ConfigError, XecError
from shards.dataset import Dataset
from shards.opening import open_dataset
from xectrain.checkpoint import BEST, LAST, PREVIOUS, newest_valid, previous_names, read_checkpoint
from xectrain.config.tree import Config
from xectrain.modes import load_config
from xectrain.training import session
from xectrain.training.profiling import ACTIVE, PHASES
from xectrain.training.runfolder import RunFolder, read_metrics
from xectrain.training.trainer import Stopped, Trainer

EVENTS = 25


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "a", events=EVENTS, events_per_shard=10)


def config(dataset: Dataset, **sets: Any) -> Config:
    base = {
        "model.preset": "tiny",
        "train.deterministic": "true",
        "train.epochs": 2,
        "train.log_every": 2,
        "data.batch_size": 4,
        "optim.lr": 1e-3,
        "tracking.mlflow": "false",
        "model.encoder.fusion_dropout": 0,
        "model.regressor.head_dropout": 0,
        "tasks.angle.enabled": "false",
        "tasks.energy.enabled": "true",
        "tasks.uvwFI.enabled": "true",
    }
    assignments = [f"{k}={v}" for k, v in {**base, **{k.replace("__", "."): v for k, v in sets.items()}}.items()]
    both = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    return load_config(assignments=assignments, options=both)


def curve(run: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [
        {k: v for k, v in r.items() if k != "time" and not k.startswith("system/")}
        for r in read_metrics(RunFolder(run).metrics)
    ]


def assert_same_run(one: Path, two: Path) -> None:
    a, b = read_checkpoint(one / LAST), read_checkpoint(two / LAST)
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    for name, state in a["optimizer"]["state"].items():
        assert all(torch.equal(v, b["optimizer"]["state"][name][k]) for k, v in state.items())
    assert a["position"] == b["position"]
    assert curve(one) == curve(two)


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    session.train(config(dataset), run)
    return run


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal during optimizer step `step`."""
    original = Trainer._step

    def stepping(self: Trainer, *arguments: Any) -> bool:
        if self.at.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stepping)


@pytest.mark.parametrize("step", [0, 2, 3, 6, 7, 13])
def test_stopping_at_any_step_and_continuing_is_as_if_nothing_happened(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    stop_at(monkeypatch, step)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step"):
        session.train(config(dataset), tmp_path)
    assert RunFolder(tmp_path).read_state()["state"] == "requeue"
    monkeypatch.undo()
    session.train(config(dataset), tmp_path)
    assert_same_run(undisturbed, tmp_path)


def test_a_kill_between_checkpoints_repeats_from_the_last(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from xectrain.training import session\n"
        "from xectrain.modes import load_config\n"
        "from xectrain.training.trainer import Trainer\n"
        "original = Trainer._forward\n"
        "def forward(self, module, batch, epoch):\n"
        "    if self.at.global_step == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, module, batch, epoch)\n"
        "Trainer._forward = forward\n"
        "session.train(load_config([Path(sys.argv[1])]), Path(sys.argv[2]))\n"
    )
    settings = tmp_path / "c.yaml"
    settings.write_text(json.dumps(config(dataset).model_dump(mode="json", exclude_unset=True)))
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", script, str(settings), str(run)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert RunFolder(run).read_state()["state"] == "running"
    session.train(config(dataset), run)
    assert_same_run(undisturbed, run)


def test_a_finished_run_is_left_alone(dataset: Dataset, undisturbed: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (undisturbed / LAST).stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        session.train(config(dataset), undisturbed)
    assert "already trained for 2 epochs" in caplog.text
    assert (undisturbed / LAST).stat().st_mtime_ns == before


def test_a_damaged_newest_checkpoint_falls_back(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 10)
    with pytest.raises(Stopped):
        session.train(config(dataset, checkpoint__every=3), tmp_path)
    monkeypatch.undo()
    (tmp_path / LAST).write_bytes(b"garbage")
    assert (tmp_path / PREVIOUS).exists()
    session.train(config(dataset, checkpoint__every=3), tmp_path)
    assert curve(tmp_path) == curve(undisturbed)


def test_training_learns_and_keeps_the_best(toy_dataset: Path, tmp_path: Path) -> None:
    toy = open_dataset(toy_dataset)
    session.train(
        config(toy, train__epochs=12, schedule__warmup_epochs=1, optim__lr=1e-2, train__ema_decay=0.5), tmp_path
    )
    losses = [r["val/loss"] for r in curve(tmp_path) if r["kind"] == "epoch"]
    assert min(losses) < 0.8 * losses[0]
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["state"], state["best_loss"]) == ("done", min(losses))
    assert read_checkpoint(tmp_path / BEST)["position"]["epoch"] == losses.index(min(losses)) + 1


def test_accumulation_gives_the_same_losses(dataset: Dataset, tmp_path: Path, undisturbed: Path) -> None:
    session.train(config(dataset, optim__grad_accum=2), tmp_path)
    one = [r["train/loss"] for r in curve(undisturbed) if r["kind"] == "steps"]
    two = [r["train/loss"] for r in curve(tmp_path) if r["kind"] == "steps"]
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert len(one) == len(two)


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
        ({"checkpoint__resume": "off"}, "holds a run already"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    dataset: Dataset, undisturbed: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        session.train(config(dataset, train__epochs=3, **change), undisturbed)


def test_a_reset_run_begins_anew_from_the_weights_once(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    reset = config(dataset, checkpoint__reset_epoch="true", optim__lr=1e-12, train__ema_decay=0)
    stop_at(monkeypatch, 9)
    with pytest.raises(Stopped):
        session.train(reset, run)
    monkeypatch.undo()
    session.train(reset, run)  # continues, and does not begin a third time
    before, after = read_checkpoint(undisturbed / LAST), read_checkpoint(run / LAST)
    assert all(torch.allclose(after["model"][n], t, atol=1e-7) for n, t in before["model"].items())
    assert after["position"]["global_step"] == before["position"]["global_step"]
    assert [r["step"] for r in curve(run) if r["kind"] == "epoch"] == [7, 14]
    assert (run / "metrics.1.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert not (run / "metrics.2.jsonl").exists()


def test_a_fresh_schedule_begins_once_where_the_run_goes_on(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    longer = config(dataset, train__epochs=4, checkpoint__refresh_lr="true")
    stop_at(monkeypatch, 23)
    with pytest.raises(Stopped):
        session.train(longer, run)
    monkeypatch.undo()
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


def test_a_profile_has_every_phase_and_changes_nothing(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session.train(config(dataset), tmp_path, profile=True)
    text = (tmp_path / "profile" / "summary.txt").read_text()
    assert text in caplog.text
    assert [line.split()[0] for line in text.splitlines()[1:5]] == list(PHASES)
    assert "aten::" in text
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert sum(e.get("name") == "xec.optimizer" and e.get("cat") == "user_annotation" for e in events) == ACTIVE
    assert_same_run(undisturbed, tmp_path)


def test_the_expected_duration_is_said_before_the_first_step(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("a step came first"))
    with caplog.at_level(logging.INFO), pytest.raises(pytest.fail.Exception):
        session.train(config(dataset), tmp_path)
    assert re.search(r"expecting [\d.e-]+ s per epoch and [\d.e-]+ s in all", caplog.text)


def test_missing_truth_is_refused_by_name(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.xyzFI: .*'x'"):
        session.train(config(dataset, **{"tasks__xyzFI.enabled": "true"}), tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_a_checkpoint(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._forward

    def forward(self: Trainer, module: Any, batch: Any, epoch: int | None) -> Any:
        result, weight = original(self, module, batch, epoch)
        if epoch is not None and self.at.global_step == 9:
            result = result._replace(loss_B=result.loss_B * float("nan"))
        return result, weight

    monkeypatch.setattr(Trainer, "_forward", forward)
    with pytest.raises(XecError, match=r"epoch 2, step 3: loss nan.*dataset rows"):
        session.train(config(dataset), tmp_path)
    assert RunFolder(tmp_path).read_state()["state"] == "failed"
    state = read_checkpoint(tmp_path / LAST)
    assert all(bool(torch.isfinite(t).all()) for t in state["model"].values() if t.dtype == torch.float32)
    session.train(config(dataset, train__max_bad_steps=1), tmp_path)
    assert RunFolder(tmp_path).read_state()["state"] == "done"


def test_init_from_takes_the_encoder_and_nothing_else(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session.train(
            config(dataset, train__epochs=1, checkpoint__init_from=str(undisturbed), optim__lr=1e-9), tmp_path
        )
    assert "tensors taken (encoder)" in caplog.text
    source, state = read_checkpoint(undisturbed / BEST)["ema"], read_checkpoint(tmp_path / LAST)["model"]
    encoder = [n for n in state if n.startswith("model.encoder.") and state[n].is_floating_point()]
    assert all(torch.allclose(state[n], source[n], atol=1e-6) for n in encoder)
    heads = [n for n in state if "heads" in n and n.endswith("weight") and state[n].ndim == 2]
    assert heads
    assert not any(torch.allclose(state[n], source[n], atol=1e-6) for n in heads)


def test_two_ranks_follow_the_losses_of_one(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    settings, run = tmp_path / "c.yaml", tmp_path / "run"
    settings.write_text(json.dumps(config(dataset).model_dump(mode="json", exclude_unset=True)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "xec", "train", "--config", str(settings), "--out", str(run)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    keys = ("train/loss", "val/loss", "train/loss_energy", "val/energy_res_68pct")
    for a, b in zip(curve(undisturbed), curve(run), strict=True):
        for key in keys:
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=2e-4), key


def test_metrics_are_finite_numbers(undisturbed: Path) -> None:
    records = curve(undisturbed)
    assert [r["kind"] for r in records].count("epoch") == 2
    assert all(np.isfinite(v) for r in records for k, v in r.items() if "loss" in k)
    assert all("val/uvw_dist_68pct" in r for r in records if r["kind"] == "epoch")


def launch(settings: Path, run: Path, ranks: int = 0) -> subprocess.Popen[str]:
    """Start a training as a user would, in a process group of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "xec", "train", "--config", str(settings), "--out", str(run)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_identical(dataset: Dataset, tmp_path: Path) -> None:
    chaos = config(dataset, train__epochs=60, checkpoint__every=1)
    settings = tmp_path / "c.yaml"
    settings.write_text(json.dumps(chaos.model_dump(mode="json", exclude_unset=True)))
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
        if RunFolder(tmp_path / "killed").read_state().get("state") == "done":
            break
    running = launch(settings, tmp_path / "killed")
    output, _ = running.communicate(timeout=600)
    assert running.returncode == 0, output
    assert kills >= 5
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_others_down(dataset: Dataset, tmp_path: Path) -> None:
    settings = tmp_path / "c.yaml"
    long = config(dataset, train__epochs=5000)
    settings.write_text(json.dumps(long.model_dump(mode="json", exclude_unset=True)))
    running = launch(settings, tmp_path / "run", ranks=2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / LAST).exists():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    workers = [p for p in psutil.Process(running.pid).children(recursive=True) if "xec" in p.cmdline()]
    workers[-1].kill()
    started = time.monotonic()
    running.communicate(timeout=60)
    assert time.monotonic() - started < 60
    assert running.returncode != 0
    assert not any(p.is_running() for p in workers)


@pytest.mark.slow
def test_another_number_of_ranks_continues_within_rounding(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 4)
    with pytest.raises(Stopped):
        session.train(config(dataset), tmp_path / "run")
    monkeypatch.undo()
    settings = tmp_path / "c.yaml"
    settings.write_text(json.dumps(config(dataset).model_dump(mode="json", exclude_unset=True)))
    running = launch(settings, tmp_path / "run", ranks=3)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    for a, b in zip(curve(undisturbed), curve(tmp_path / "run"), strict=True):
        for key in ("train/loss", "val/loss"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=5e-4), key

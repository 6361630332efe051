"""Several ranks: the losses of one, and the end of one is the end of all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.training import at_step, config, curve, launch, signalled, write_config

from shards.base import ConfigError
from shards.dataset import Dataset
from xectrain.checkpoint import LAST
from xectrain.training import session
from xectrain.training.ranks import Ranks, joined_ranks
from xectrain.training.runfolder import RunFolder
from xectrain.training.trainer import Stopped


def test_two_ranks_follow_the_losses_of_one(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = launch(write_config(config(dataset), tmp_path / "c.yaml"), run, ranks=2)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    said = [
        line
        for line in output.splitlines()
        if "training and" in line or "validation loss" in line or "trained:" in line
    ]
    assert len(said) == 4, "each line is logged once, not once per rank"
    assert "FutureWarning" not in output
    keys = ("train/loss", "val/loss", "train/loss_energy", "val/energy_res_68pct")
    for a, b in zip(curve(undisturbed), curve(run), strict=True):
        for key in keys:
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=2e-4), key


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_others_down(dataset: Dataset, tmp_path: Path) -> None:
    settings = write_config(config(dataset, train__epochs=5000), tmp_path / "c.yaml")
    running = launch(settings, tmp_path / "run", ranks=2)
    wait_for((tmp_path / "run" / LAST).exists, running)
    workers = [p for p in psutil.Process(running.pid).children(recursive=True) if "xec" in p.cmdline()]
    workers[-1].kill()
    running.communicate(timeout=300)  # or it hangs
    assert running.returncode != 0
    assert not any(p.is_running() for p in workers)


@pytest.mark.slow
def test_another_number_of_ranks_continues_within_rounding(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    with at_step(5, signalled()), pytest.raises(Stopped):
        session.train(config(dataset), tmp_path / "run")
    settings = write_config(config(dataset), tmp_path / "c.yaml")
    running = launch(settings, tmp_path / "run", ranks=3)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    for a, b in zip(curve(undisturbed), curve(tmp_path / "run"), strict=True):
        for key in ("train/loss", "val/loss"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=5e-4), key


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "two"},
            "WORLD_SIZE: is not a whole number .found 'two'.; start several ranks",
        ),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE: is not a whole number .found '-1'."),
        ({"WORLD_SIZE": "2"}, "RANK: is not set, but WORLD_SIZE is; start several ranks with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK: is not a whole number .found 'x'."),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: is not a rank .found 2, expected 0 to 1, since WORLD_SIZE is 2."),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR: is not set, but WORLD_SIZE is"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "b"},
            "MASTER_PORT: is not a whole number",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT: is not a port"),
        ({"RANK": "1"}, "RANK: is set, but WORLD_SIZE is not .found '1'.; start several ranks with torchrun, or unset"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "", "MASTER_ADDR": "a"}, "MASTER_PORT: is not set"),
    ],
)
def test_variables_that_make_no_sense_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranks.of(environment)


def test_one_process_needs_no_variables() -> None:
    assert Ranks.of({}) == Ranks.of({"WORLD_SIZE": "1", "RANK": "7"}) == Ranks.of({"WORLD_SIZE": ""}) == Ranks()
    assert Ranks.of({"RANK": "0"}) == Ranks()


def test_ranks_that_do_not_meet_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=rf"^MASTER_ADDR: the ranks cannot meet: .*127\.0\.0\.1:{port}"):
            with joined_ranks():
                pass


@pytest.mark.slow
def test_a_signal_to_torchrun_checkpoints_on_all_ranks(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    settings = write_config(config(dataset, train__epochs=5000, train__log_every=1), tmp_path / "c.yaml")
    run = tmp_path / "run"
    for number in (signal.SIGUSR1, signal.SIGINT):
        before = (run / LAST).read_bytes() if (run / LAST).exists() else b""
        running = launch(settings, run, ranks=2)
        wait_for(lambda: (run / LAST).exists() and (run / LAST).read_bytes() != before, running)  # noqa: B023
        os.killpg(running.pid, number) if number == signal.SIGINT else running.send_signal(number)
        output, _ = running.communicate(timeout=120)
        assert f"stopped by {number.name} after step" in output
        assert RunFolder(run).read_state().state == "requeue"


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    while not condition():
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.1)

"""A signal ends a training after a checkpoint, with the signal's exit status; a second one ends it at once."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.training import at_step, begun, config, launch, signalled, write_config

from shards.dataset import Dataset
from xectrain.checkpoint import LAST, read_checkpoint
from xectrain.training import session
from xectrain.training.runfolder import RunFolder
from xectrain.training.signals import StopRequest
from xectrain.training.trainer import Stopped


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and the program leaves an ignored signal so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]
)
def test_every_signal_ends_the_run_after_a_checkpoint(
    dataset: Dataset, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with at_step(2, signalled(number)), pytest.raises(Stopped, match=f"stopped by {number.name} after") as stopped:
        session.train(config(dataset), tmp_path)
    assert stopped.value.exit_status == status
    assert RunFolder(tmp_path).read_state().state == "requeue"
    assert read_checkpoint(tmp_path / LAST)["position"]["global_step"] == 2


def test_a_second_signal_is_not_held_back() -> None:
    """In a child, for it dies of it."""
    child = os.fork()
    if child == 0:
        with StopRequest({}):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGINT


def test_a_launcher_that_passes_a_signal_on_has_not_asked_twice() -> None:
    with StopRequest({"TORCHELASTIC_RUN_ID": "x"}) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested == signal.SIGINT


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest({}) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_command_has_the_exit_status_of_the_signal(
    dataset: Dataset, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    settings = write_config(config(dataset, train__epochs=5000), tmp_path / "c.yaml")
    running = launch(settings, tmp_path / "run")
    begun(tmp_path / "run", running)
    running.send_signal(number)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == status, output
    assert "Traceback" not in output
    assert RunFolder(tmp_path / "run").read_state().state == "requeue"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_the_command_and_leaves_nothing(
    dataset: Dataset, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    settings, run = write_config(config(dataset, train__epochs=5000), tmp_path / "c.yaml"), tmp_path / "run"
    running = launch(settings, run)
    while not (run / ".lock").exists():  # it looks at its data and builds its network behind this
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.002)
    running.send_signal(number)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == status, output
    assert "Traceback" not in output
    assert not run.exists()


@pytest.mark.slow
def test_a_terminal_that_closes_ends_the_run_after_a_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    settings = write_config(config(dataset, train__epochs=5000), tmp_path / "c.yaml")
    ours, theirs = pty.openpty()
    running = launch(settings, tmp_path / "run", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)
    while not (tmp_path / "run" / LAST).exists():
        assert running.poll() is None
        time.sleep(0.1)
        try:
            while os.read(ours, 65536):
                pass
        except BlockingIOError:
            pass
    os.close(ours)
    running.send_signal(signal.SIGHUP)  # as its shell would
    assert running.wait(timeout=120) == 129
    assert RunFolder(tmp_path / "run").read_state().state == "requeue"


@pytest.mark.parametrize(
    ("checkpoint", "kept"),
    [(None, "nothing was kept"), (Path("run/checkpoint_last.pt"), "run/checkpoint_last.pt is as it was")],
)
def test_a_signal_before_the_first_step_is_answered(
    checkpoint: Path | None, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the network is compiled, the process ends by what `shards.base.cli` does with signals."""
    with pytest.raises(SystemExit), session.told_what_was_kept(checkpoint):
        raise SystemExit(128 + signal.SIGTERM)
    assert caplog.messages == [f"ended before the first step: {kept}; start the same command again"]

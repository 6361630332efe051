import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shards.base import LockedError, locked


def test_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock, "converting"), pytest.raises(LockedError, match=rf"process {os.getpid()} on .*converting"):
        with locked(lock, "converting"):
            pass
    assert not lock.exists()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = tmp_path / ".lock"
    script = (
        "import os, signal, sys; from shards.base import locked\n"
        "with locked(sys.argv[1], 'converting'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(lock)], check=False).returncode == -9
    assert lock.exists()
    with caplog.at_level(logging.WARNING), locked(lock, "converting again"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert "which is gone; taking it over" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": "1", "since": "", "doing": ""}
    lock.write_text(json.dumps(holder))
    with locked(lock, "x"):
        pass


def test_lock_from_another_host_is_respected(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "node17", "pid": 1, "since": "noon", "doing": "converting"}))
    with pytest.raises(LockedError, match=r"on node17 since noon .*remove the lock file"), locked(lock, "x"):
        pass
    assert lock.exists()


def test_unreadable_lock_is_explained(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.write_text("")
    with pytest.raises(LockedError, match="does not name its holder"), locked(lock, "x"):
        pass

import errno
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shards.base import LockedError, OutputError, locked


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


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"state": 3}', "[" * 3000, '{"host": "a", "pid": "x"}', "\xff"])
def test_a_lock_of_another_shape_is_explained(tmp_path: Path, text: str) -> None:
    lock = tmp_path / ".lock"
    lock.write_bytes(text.encode("latin-1"))
    with pytest.raises(LockedError, match="does not name its holder"), locked(lock, "x"):
        pass


def test_a_requeued_job_takes_over_what_its_former_self_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".lock"
    left = {"host": "node17", "pid": 1, "since": "noon", "doing": "converting", "job": "77", "restarts": 0}
    for job, restarts, takes in (("77", "1", True), ("77", "0", False), ("78", "1", False), ("77", "many", False)):
        lock.write_text(json.dumps(left))
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        if takes:
            with locked(lock, "x"):
                assert json.loads(lock.read_text())["restarts"] == 1
        else:
            with pytest.raises(LockedError, match="on node17"), locked(lock, "x"):
                pass


def test_a_lock_of_a_job_that_is_known_to_have_ended_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with locked(lock, "x"):
        left = json.loads(lock.read_text())
    assert left["element"] == "77_3"
    lock.write_text(json.dumps({**left, "host": "node17"}))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "80")
    monkeypatch.setenv("XEC_ENDED_JOBS", "77:77_4")
    with pytest.raises(LockedError, match="on node17"), locked(lock, "x"):
        pass
    monkeypatch.setenv("XEC_ENDED_JOBS", "77_4:77_3")
    with locked(lock, "x"):
        assert json.loads(lock.read_text())["element"] == "80_3"


def test_a_lock_of_another_node_whose_holder_is_silent_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the file system's clock; one that older versions wrote, whose holders give no sign of life, is kept."""
    lock = tmp_path / ".lock"
    with locked(lock, "converting"):
        held = json.loads(lock.read_text())
    for every, silent_s, takes in ((60.0, 600, False), (60.0, 1300, True), (None, 10**6, False)):
        lock.write_text(json.dumps({**held, "host": "node17", "touched_every_s": every}))
        os.utime(lock, (lock.stat().st_mtime - silent_s,) * 2)
        if takes:
            with caplog.at_level(logging.WARNING), locked(lock, "again"):
                assert json.loads(lock.read_text())["host"] == socket.gethostname()
            assert "on node17" in caplog.text
            assert "silent for 22 minutes; taking it over" in caplog.text
        else:
            counts = r" or wait: it counts as gone after 20 minutes without a sign of life" if every else ""
            with pytest.raises(LockedError, match=f"on node17 .*remove the lock file{counts}$"), locked(lock, "again"):
                pass


def test_a_holder_gives_signs_of_life_and_leaves_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shards.base.lock.TOUCHED_EVERY_S", 0.01)
    lock = tmp_path / ".lock"
    with locked(lock, "converting"):
        os.utime(lock, (0, 0))
        while lock.stat().st_mtime == 0:
            pass
        other = json.dumps({"host": "node17", "pid": 1, "since": "noon", "doing": "converting"})
        lock.write_text(other)  # taken over while this process stood still
        while "took over the lock" not in caplog.text:
            pass
    assert lock.read_text() == other


def test_where_there_are_no_hard_links_a_new_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    lock = tmp_path / ".lock"
    with locked(lock, "x"), pytest.raises(LockedError, match=f"process {os.getpid()}"), locked(lock, "y"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_room_for_a_lock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "deep" / ".lock", tmp_path / ("n" * 300) / ".lock"):
        with pytest.raises(OutputError, match=r"cannot be written: (Not a directory|File exists|File name too)"):
            with locked(place, "x"):
                pass


def test_a_holder_without_descriptors_leaves_no_lock_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with locked(tmp_path / "l", "working"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # nothing can be opened any more
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not (tmp_path / "l").exists()

import errno
import os
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from shards.base import OutputError, publish_json, publish_text, published, remove_abandoned
from shards.base.publish import process_alive


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_publishes_and_leaves_nothing_else(tmp_path: Path) -> None:
    publish_text(tmp_path / "deep" / "a.txt", "new")
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert names(tmp_path / "deep") == ["a.txt"]


def test_failing_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), published(target) as part:
        part.write_text("ne")
        raise RuntimeError("halfway")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_failure_is_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left on device"):
        publish_text(target, "new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), published(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()


def test_leftovers_of_dead_processes_are_removed_and_of_living_kept(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    publish_text(tmp_path / "a.txt", "first")
    with published(tmp_path / "a.txt") as part:
        part.write_text("second")
        prefix = part.name.removesuffix(f"{os.getpid()}.part")
    living = tmp_path / f"{prefix}{child.pid}.part"
    living.write_text("being written")
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = tmp_path / f"{prefix}{gone.pid}.part"
    dead.write_text("half")
    try:
        publish_text(tmp_path / "a.txt", "third")
        assert living.exists()
        assert not dead.exists()
    finally:
        child.kill()
        child.wait()


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        publish_json(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []


def test_kill_while_writing_leaves_old_state(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    script = (
        "import os, signal, sys; from shards.base import published\n"
        "with published(sys.argv[1]) as part:\n"
        "    part.write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    import sys

    assert subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == -9
    assert target.read_text() == "old"
    publish_text(target, "new")
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_process_that_nobody_waits_for_is_dead(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert process_alive(child.pid)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with published(tmp_path / "a.txt") as part:
        part.write_text("whole")
        name = part.name.replace(str(os.getpid()), str(child.pid))
    (tmp_path / name).write_text("half")
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["a.txt"]
    child.wait()
    assert not process_alive(child.pid)


def test_a_file_system_that_takes_no_fsync_of_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    publish_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("place", ["file/deep/a.txt", "n" * 300 + "/a.txt", "/".join(["d" * 200] * 25) + "/a.txt"])
def test_places_that_cannot_be_written_are_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot be written: (Not a directory|File exists|File name too long)"):
        publish_text(tmp_path / place, "new")

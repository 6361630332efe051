from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import directio
from shards.directio import DirectFile


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directio, "BUFFER", 8192)


def write(path: Path, pieces: list[bytes]) -> bytes:
    with DirectFile(path) as file:
        for piece in pieces:
            file.write(memoryview(piece))
    return path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.one_of(st.integers(0, 20000), st.sampled_from([4096, 8192, 12288])), max_size=5))
def test_what_is_written_is_what_is_there(tmp_path: Path, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    assert write(tmp_path / "f", pieces) == b"".join(pieces)


def test_a_longer_file_of_the_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(50000))
    assert write(tmp_path / "f", [b"short"]) == b"short"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a tmpfs, which takes no O_DIRECT on older kernels")
def test_other_file_systems(tmp_path: Path) -> None:
    path = Path(f"/dev/shm/xec-test-{os.getpid()}")
    try:
        assert write(path, [bytes(range(256)) * 100]) == bytes(range(256)) * 100
    finally:
        path.unlink()


def test_file_systems_that_refuse_at_opening_or_at_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(30000)
    real_open, real_write = os.open, os.write

    def no_open(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & directio.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", no_open)
    assert write(tmp_path / "a", [data]) == data
    monkeypatch.setattr(os, "open", real_open)
    refused: list[int] = []

    def no_write(handle: int, view: Any) -> int:
        if not refused:
            refused.append(len(view))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(handle, view)

    monkeypatch.setattr(os, "write", no_write)
    assert write(tmp_path / "b", [data]) == data
    assert refused == [8192]


def test_short_writes_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real_write = os.urandom(30000), os.write
    monkeypatch.setattr(os, "write", lambda handle, view: real_write(handle, view[: max(1, len(view) // 2 - 100)]))
    monkeypatch.setattr(directio, "DIRECT", 0)
    assert write(tmp_path / "f", [data]) == data


def test_a_failure_is_raised_and_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, view: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "f", [bytes(100)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before

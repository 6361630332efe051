"""Old state or new state, never a third: everything published is written aside, fsynced and renamed into place."""

from __future__ import annotations

import errno
import glob
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shards.base.outputs import cannot_be_written

_HOST = socket.gethostname().split(".")[0]


@contextmanager
def published(path: Path | str, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds, fsync it and rename it to `path`.

    Args:
        durable: False skips the fsync, for files that carry checksums and can be made again: a killed process leaves
            old or new state all the same, but a machine that crashes may leave a damaged file under the name.

    When the block fails nothing is published and the temporary file is removed. A killed process can leave one behind;
    the next publication of the same name on the same host removes it.

    Raises:
        OutputError: the folder or the file cannot be written (permission, disk full).
    """
    final = Path(path)
    part = final.with_name(f".{final.name}.{_HOST}-{os.getpid()}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final.parent, glob.escape(final.name))
        yield part
        if durable:
            with open(part, "rb") as written:
                os.fsync(written.fileno())
        part.replace(final)
        if durable:
            sync_directory(final.parent)
    except OSError as error:
        mine = error.filename is None or Path(os.fsdecode(error.filename)) in (part, final, *final.parents)
        if not mine:
            raise  # the block failed on another file
        raise cannot_be_written(final, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def publish_text(path: Path | str, text: str) -> None:
    """Publish a UTF-8 text file atomically."""
    with published(path) as part:
        part.write_text(text, encoding="utf-8")


def publish_json(path: Path | str, value: Any) -> None:
    """Publish JSON atomically, two-space indented with keys in the given order, so that equal values give equal bytes.

    NaN and infinities are refused (`ValueError`): JSON has no name for them.
    """
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_directory(folder: Path) -> None:
    """Make renames in `folder` durable, where the file system can: some (SMB, FUSE) take no fsync of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove temporary files left on this host by processes that no longer live.

    Args:
        folder: where to look.
        name: of the file that was to be published, as a glob pattern; any when not given.
    """
    for stale in folder.glob(f".{name}.{glob.escape(_HOST)}-*.part"):
        pid = stale.name.removesuffix(".part").rpartition("-")[2]
        if pid.isdigit() and not process_alive(int(pid)):
            stale.unlink(missing_ok=True)


def process_alive(pid: int) -> bool:
    """Whether a process with this number runs on this host. One that was killed but never waited for does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        return process_stat(pid)[0] not in ("Z", "X")
    except OSError:  # it ended just now
        return not Path("/proc/self").exists()


def process_stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` after the name: the state first, start time in clock ticks as the twentieth."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

"""Lock files naming host, process and start time: `flock` alone is not enough on network file systems.

A holder touches its lock every minute. So one that another node left is known by its age, measured with the clock of
the file system that both write to.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from shards.base.errors import LockedError
from shards.base.outputs import output_errors
from shards.base.publish import process_alive, process_stat

logger = logging.getLogger(__name__)

TOUCHED_EVERY_S = 60.0
"""How often a holder touches its lock [s]."""
SILENT_S = 1200.0
"""A holder on another host that has not touched its lock for so long [s] is gone: longer than a file server is away."""


@contextmanager
def locked(path: Path | str, doing: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    A lock left by a dead process on this host is taken over with a warning, as is one that this SLURM job left on
    another node before it was requeued, that was left by a job named in XEC_ENDED_JOBS (`123_4:125`; `xec cluster
    resubmit` sets it), or whose holder on another host has shown no sign of life for `SILENT_S`.

    Args:
        path: the lock file; its folder is made if necessary.
        doing: what the holder does, for the message another process gets ("converting into data/").

    Raises:
        LockedError: a living (or unreachable) process holds it.
        OutputError: the folder cannot be written.
    """
    lock = Path(path)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_started(os.getpid()),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "doing": doing,
        "job": os.environ.get("SLURM_JOB_ID"),
        "element": _element(),
        "restarts": _restarts(),
        "touched_every_s": TOUCHED_EVERY_S,
    }
    released, taken = threading.Event(), False
    try:
        with output_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            _acquire(lock, mine)
        taken = True
        threading.Thread(target=_touch, args=(lock, mine, released), name="lock", daemon=True).start()
        yield
    finally:  # also where a signal ends the process while the lock is being taken
        released.set()
        with suppress(OSError):
            if (_is_ours_to_remove if taken else _is_held)(lock, mine):
                lock.unlink(missing_ok=True)


def _touch(lock: Path, mine: Mapping[str, object], released: threading.Event) -> None:
    """Give signs of life until the lock is released, or somebody takes it over while this process is suspended."""
    while not released.wait(TOUCHED_EVERY_S):
        with suppress(OSError):  # one sign that fails is not the last
            if not _is_held(lock, mine):
                logger.warning("%s: another process took over the lock while this one was suspended", lock)
                return
            os.utime(lock)


def _is_ours_to_remove(lock: Path, mine: Mapping[str, object]) -> bool:
    """Whether this process holds the lock.

    True, too, if it cannot be read (no descriptor is left): nobody takes over a lock that is touched, and one that
    stays would be held as long as this process lives.
    """
    try:
        return _is_held(lock, mine)
    except OSError:
        return True


def _is_held(lock: Path, mine: Mapping[str, object]) -> bool:
    return lock.exists() and _holder(lock.read_text(errors="replace")) == mine


def _restarts() -> int:
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def _acquire(lock: Path, mine: dict[str, object]) -> None:
    """Create `lock` with its content in one step, or explain who holds it."""
    _remove_abandoned_drafts(lock)
    draft = lock.with_name(f"{lock.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        draft.write_text(json.dumps(mine))
        for _ in range(3):
            try:
                _link(draft, lock)
                return
            except FileExistsError:
                _remove_if_stale(lock, mine, draft)
        raise LockedError("is changing hands faster than it can be taken", file=lock, remedy="try again")
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, lock: Path) -> None:
    """Link is atomic, also on NFS. Where there are no hard links (exFAT, SMB, FUSE), a new file is next best."""
    try:
        os.link(draft, lock)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(handle, draft.read_bytes())
        finally:
            os.close(handle)


def _remove_abandoned_drafts(lock: Path) -> None:
    """Drafts of processes of this host that were killed before they could link and remove them."""
    head = f"{lock.name}.{socket.gethostname()}-"
    for path in lock.parent.iterdir():
        pid = path.name.removeprefix(head)
        if pid != path.name and pid.isdigit() and not process_alive(int(pid)):
            path.unlink(missing_ok=True)


def _holder(text: str) -> dict[str, Any] | None:
    """What a lock file says, None where it is not a lock of ours; not read by `documents`, which is slow to import."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(value, dict) and isinstance(value.get("host"), str) and isinstance(value.get("pid"), int)
    return value if fits else None


def _remove_if_stale(lock: Path, mine: dict[str, object], draft: Path) -> None:
    """Remove the lock of a dead process on this host, of this job's former self, or of one that is silent elsewhere;
    LockedError for any other.
    """
    try:
        text = lock.read_text(errors="replace")
    except FileNotFoundError:
        return
    holder = _holder(text)
    if holder is None:
        raise LockedError(
            "is held, but does not name its holder", file=lock, remedy="remove it if nothing is writing there"
        )
    who = f"process {holder['pid']} on {holder['host']} since {holder.get('since')} ({holder.get('doing')})"
    if _is_former_self(holder, mine):
        _take_over(lock, text, f"left by this job before it was requeued ({who})")
        return
    if holder.get("element") in os.environ.get("XEC_ENDED_JOBS", "").split(":"):
        _take_over(lock, text, f"left by a job that has ended ({who})")
        return
    if holder["host"] != socket.gethostname():
        _take_over_if_silent(lock, text, who, draft, bool(holder.get("touched_every_s")))
        return
    pid = holder["pid"]
    if process_alive(pid) and _process_started(pid) == holder.get("process_started"):
        raise LockedError(f"is held by {who}", file=lock, remedy="wait for it to end")
    _take_over(lock, text, f"left by {who}, which is gone")


def _take_over_if_silent(lock: Path, text: str, who: str, draft: Path, is_touched: bool) -> None:
    """Remove the lock of a process on another host that has not touched it for long; LockedError where it has.

    Args:
        draft: a file written there a moment ago: its time is the file system's now.
        is_touched: whether the holder says that it touches its lock (older versions do not).
    """
    try:
        silence_s = draft.stat().st_mtime - lock.stat().st_mtime
    except FileNotFoundError:
        return
    if is_touched and silence_s > SILENT_S:
        _take_over(lock, text, f"left by {who}, silent for {silence_s / 60:.0f} minutes")
        return
    remedy = "if that process is gone, remove the lock file"
    if is_touched:
        remedy += f" or wait: it counts as gone after {SILENT_S / 60:.0f} minutes without a sign of life"
    raise LockedError(f"is held by {who}", file=lock, remedy=remedy)


def _is_former_self(holder: Mapping[str, Any], mine: Mapping[str, object]) -> bool:
    """Whether the lock is of the same SLURM job, of a start before this one: SLURM ends a job before it requeues it."""
    before, now = holder.get("restarts"), mine["restarts"]
    return bool(
        mine["job"] and holder.get("job") == mine["job"] and isinstance(before, int) and before < cast(int, now)
    )


def _element() -> str | None:
    """The SLURM job or array element that this process runs in, as SLURM writes it: `123`, `123_4`."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _take_over(lock: Path, text: str, reason: str) -> None:
    """Remove a lock whose content is `text`, unless somebody else was faster."""
    logger.warning("%s: %s; taking it over", lock, reason)
    aside = lock.with_name(f"{lock.name}.stale-{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_text(errors="replace") != text:  # somebody else took it over since our look: give it back
        _link(aside, lock)
    aside.unlink()


def _process_started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, which tells a process from a later one of the same number."""
    try:
        return process_stat(pid)[19]
    except OSError:
        return None

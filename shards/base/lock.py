"""Lock files naming host, process and start time: `flock` alone is not enough on network file systems."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from shards.base.errors import LockedError
from shards.base.publish import process_alive

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path | str, doing: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    A lock left by a dead process on this host is taken over with a warning; one from another host is never touched.

    Args:
        path: the lock file; its folder is made if need be.
        doing: what the holder does, for the message another process gets ("converting into data/").

    Raises:
        LockedError: a living (or unreachable) process holds it.
    """
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_started(os.getpid()),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "doing": doing,
    }
    _acquire(lock, mine)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _acquire(lock: Path, mine: dict[str, object]) -> None:
    """Create `lock` with its content in one step (link is atomic, also on NFS), or explain who holds it."""
    _remove_abandoned_drafts(lock)
    draft = lock.with_name(f"{lock.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        draft.write_text(json.dumps(mine))
        for _ in range(3):
            try:
                os.link(draft, lock)
                return
            except FileExistsError:
                _remove_if_stale(lock)
        raise LockedError("changes hands faster than it can be taken", file=lock, remedy="try again")
    finally:
        draft.unlink(missing_ok=True)


def _remove_abandoned_drafts(lock: Path) -> None:
    """Drafts of processes of this host that were killed before they could link and remove them."""
    head = f"{lock.name}.{socket.gethostname()}-"
    for path in lock.parent.iterdir():
        pid = path.name.removeprefix(head)
        if pid != path.name and pid.isdigit() and not process_alive(int(pid)):
            path.unlink(missing_ok=True)


def _remove_if_stale(lock: Path) -> None:
    """Remove the lock of a dead process on this host; raise LockedError for any other."""
    try:
        text = lock.read_text()
        holder = json.loads(text)
    except FileNotFoundError:
        return
    except ValueError:
        raise LockedError(
            "is held, but does not name its holder", file=lock, remedy="remove it if nothing writes there"
        ) from None
    who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')} ({holder.get('doing')})"
    if holder.get("host") != socket.gethostname():
        raise LockedError(f"is held by {who}", file=lock, remedy="if that process is gone, remove the lock file")
    pid = int(holder["pid"])
    if process_alive(pid) and _process_started(pid) == holder.get("process_started"):
        raise LockedError(f"is held by {who}", file=lock, remedy="wait for it to end")
    logger.warning("%s: left by %s, which is gone; taking it over", lock, who)
    aside = lock.with_name(f"{lock.name}.stale-{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_text() != text:  # somebody else took it over between our look and our rename: give it back
        os.link(aside, lock)
    aside.unlink()


def _process_started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, which tells a process from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None

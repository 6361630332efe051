"""How many cores this process may keep busy, and how many others keep busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
USAGE = Path("/proc/stat")
LIMITS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
"""Variables that say how many cores a process should use. None has to be set; one that is set is obeyed."""


def free_cores(
    environment: Mapping[str, str] = os.environ, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> int:
    """Cores for this process, at least 1: the smallest of its affinity, the quotas of its control groups (whole cores,
    as containers and SLURM set them), and what `OMP_NUM_THREADS` (torchrun sets it) or `SLURM_CPUS_PER_TASK` say."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = (environment.get(name, "").partition(",")[0].strip() for name in LIMITS)  # OpenMP: one number a level
    named = [int(text) for text in said if text.isascii() and text.isdigit()]
    return max(1, min([affinity, *_quotas(cgroups, membership), *named]))


class Neighbours:
    """How much of this process's cores others have used since the last call."""

    def __init__(self, usage: Path = USAGE, clock: Callable[[], float] = time.monotonic) -> None:
        """Start measuring.

        Args:
            usage: the kernel's table of what every core did.
            clock: seconds.
        """
        self._usage, self._clock = usage, clock
        self._began, self._before = clock(), self._others_s()

    @property
    def seconds(self) -> float:
        """Since the last call."""
        return self._clock() - self._began

    def look(self) -> float | None:
        """Cores that others kept busy on average since the last look; None where the system does not say."""
        seconds, now = self.seconds, self._others_s()
        before, self._began, self._before = self._before, self._clock(), now
        return None if before is None or now is None or seconds <= 0 else max(0.0, (now - before) / seconds)

    def _others_s(self) -> float | None:
        """Seconds that others have used of the cores of this process, since whenever.

        Source: proc_stat(5). What the host of a virtual machine takes for itself (`steal`) counts, and so does what
        runs at a lower priority: it takes slices of a core all the same.
        """
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        ticks = 0
        for line in _text(self._usage).splitlines():
            name, *columns = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
                ticks += user + nice + system + irq + softirq + steal
        mine = os.times()
        return ticks / os.sysconf("SC_CLK_TCK") - mine.user - mine.system if ticks else None


def _quotas(cgroups: Path, membership: Path) -> list[int]:
    """Cores that the control groups of this process, and those above them, allow; rounded down.

    Source: the kernel's documentation of control groups, versions 1 (`cpu.cfs_quota_us`) and 2 (`cpu.max`).
    """
    found = []
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if (cgroups / controllers).is_dir() else cgroups / "cpu"
        path = PurePosixPath(group.lstrip("/"))
        for place in (root / path, *(root / above for above in path.parents)):
            if controllers:
                limit = f"{_text(place / 'cpu.cfs_quota_us')} {_text(place / 'cpu.cfs_period_us')}".split()
            else:
                limit = _text(place / "cpu.max").split()
            if len(limit) == 2 and all(part.isdigit() for part in limit):  # else `max`, or −1: none
                found.append(int(limit[0]) // int(limit[1]))
    return found


def _text(path: Path) -> str:
    """What a kernel file says; nothing where it cannot be read, as in a container without control groups."""
    try:
        return path.read_text()
    except OSError:
        return ""

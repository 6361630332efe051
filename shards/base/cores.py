"""How many cores this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LIMITS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
"""Variables that say how many cores a process shall use. Nobody has to set one; where one is set it is meant."""


def free_cores(
    environment: Mapping[str, str] = os.environ, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> int:
    """Cores for this process, at least 1: the smallest of its affinity, the quotas of its control groups (whole cores,
    as containers and SLURM set them), and what `OMP_NUM_THREADS` (torchrun sets it) or `SLURM_CPUS_PER_TASK` say."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = (environment.get(name, "").partition(",")[0].strip() for name in LIMITS)  # OpenMP: one number a level
    named = [int(text) for text in said if text.isascii() and text.isdigit()]
    return max(1, min([affinity, *_quotas(cgroups, membership), *named]))


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
    """What a file of the kernel says; nothing where it is not to be read, as in a container without control groups."""
    try:
        return path.read_text()
    except OSError:
        return ""

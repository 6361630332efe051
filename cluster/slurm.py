"""Calls to SLURM's commands. Nothing here depends on accounting: `sacct` is asked only where it answers."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shards.base import ConfigError, XecError

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""States of a job that is waiting to run, perhaps again."""
ACTIVE = WAITING | {"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
"""States of a job that has not ended."""

Key = tuple[int, int | None]
"""(job or array id, array index)."""


class SlurmError(XecError):
    """SLURM refused, or does not answer."""


@dataclass(frozen=True)
class Seen:
    """What SLURM says about a job or an element."""

    state: str
    """PENDING, RUNNING, COMPLETED …"""
    reason: str = ""
    """Why it waits or ended."""

    @property
    def active(self) -> bool:
        """Whether it is waiting, running, or about to."""
        return self.state in ACTIVE


def require() -> None:
    """Raises:
    ConfigError: SLURM's commands are not installed here.
    """
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(name) is None:
            raise ConfigError(
                f"there is no {name} on this machine",
                remedy="submit from a login node of the cluster; `xec cluster render` prints the scripts anywhere",
            )


def sbatch(script: str, options: Sequence[str]) -> tuple[int, str | None]:
    """Submit a script; the job id, and the cluster where SLURM names one.

    Raises:
        SlurmError: it was refused.
    """
    done = run("sbatch", "--parsable", *options, script)
    if done.returncode != 0:
        raise SlurmError("was refused by sbatch", file=script, found=_message(done.stderr))
    number, _, cluster = done.stdout.strip().splitlines()[-1].partition(";")
    return int(number), cluster or None


def release(job: int, cluster: str | None) -> None:
    """Let a job that was submitted with `--hold` run.

    Raises:
        SlurmError: it cannot be released.
    """
    done = run("scontrol", *_on(cluster), "release", str(job))
    if done.returncode != 0:
        raise SlurmError(f"job {job} cannot be released", found=_message(done.stderr))


def cancel(job: int, cluster: str | None, indices: str | None = None) -> bool:
    """Cancel a job or some elements of an array; False when SLURM does not know it."""
    if indices is None:
        names = [str(job)]
    else:
        names = [f"{job}_[{indices}]"]
    done = run("scancel", *_on(cluster), *names)
    return done.returncode == 0


def max_array_size() -> int | None:
    """SLURM's MaxArraySize, if the controller answers."""
    done = run("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return int(found.group(1)) if found else None


def look(clusters: Iterable[str | None], jobs: Iterable[int]) -> dict[Key, Seen]:
    """Everything SLURM knows about these jobs: from the queue, and from the accounting where there is one.

    Args:
        clusters: where to ask; None is the default cluster.
        jobs: ids of jobs and arrays.

    Raises:
        SlurmError: the controller does not answer. (That a job is unknown is not an error.)
    """
    wanted = set(jobs)
    seen: dict[Key, Seen] = {}
    for cluster in sorted(set(clusters), key=str):
        seen |= _from_queue(cluster, wanted)
        missing = wanted - {job for job, _ in seen}
        if missing and shutil.which("sacct"):
            seen = _from_accounting(cluster, missing) | seen
    return seen


def _from_queue(cluster: str | None, wanted: set[int]) -> dict[Key, Seen]:
    done = run("squeue", *_on(cluster), "--me", "-h", "-r", "-t", "all", "-o", "%F|%K|%T|%r")
    if done.returncode != 0:
        raise SlurmError("the controller does not answer", found=_message(done.stderr))
    seen = {}
    for line in done.stdout.splitlines():
        parts = line.split("|")
        if len(parts) == 4 and parts[0].isdigit() and int(parts[0]) in wanted:
            index = int(parts[1]) if parts[1].isdigit() else None
            seen[int(parts[0]), index] = Seen(parts[2], "" if parts[3] == "None" else parts[3])
    return seen


def _from_accounting(cluster: str | None, jobs: set[int]) -> dict[Key, Seen]:
    names = ",".join(map(str, sorted(jobs)))
    done = run("sacct", *_on(cluster), "-n", "-P", "-X", "-j", names, "-o", "JobID,State")
    seen: dict[Key, Seen] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        name, _, state = line.partition("|")
        found = re.fullmatch(r"(\d+)(?:_(\d+))?", name)
        if found and state:
            index = int(found.group(2)) if found.group(2) else None
            seen[int(found.group(1)), index] = Seen(state.split()[0], "")
    return seen


def _on(cluster: str | None) -> tuple[str, ...]:
    return ("-M", cluster) if cluster else ()


def _message(text: str) -> str:
    """SLURM's own words, on one line, without the command's name before them."""
    lines = [line.partition("error: ")[2] or line for line in text.strip().splitlines()]
    return "; ".join(lines) or "no message"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a SLURM command.

    Raises:
        SlurmError: it is not installed, or does not answer in time.
    """
    # A job's own variables would become options of jobs submitted from inside it.
    clean = {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(("SLURM_", "SBATCH_"))}
    try:
        return subprocess.run(words, env=clean, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise SlurmError(f"there is no {words[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer within {TIMEOUT_S:.0f} s") from None

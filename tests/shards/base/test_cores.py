"""Cores: the least of what the system, its containers and the batch system grant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.base import Neighbours, free_cores

HERE = len(os.sched_getaffinity(0))
NOTHING = Path("/nowhere")


def alone(environment: dict[str, str]) -> int:
    """Cores where no control group limits them."""
    return free_cores(environment, NOTHING, NOTHING)


def test_without_limits_it_is_the_affinity():
    assert alone({}) == HERE
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert alone({}) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "1"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,2"}, 1),  # a number for each level
        ({"OMP_NUM_THREADS": "0"}, 1),
        ({"OMP_NUM_THREADS": ""}, HERE),
        ({"OMP_NUM_THREADS": "many", "SLURM_CPUS_PER_TASK": "10000"}, HERE),
    ],
)
def test_variables_lower_it(environment, cores):
    assert alone(environment) == cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("150000 100000", 1), ("max 100000", HERE)])
def test_quotas_of_version_2_hold_also_from_above(tmp_path, quota, cores):
    write(tmp_path / "membership", "0::/job/step\n")
    write(tmp_path / "job/cpu.max", quota)
    write(tmp_path / "job/step/cpu.max", "max 100000\n")
    assert free_cores({}, tmp_path, tmp_path / "membership") == cores


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("50000", 1), ("-1", HERE)])
@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_quotas_of_version_1(tmp_path, folder, quota, cores):
    write(tmp_path / "membership", "7:memory:/job\n4:cpu,cpuacct:/job\n0::/\n")
    write(tmp_path / folder / "job/cpu.cfs_quota_us", quota)
    write(tmp_path / folder / "job/cpu.cfs_period_us", "100000")
    assert free_cores({}, tmp_path, tmp_path / "membership") == cores


def test_a_container_sees_its_own_quota_at_the_root(tmp_path):
    write(tmp_path / "membership", "0::/as/the/host/calls/it\n")
    write(tmp_path / "cpu.max", "100000 100000")
    assert free_cores({}, tmp_path, tmp_path / "membership") == 1


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def used(path: Path, *ticks_by_core: int) -> None:
    """What the kernel would say of cores that were busy for so long."""
    columns = "0 0 {} 5 0 0 0 0 0 0"
    write(
        path,
        "cpu 9 9 9 9 9 9 9 9 9 9\n" + "".join(f"cpu{k} {columns.format(t)}\n" for k, t in enumerate(ticks_by_core)),
    )


def test_neighbours_are_what_is_busy_on_our_cores_and_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    hz, clock = os.sysconf("SC_CLK_TCK"), Clock()
    used(tmp_path / "stat", 100 * hz, 100 * hz, 100 * hz)
    neighbours = Neighbours(tmp_path / "stat", clock)
    used(tmp_path / "stat", 101 * hz, 900 * hz, 102 * hz)  # the second core is not ours
    clock.now = 2.0
    assert neighbours.seconds == 2.0
    assert neighbours.look() == pytest.approx(1.5, abs=0.2)  # less what this process used meanwhile
    clock.now = 4.0
    assert neighbours.look() == pytest.approx(0, abs=0.2)


def test_neighbours_that_nobody_counts_are_unknown(tmp_path):
    clock = Clock()
    neighbours = Neighbours(tmp_path / "stat", clock)
    clock.now = 1.0
    assert neighbours.look() is None


def test_this_machine_counts_its_cores():
    neighbours = Neighbours()
    while neighbours.seconds < 0.05:
        pass
    busy = neighbours.look()
    assert busy is None or 0 <= busy <= HERE + 1

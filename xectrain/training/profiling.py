"""Where a training step's time goes: a trace for a viewer and a summary for one screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from shards.base import publish_text

logger = logging.getLogger(__name__)

WARM_UP, ACTIVE = 3, 5
"""Optimizer steps before the profile, and in it."""
PHASES = ("data", "forward", "backward", "optimizer")
OPERATORS = 15


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name a part of a step, one of `PHASES`, in traces."""
    with record_function(f"xec.{name}"):
        yield


class StepProfiler:
    """Profiles steps `WARM_UP` … `WARM_UP + ACTIVE` of a run, then stands aside. A context manager.

    Writes `profile/trace.json` (open it at ui.perfetto.dev or chrome://tracing) and `profile/summary.txt`, which is
    logged, too.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder / "profile", device
        cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda],
            schedule=schedule(wait=0, warmup=WARM_UP, active=ACTIVE, repeat=1),
            on_trace_ready=self._publish,
            acc_events=True,
        )

    def __enter__(self) -> StepProfiler:
        self._profile.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._profile.stop()

    def step(self) -> None:
        """Note that an optimizer step has ended."""
        if self._profile.step_num < WARM_UP + ACTIVE:
            self._profile.step()

    def _publish(self, finished: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(self._folder / "trace.json"))
        text = summary(finished, self._device)
        publish_text(self._folder / "summary.txt", text)
        logger.info("profile of %d steps, trace in %s\n%s", ACTIVE, self._folder / "trace.json", text)


def summary(finished: profile, device: torch.device) -> str:
    """Milliseconds per step of each phase, and the operators that take most of the time, as text.

    Phases are times of the Python thread: on a GPU the work they start continues after them, and is in the operators.
    """
    events = finished.key_averages()
    gpu = device.type == "cuda"
    by_name = {event.key: event for event in events}
    took = {p: by_name[f"xec.{p}"].cpu_time_total / 1e3 / ACTIVE for p in PHASES if f"xec.{p}" in by_name}
    total = max(sum(took.values()), 1e-9)
    lines = [f"{'phase':<12}{'ms per step':>12}{'share':>8}"]
    lines += [f"{name:<12}{ms:12.2f}{ms / total:8.1%}" for name, ms in took.items()]
    lines += ["", f"{'operator':<44}{'calls':>8}{'ms per step':>12}{'share':>8}"]

    def own(event: object) -> float:
        return float(getattr(event, "self_device_time_total" if gpu else "self_cpu_time_total")) / 1e3 / ACTIVE

    operators = [e for e in events if not e.key.startswith(("xec.", "ProfilerStep"))]
    every = max(sum(own(e) for e in operators), 1e-9)
    for event in sorted(operators, key=own, reverse=True)[:OPERATORS]:
        lines.append(
            f"{event.key[:43]:<44}{event.count / ACTIVE:8.1f}{own(event):12.2f}{own(event) / every:8.1%}",
        )
    if gpu:
        lines += ["", f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"]
    return "\n".join(lines) + "\n"

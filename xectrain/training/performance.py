"""How fast a run goes and what holds it up: time waiting for data, events per second, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch

from xectrain.training.profiling import phase

T = TypeVar("T")
GIB = 1024**3


class Usage:
    """Measures one rank's training loop between records. Waiting for data and validation are kept separate."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._restart()
        self._epoch_wait, self._epoch_batches = 0.0, 0
        self._shown = ""

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` on, measuring how long each one makes the loop wait."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                with phase("data"):
                    batch = next(iterator)
            except StopIteration:
                return
            self._wait += time.perf_counter() - started
            self._batches += 1
            self._events += int((batch.weight > 0).sum()) if hasattr(batch, "weight") else 0
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside (validation) out of the account."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def of_steps(self) -> dict[str, float]:
        """Rates since the last call: events/s of this rank, seconds waited per micro-batch, share of time waiting."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        rates = {
            "system/throughput_events_per_sec": self._events / seconds,
            "system/avg_data_load_sec": self._wait / max(1, self._batches),
            "system/waiting_share": self._wait / seconds,
        }
        self._epoch_wait += self._wait
        self._epoch_batches += self._batches
        self._restart()
        return rates

    def live(self) -> str:
        """Rate and waiting share since the last `of_steps`, for the progress display."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        if self._events:
            self._shown = f"{self._events / seconds:.0f} events/s, {self._wait / seconds:.1%} waiting for data"
        return self._shown

    def of_epoch(self, seconds: float, events: int) -> dict[str, float]:
        """System metrics of an epoch of `events` events over all ranks that took `seconds`."""
        wait, batches = self._epoch_wait, self._epoch_batches
        self._epoch_wait, self._epoch_batches = 0.0, 0
        facts: dict[str, Any] = {
            "system/epoch_duration_sec": seconds,
            "system/throughput_events_per_sec": events / max(seconds, 1e-9),
            "system/avg_data_load_sec": wait / max(1, batches),
            "system/compute_efficiency": max(0.0, 1.0 - wait / max(seconds, 1e-9)),
            "system/ram_used_gb": psutil.Process().memory_info().rss / GIB,
        }
        if self.device.type == "cuda":
            allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
            facts["system/memory_allocated_GB"] = allocated / GIB
            facts["system/memory_reserved_GB"] = reserved / GIB
            facts["system/memory_peak_GB"] = torch.cuda.max_memory_allocated(self.device) / GIB
            facts["system/memory_fragmentation"] = 1.0 - allocated / reserved if reserved else 0.0
            facts["system/gpu_utilization_pct"] = float(torch.cuda.utilization(self.device))
        return facts

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._wait, self._batches, self._events = 0.0, 0, 0

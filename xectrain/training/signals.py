"""Signals that ask a run to checkpoint and stop: from a scheduler, Ctrl-C, or a closing terminal."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
TOLD_TWICE_S = 5.0
"""Under `torchrun`, a process gets a signal from whoever sends it to all processes (a terminal, a scheduler) and once
more from its launcher. Within this time [s] of the first, they are one request."""


class StopRequest:
    """While entered, remembers a signal instead of dying from it. Outside the main thread it does nothing.

    A second signal ends the process at once.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.requested: signal.Signals | None = None
        self._since = 0.0
        self._told_twice = TOLD_TWICE_S if "TORCHELASTIC_RUN_ID" in environment else 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN]  # else: nohup
            self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if self.requested is None:
            self.requested, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since >= self._told_twice:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _leave_terminal() -> None:
    """Write nothing more to a terminal that has closed: every attempt would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # a closed one says that it is not a terminal
            os.dup2(nowhere, stream)
    os.close(nowhere)

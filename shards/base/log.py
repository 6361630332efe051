"""One log style: Rich on a terminal, plain lines elsewhere; and one progress display that follows the same rule."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

PLAIN_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
PLAIN_INTERVAL_S = 15.0
OURS = ("shards", "ingest", "pipelines", "xectrain", "cluster", "xec")


def setup_logging(debug: bool = False, file: Path | None = None) -> None:
    """Send this project's messages to stderr (INFO, or DEBUG) and other libraries' warnings with them.

    Args:
        debug: also show DEBUG messages.
        file: additionally append plain lines to this file.
    """
    handlers: list[logging.Handler] = []
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        rich = RichHandler(console=Console(stderr=True), show_path=debug, omit_repeated_times=False, markup=False)
        rich.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
        handlers.append(rich)
    else:
        plain = logging.StreamHandler(sys.stderr)
        plain.setFormatter(logging.Formatter(PLAIN_FORMAT, datefmt="%H:%M:%S"))
        handlers.append(plain)
    if file is not None:
        to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        to_file.setFormatter(logging.Formatter(PLAIN_FORMAT))
        handlers.append(to_file)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)


def size_text(size: float) -> str:
    """A size in bytes, for people: "330 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def counted(number: int, thing: str) -> str:
    """A number of things, for people: "1 shard", "12 shards"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def printable(name: str) -> str:
    """A name that is not UTF-8 (old disks) as text that can be written anywhere: the odd bytes as `\\xf6`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def duration_text(seconds: float) -> str:
    """A duration, for people: "0.45 s", "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` (loss, rate …) is shown after the bar."""


@contextmanager
def progress(what: str, total: int, unit: str = "events") -> Iterator[Progress]:
    """Show progress through `total` units: a bar with time left on a terminal, lines now and then in a log.

    Where this module's messages are not wanted (the other ranks of a run), nothing is shown.
    """
    if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        with _bar(what, total, unit) as bar:
            yield bar
    else:
        lines = _Lines(what, total, unit)
        yield lines
        lines.finish()


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total, note="")

        class Bar:
            def advance(self, count: int = 1, note: str = "") -> None:
                display.update(task, advance=count, note=note)

        yield Bar()


class _Lines:
    """Progress as log lines, one every PLAIN_INTERVAL_S and one at the end."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.note = 0, ""
        self.started = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= PLAIN_INTERVAL_S:
            self.last = now
            rate = self.done / max(now - self.started, 1e-9)
            left = (self.total - self.done) / rate if rate else float("inf")
            logger.info(
                "%s: %d of %d %s, %.0f/s, %.0f s left%s",
                self.what,
                self.done,
                self.total,
                self.unit,
                rate,
                left,
                f", {self.note}" if self.note else "",
            )

    def finish(self) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        note = f", {self.note}" if self.note else ""
        logger.info(
            "%s: %d %s in %.1f s (%.0f/s)%s", self.what, self.done, self.unit, seconds, self.done / seconds, note
        )

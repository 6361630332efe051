"""One error family. The command line prints `str(error)` on one line; `--debug` adds the traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class XecError(Exception):
    """A problem the user can act on: which file, which object in it, what was found, what was expected, what to do.

    Args:
        problem: what is wrong, a short clause without a full stop.
        file: the file or folder concerned.
        item: the object inside it (a branch, a shard member, a config path).
        found: what was there.
        expected: what should have been there.
        remedy: what the user can do about it, a short clause.
    """

    exit_status = 1
    """Exit status of a command that ends with this error."""

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        item: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.file, self.item = problem, file, item
        self.found, self.expected, self.remedy = found, expected, remedy
        place = "".join(f"{part}: " for part in (file, item) if part is not None)
        facts = [f"{name} {value}" for name, value in (("found", found), ("expected", expected)) if value is not None]
        detail = f" ({', '.join(facts)})" if facts else ""
        advice = f"; {remedy}" if remedy else ""
        super().__init__(" ".join(f"{place}{problem}{detail}{advice}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Keyword-only arguments do not survive the default pickling between worker processes."""
        return _rebuild, (type(self), self.problem, self.file, self.item, self.found, self.expected, self.remedy)


def _rebuild(
    kind: type[XecError],
    problem: str,
    file: Path | str | None,
    item: str | None,
    found: object,
    expected: object,
    remedy: str | None,
) -> XecError:
    return kind(problem, file=file, item=item, found=found, expected=expected, remedy=remedy)


class ConfigError(XecError):
    """An option, config key or expression is wrong."""


class InputError(XecError):
    """An input is missing, unreadable or not what it should be."""


class CorruptError(InputError):
    """An input exists but fails an integrity check: its bytes are not the ones that were written."""


class OutputError(XecError):
    """An output cannot be written, or exists already with other contents."""


class LockedError(OutputError):
    """Another process is writing the same output."""


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """A remedy naming the valid names most like `name`, or all of them when none is alike and they are few."""
    options = sorted(set(valid))
    close = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "valid: " + ", ".join(options[:20]) + (", …" if len(options) > 20 else "")

"""The frame every command runs in: lazily imported sub-commands, one line per error, `--debug` for the traceback."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from shards.base.errors import XecError
from shards.base.log import setup_logging

logger = logging.getLogger(__name__)

FAILED, USAGE, INTERRUPTED = 1, 2, 130

REMEDIES = {
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some space, then run the command again",
    errno.EACCES: "check its permissions and those of its folder",
    errno.EPERM: "check its permissions and those of its folder",
    errno.EROFS: "this file system is read-only: write elsewhere",
    errno.ENOTDIR: "part of this path is a file, not a folder",
    errno.EISDIR: "this is a folder, but a file is needed",
    errno.ENAMETOOLONG: "the file system does not allow names this long: choose a shorter one",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine: try again later",
    errno.EIO: "the disk, or the connection to it, is failing: try again, or copy the file elsewhere",
    errno.ESTALE: "the network file system lost the file: try again",
}
"""What to do about an operating-system error."""


@dataclass(frozen=True)
class LazyCommand:
    """A sub-command that is imported when it is called."""

    target: str
    """`module:attribute` of the Typer app that implements it."""
    help: str
    """The line shown by `--help`, kept here so that listing the commands imports none of them."""


class LazyGroup(TyperGroup):
    """A command group whose members are imported on use. Subclasses set `commands_table`.

    `--help`, completion of names and "did you mean" see stand-ins that carry the help line.
    """

    commands_table: Mapping[str, LazyCommand] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=entry.help, short_help=entry.help)
            for name, entry in self.commands_table.items()
        }

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:  # type: ignore[override]
        """The command to run: only now is its module imported."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:  # completing a line whose command does not exist
            return name, command, rest
        module, _, attribute = self.commands_table[name].target.partition(":")
        return name, typer.main.get_command(getattr(importlib.import_module(module), attribute)), rest


def run(app: typer.Typer) -> None:
    """Run a Typer app as the process: log set up, `--debug` accepted anywhere, errors on one line, exit status set.

    Exit status: 0 success, 1 an error that says what to do (an `XecError`, or an operating-system error about a
    file), 2 wrong usage, 128 + number ended by a signal (130 Ctrl-C); anything else is a bug and shows its traceback.
    """
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    _print_anything()
    _end_in_order()
    setup_logging(debug=debug or bool(os.environ.get("XEC_DEBUG")))
    try:
        status = app(prog_name="xec", standalone_mode=False)
    except (XecError, OSError, TyperException) as error:
        line = error_line(error)
        if debug or line is None:
            raise
        if line:
            typer.echo(line, err=True)
        sys.exit(USAGE if isinstance(error, TyperException) else getattr(error, "exit_status", FAILED))
    except typer.Abort:
        status = INTERRUPTED
    if status == INTERRUPTED:
        typer.echo("xec: interrupted", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def error_line(error: XecError | OSError | TyperException) -> str | None:
    """What the command line says about an error; empty when the help has been printed instead, None for a bug."""
    if isinstance(error, XecError):
        return f"xec: error: {error}"
    if isinstance(error, OSError):
        if error.errno is None or (error.filename is None and error.errno not in REMEDIES):
            return None
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        remedy = REMEDIES.get(error.errno)
        return f"xec: error: {place}{error.strerror}" + (f"; {remedy}" if remedy else "")
    return _usage_line(error)


def _usage_line(error: TyperException) -> str:
    """Wrong usage in the words of the other errors: lower case, no full stop, and what to do."""
    similar = getattr(error, "possibilities", None)
    said = " ".join((error.message if similar else error.format_message()).split()).rstrip(".")
    if not said:
        return ""
    problem, _, guess = said.partition(". Did you mean ")
    guess = " or ".join(repr(name) for name in similar) + "?" if similar else guess.replace("', '", "' or '")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "xec"
    remedy = f"did you mean {guess}" if guess else f"see `{command} --help`"
    return f"xec: error: {problem[:1].lower()}{problem[1:]}; {remedy}"


def _end_in_order() -> None:
    """When a scheduler or a closing terminal ends the process, remove temporary files and locks as after any error."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_DFL:  # else: `nohup`
            signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    sys.exit(128 + number)


def _print_anything() -> None:
    """Names and terminals that are not UTF-8 cost a `?`, not the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

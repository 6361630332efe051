"""The frame every command runs in: lazily imported sub-commands, one line per error, `--debug` for the traceback."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from shards.base.errors import XecError
from shards.base.log import setup_logging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LazyCommand:
    """A sub-command that is imported when it is called."""

    target: str
    """`module:attribute` of the Typer app that implements it."""
    help: str
    """The line shown by `--help`, kept here so that listing the commands imports none of them."""


class LazyGroup(TyperGroup):
    """A command group whose members are imported on use. Subclasses set `commands_table`."""

    commands_table: Mapping[str, LazyCommand] = {}

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(self.commands_table)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """A stand-in that carries the help line: listing the commands imports none of them."""
        entry = self.commands_table.get(cmd_name)
        return None if entry is None else _placeholder(cmd_name, entry.help)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:  # type: ignore[override]
        """The command to run: only now is its module imported."""
        name, _, rest = super().resolve_command(ctx, args)
        module, _, attribute = self.commands_table[str(name)].target.partition(":")
        return name, typer.main.get_command(getattr(importlib.import_module(module), attribute)), rest


def _placeholder(name: str, help_text: str) -> Any:
    app = typer.Typer(add_completion=False)

    @app.command(name, help=help_text, short_help=help_text)
    def command() -> None: ...

    return typer.main.get_command(app)


def run(app: typer.Typer) -> None:
    """Run a Typer app as the process: log set up, `--debug` accepted anywhere, errors on one line, exit status set.

    Exit status: 0 success, 1 an XecError, 2 wrong usage (Typer), 130 interrupted; anything else is a bug and shows its
    traceback.
    """
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    setup_logging(debug=debug or bool(os.environ.get("XEC_DEBUG")))
    try:
        app()
    except XecError as error:
        if debug:
            raise
        typer.echo(f"xec: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("xec: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)

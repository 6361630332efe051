"""The frame of the commands: what a wrong line, an error of the operating system and a bug look like."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import Annotated

import pytest
import typer

from shards.base import ConfigError
from shards.base.cli import LazyCommand, LazyGroup, error_line, run


class Tools(LazyGroup):
    commands_table = {  # noqa: RUF012
        "info": LazyCommand("shards.cli:app", "Say what there is."),
        "broken": LazyCommand("nowhere.to.be:found", "Cannot be imported."),
    }


def ended(capsys: pytest.CaptureFixture[str], app: typer.Typer, *arguments: str) -> tuple[int, str]:
    """Exit status of a process that runs `app`, and what it wrote to standard error."""
    sys.argv[1:] = list(arguments)
    with pytest.raises(SystemExit) as caught:
        run(app)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def _own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tool"])


def raising(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def command(number: int = 0) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("is wrong", item="--x"), 1, "xec: error: --x: is wrong\n"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "out"),
            1,
            "xec: error: out: File name too long; "
            "the file system does not allow names this long: choose a shorter one\n",
        ),
        (FileExistsError(errno.EEXIST, "File exists", "a/b"), 1, "xec: error: a/b: File exists\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "xec: error: No space left on device; free some space, then run the command again\n",
        ),
        (KeyboardInterrupt(), 130, "xec: interrupted\n"),
        (EOFError(), 130, "\nxec: interrupted\n"),
    ],
)
def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str) -> None:
    assert ended(capsys, raising(error)) == (status, line)


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), OSError("no number, no file"), OSError(errno.EINVAL, "Invalid")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error))


def test_debug_keeps_every_traceback() -> None:
    sys.argv.append("--debug")
    with pytest.raises(ConfigError, match="is wrong"):
        run(raising(ConfigError("is wrong")))


def test_names_that_are_no_utf8_are_shown() -> None:
    name = os.fsdecode(b"r\xf6ntgen.root")
    line = error_line(FileNotFoundError(errno.ENOENT, "No such file or directory", name))
    assert line == f"xec: error: {name}: No such file or directory"


TOOLS = typer.Typer(cls=Tools, no_args_is_help=True)


@TOOLS.callback()
def _tools(verbose: Annotated[bool, typer.Option("--verbose")] = False) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["inof"], "no such command 'inof'; did you mean 'info'?"),
        (["zzz"], "no such command 'zzz'; see `xec --help`"),
        (["--verbos"], "no such option: --verbos; did you mean '--verbose'?"),
        (["info", "verfy"], "no such command 'verfy'; did you mean 'verify'?"),
        (["info", "verify"], "missing argument 'data'; see `xec info verify --help`"),
        (["info", "head", "x", "-n", "-1"], "invalid value for '--events' / '-n': "),
    ],
)
def test_wrong_usage_is_one_line_that_helps(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    status, said = ended(capsys, TOOLS, *arguments)
    assert status == 2
    assert said.startswith(f"xec: error: {line}")
    assert said.count("\n") == 1


def test_no_arguments_are_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, TOOLS) == (2, "")


@pytest.mark.parametrize(
    ("words", "position", "found"),
    [
        ("xec in", 1, "info"),
        ("xec info verif", 2, "verify"),
        ("xec nothing x", 2, ""),
        ("xec --verb", 1, "--verbose"),
    ],
)
def test_completion_imports_what_it_must(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, position: int, found: str
) -> None:
    for name, value in {"_XEC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        run(TOOLS)
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_in_order(number: signal.Signals, status: int) -> None:
    """What is temporary goes, as after an error: here a block that says so."""
    script = (
        "import time, typer\n"
        "from shards.base.cli import run\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def wait() -> None:\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleared', flush=True)\n"
        "run(app)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        running.send_signal(number)
        assert running.stdout.read() == "cleared\n"
        assert running.wait(60) == status

"""The `xec` command as a whole: instant help, errors on one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xec

XEC = [sys.executable, "-m", "xec"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*XEC, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, xec\n"
        "sys.argv = ['xec', '--help']\n"
        "try: xec.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'polars', 'uproot', 'nvidia', 'mlflow', 'matplotlib', 'onnxruntime', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    from xec import _Root

    for command in _Root.commands_table:
        assert f" {command} " in done.stdout


COMMANDS = (
    *("demo", "toymc", "train", "evaluate", "infer", "display", "doctor"),
    *("ingest root2shards", "ingest inspect", "shards select", "model describe", "track sync"),
    *("track collect", "compare runs", "cluster submit train", "cluster render scan", "cluster status"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"xec {command} " in " ".join(done.stdout.split()) + " "


def test_unknown_command_is_usage_error() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert done.stderr == "xec: error: no such command 'trian'; did you mean 'train' or 'track'?\n"


def test_version_names_package_and_commit() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(rf"xec {re.escape(xec.__version__)}(\+\S+)?\n", done.stdout)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["latin-1", "ascii"],
)
def test_help_and_errors_on_a_terminal_that_is_not_utf8(environment: dict[str, str], tmp_path: Path) -> None:
    where = {**os.environ, **environment}
    assert subprocess.run([*XEC, "--help"], capture_output=True, env=where, check=True).stdout
    missing = os.fsencode(tmp_path) + b"/r\xf6ntgen"
    done = subprocess.run([*XEC, "shards", "info", missing], capture_output=True, env=where, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"xec: error: ")
    assert done.stderr.count(b"\n") == 1


def test_error_is_one_line_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    done = run("shards", "info", missing)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("xec: error: ")
    assert missing in done.stderr
    assert "Traceback" in run("shards", "info", missing, "--debug").stderr

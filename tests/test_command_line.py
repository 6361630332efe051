"""The `xec` command as a whole: instant help, errors on one line."""

import subprocess
import sys
from pathlib import Path

import pytest

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
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"xec {command} " in " ".join(done.stdout.split()) + " "


def test_unknown_command_is_usage_error() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_error_is_one_line_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    done = run("shards", "info", missing)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("xec: error: ")
    assert missing in done.stderr
    assert "Traceback" in run("shards", "info", missing, "--debug").stderr

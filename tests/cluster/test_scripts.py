"""The scripts: valid shell, quoted words, the page that shows them, and the `render` command that prints them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.docs import DIRECTORY, PAGE, examples, page
from cluster.script import Shell, command, quoted
from cluster.submit import scripts


@pytest.mark.parametrize("number", range(6))
def test_every_script_is_valid_shell_and_says_what_it_runs(number: int) -> None:
    line, work = examples()[number]
    for name, text in scripts(work, DIRECTORY).items():
        checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "set -euo pipefail" in text
        assert f"#SBATCH --output={DIRECTORY}/{work.out}.jobs/logs/{name}-%" in text
        assert "xec " in text or "jupyter lab" in text
        assert ("#SBATCH --array=" in text) == ("SLURM_ARRAY_TASK_ID" in text)
    assert work.kind == line.split()[0]


def test_the_page_of_scripts_is_current() -> None:
    assert PAGE.read_text() == page(), "make docs"


def test_words_are_quoted_and_long_commands_are_broken_at_options() -> None:
    assert quoted(["a b", "$x", Shell('"$element"'), "--k=v"]) == "'a b' '$x' \"$element\" --k=v"
    _, work = examples()[1]
    long = command(work.steps[0].place, ["xec", "train", "--data", "d" * 60, "--val", "v" * 60])
    assert long.split(" \\\n    ") == ["xec train", f"--data {'d' * 60}", f"--val {'v' * 60}"]


def test_grace_hopper_nodes_get_their_own_environment() -> None:
    text = "".join(scripts(examples()[3][1], DIRECTORY).values())
    assert "venv-aarch64/bin/activate" in text
    assert "#SBATCH --clusters=gmerlin7" in text
    assert "venv-x86_64" not in text


def test_render_prints_the_scripts_and_touches_nothing(tmp_path: Path) -> None:
    words = ["cluster", "render", "ingest", "a.root", "--schema", "real", "-o", "data", "--tasks", "3", "-p", "default"]
    done = subprocess.run(
        [sys.executable, "-m", "xec", *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    for name in ("prepare", "bucket", "sort", "finalize"):
        assert f"# ---- {name}.sbatch ----" in done.stdout
    assert "xec ingest root2shards a.root --schema real --out data --step plan" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_container_stands_before_every_command(tmp_path: Path) -> None:
    site = tmp_path / "s.yaml"
    site.write_text("name: s\npartitions: {p: {gpus_per_node: 4}}\nenvironments: {x86_64: {container: /i/xec.sif}}\n")
    for kind, wanted in (("train", "apptainer exec --nv /i/xec.sif torchrun"), ("notebook", "/i/xec.sif jupyter lab")):
        words = ["cluster", "render", kind, "--out", "r", "--gpus", "2", "--site", str(site)]
        done = subprocess.run([sys.executable, "-m", "xec", *words], capture_output=True, text=True, check=True)
        assert wanted in done.stdout
        assert "nproc-per-node=2" in done.stdout or kind == "notebook"

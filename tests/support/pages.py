"""The pages of the documentation as programs: their files are written, their commands and their Python run, in order.

In a page, `console` blocks hold commands behind `$ `, `sh` blocks hold them in every line, a `text` or `yaml` block
whose first line is `# NAME` is a file of that name, and all `python` blocks are one program. Everything is run, on
little data (`SMALLER`), but what `NOT_RUN` names, each with its reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

SLURM = "needs a SLURM cluster; tests/cluster/test_slurm_campaigns.py sends campaigns to one on loopback"
RANKS = "several GPUs; tests/xectrain/training/test_ranks.py starts two ranks"
TWO_LINES = "needs a network that has learned both energies; tests/xectrain/evaluation/test_calibrate.py has one"
NOT_RUN = {
    ("README.md", "make"): "the demo and the tests themselves: tests/test_demo.py, .ci/run",
    ("README.md", "torchrun"): RANKS,
    ("README.md", "xec cluster submit"): SLURM,
    ("README.md", "xec cluster status"): SLURM,
    ("CONTRIBUTING.md", "make"): "what .ci/run consists of",
    ("CONTRIBUTING.md", ".venv/bin/pre-commit"): "changes the clone it runs in",
    ("ablations.md", "python benchmarks/ablations.py"): "hours of training",
    ("calibration.md", "xec calibrate runs/first cex.root"): TWO_LINES,
    ("calibration.md", "xec calibrate runs/first data/cex data/lithium"): TWO_LINES,
    ("calibration.md", "xec calibrate runs/long l55 l18"): TWO_LINES,
    ("cluster.md", "xec cluster render train --out OUT"): "the form of the commands below",
    ("cluster.md", "xec cluster submit train --out OUT"): "the form of the commands below",
    ("cluster.md", "xec cluster status"): SLURM,
    ("cluster.md", "xec cluster resubmit"): SLURM,
    ("cluster.md", "xec cluster cancel"): SLURM,
    ("cluster-scripts.md", "xec cluster submit"): "the page is what they print: tests/cluster/test_scripts.py",
    ("model.md", "xec demo"): "tests/test_demo.py runs it",
    ("model.md", "python benchmarks/reconstruction.py --of demo"): "the demo was not made; a later one runs",
    ("model.md", "python benchmarks/reconstruction.py --minutes"): "trains for five minutes on each of several samples",
    (
        "model.md",
        "python benchmarks/reconstruction.py --only",
    ): "a training of six minutes on a sample of 40,000 events",
    ("sites.md", "python3.11 -m venv"): "installs torch once more",
    ("sites.md", "~/xec/"): "the environment that was not made",
    ("sites.md", "apptainer"): "needs Apptainer; tests/cluster/test_docs.py compares what is in the image",
    ("training.md", "torchrun"): RANKS,
}
"""Commands that are parsed only, by page and beginning, and why."""

BLOCKS = {
    "console": "run",
    "sh": "run",
    "python": "run",
    "text": "a file, or output",
    "yaml": "a file",
    "": "output or a drawing",
    "cpp": "compiled by tests/xectrain/exporting",
    "bash": "scripts that tests/cluster/test_scripts.py remakes",
}
"""Kinds of blocks, and what is done with them."""

SMALLER: Mapping[str, Callable[[list[str]], list[str]]] = {
    # Everything behind it takes a time by the event.
    "xec toymc": lambda words: _at_most(words, "--events", 300),
    "python benchmarks/inpainting.py": lambda words: _at_most(words, "--events", 20),
    # Two steps of the smallest network learn nothing, but go all the way; `--set` is stronger than what the page says.
    "xec train": lambda words: [*words, *(w for key in TINY for w in ("--set", key))],
    # There is no cluster here: the scripts are printed instead of sent.
    "xec cluster submit": lambda words: ["render" if word == "submit" else word for word in words],
}
"""How commands are made smaller, by their beginning."""
TINY = (
    *("model.preset=tiny", "train.epochs=1", "train.minutes=null", "data.epoch_events=64", "data.batch_size=32"),
    *("tracking.mlflow=false", "checkpoint.save_artifacts=false"),
)


def _at_most(words: list[str], option: str, most: int) -> list[str]:
    """`words` with the number behind `option` no larger than `most`."""
    pairs = zip(["", *words], words, strict=False)
    return [str(min(int(word), most)) if before == option else word for before, word in pairs]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(kind, text) for kind, text in found]


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block, as words: those behind `$ ` of a console, all lines of a shell block.

    A line `NAME="WORDS"` gives the words to later lines that have `$NAME`.
    """
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    elif block.kind != "sh":
        return []
    found: list[list[str]] = []
    names: dict[str, list[str]] = {}
    for line in lines:
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.*)", words[0], re.DOTALL)):
            names["$" + given[1]] = shlex.split(given[2])
        elif words:
            found.append([word for given in words for word in names.get(given, [given])])
    return found


def not_run(page: Path, words: list[str]) -> tuple[str, str] | None:
    """The key in `NOT_RUN` of a command line of a page."""
    line = " ".join(words)
    return next((key for key in NOT_RUN if key[0] == page.name and line.startswith(key[1])), None)


def smaller(words: list[str]) -> list[str]:
    """A command line as it is run here."""
    line = " ".join(words)
    for beginning, change in SMALLER.items():
        if line.startswith(beginning + " "):
            words = change(words)
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else []) or [word]]


def run_page(
    page: Path, folder: Path, run: Callable[[list[str]], None], *, given: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Do what a page says, in `folder`, which is the current one; the names that its Python has left.

    Args:
        run: runs these words, the first of which is `xec` or `python`.
        given: names that the page's Python finds.
    """
    names: dict[str, Any] = dict(given or {})
    for block in blocks(page):
        if block.kind in ("text", "yaml") and (name := re.match(r"# (\S+\.\w+)\n", block.text)):
            (folder / name[1]).write_text(block.text[name.end() :], encoding="utf-8")
        for words in commands(block):
            if not not_run(page, words):
                run(smaller(words))
        if block.kind == "python":
            exec(compile(block.text, f"{page.name}: {block.text.splitlines()[0]}", "exec"), names)
    return names


def mentioned() -> Iterator[tuple[str, list[str]]]:
    """Every `xec` command line of the documentation: the page's name, and the words behind `xec`."""
    for page in PAGES:
        for block in blocks(page):
            for words in commands(block):
                if "xec" in words:
                    yield page.name, words[words.index("xec") + 1 :]


PROGRAM = re.compile(r"(?: {4}|\$ )?((?:xec|python|torchrun|make|pip|sbatch|srun|apptainer) .*)")


def lines_of_commands(page: Path) -> Iterator[list[str]]:
    """Every command line of a page, whatever the block: also of output, and of paragraphs set in by four spaces."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        yield from commands(block)
        if block.kind in ("", "text"):
            yield from (found[1].split() for line in block.text.splitlines() if (found := PROGRAM.match(line)))
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    yield from (found[1].split() for line in outside if line[:1] == " " and (found := PROGRAM.match(line)))

"""The pages of the documentation as programs: their files are written, their commands and their Python run, in order.

In a page, a `console` block holds commands behind `$ `, a `text` or `yaml` block whose first line is `# NAME` is a file
of that name, and all `python` blocks are one program. Blocks of other kinds (`sh`) are not run; that their commands and
options exist is tested for all of them.
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
    """The command lines of a block, as words: those behind `$ ` of a console, all lines of a shell block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    elif block.kind != "sh":
        return []
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_page(
    page: Path, folder: Path, run: Callable[[list[str]], None], *, given: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Do what a page says, in `folder`, which is the current one; the names that its Python has left.

    Args:
        run: runs `xec` with these words.
        given: names that the page's Python finds.
    """
    names: dict[str, Any] = dict(given or {})
    for block in blocks(page):
        if block.kind in ("text", "yaml") and (name := re.match(r"# (\S+\.\w+)\n", block.text)):
            (folder / name[1]).write_text(block.text[name.end() :], encoding="utf-8")
        for words in commands(block) if block.kind == "console" else ():
            assert words[0] == "xec", words
            run(words[1:])
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

"""`make bench` puts what a benchmark prints into its place of the page, and touches nothing else."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from write import PAGE, PLACE, filled  # noqa: E402

PAGE_BEFORE = """# Page

<!-- begin: cores.py --batch 64 -->
old
<!-- end -->

Said by hand.

<!-- begin: steps.py -->
<!-- end -->
"""


def test_a_table_replaces_what_its_place_held():
    page = filled(PAGE_BEFORE, "cores.py --batch 64", "| a |\n|---|\n| 1 |\n", "today")
    assert "old" not in page
    assert "<!-- begin: cores.py --batch 64 -->\n`python benchmarks/cores.py --batch 64`, today:\n\n| a |" in page
    assert page.endswith(PAGE_BEFORE.partition("<!-- end -->")[2])
    assert filled(page, "cores.py --batch 64", "| a |\n|---|\n| 1 |\n", "today") == page


def test_what_is_no_table_keeps_its_columns():
    assert "```\n  a   b\n  1   2\n```\n<!-- end -->" in filled(PAGE_BEFORE, "steps.py", "  a   b\n  1   2\n", "today")


def test_places_name_benchmarks_that_there_are():
    commands = [found["command"] for found in PLACE.finditer(PAGE.read_text())]
    assert len(commands) == len(set(commands)) > 5
    for command in commands:
        assert (ROOT / "benchmarks" / shlex.split(command)[0]).is_file()

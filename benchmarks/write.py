"""Run benchmarks and put what they print into docs/benchmarks.md: what `make bench` does; or into another page.

    python benchmarks/write.py cores steps
    python benchmarks/write.py --page docs/dead-channels.md

The page has places for each, between `<!-- begin: cores.py --preset small -->` and `<!-- end -->`: the command is run
as it stands there, and its output replaces what is between, with the day and the processor. A benchmark that fails
leaves the page as it is.
"""

from __future__ import annotations

import argparse
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
PLACE = re.compile(r"<!-- begin: (?P<command>(?P<name>\w+)\.py.*?) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, command: str, output: str, where: str) -> str:
    """The page with `output` in the place of the command; as it is where there is no such place.

    Args:
        where: day and machine, in words.
    """

    def text(found: re.Match[str]) -> str:
        if found["command"] != command:
            return found[0]
        said = output.strip("\n")
        if not any(line.startswith("|") for line in said.splitlines()):
            said = f"```\n{said}\n```"
        return f"<!-- begin: {command} -->\n`python benchmarks/{command}`, {where}:\n\n{said}\n<!-- end -->"

    return PLACE.sub(text, page)


def machine() -> str:
    """What the tables were taken on."""
    words = [line.partition(":")[2].strip() for line in _text("/proc/cpuinfo").splitlines() if "model name" in line]
    day = datetime.now(UTC).date().isoformat()
    return f"{day}, {len(words) or '?'} cores of {words[0] if words else platform.machine()}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; default: all that have a place")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    page: Path = options.page
    places = [(found["name"], found["command"]) for found in PLACE.finditer(page.read_text())]
    known = dict(places)
    if unknown := [name for name in options.names if name not in known]:
        raise SystemExit(f"{page}: no place for {', '.join(unknown)}; there is one for {', '.join(known)}")
    for name, command in places:
        if options.names and name not in options.names:
            continue
        print(f"== {command}", flush=True)
        script, *arguments = shlex.split(command)
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"{script} failed with {done.returncode}; {page} keeps what it had")
        page.write_text(filled(page.read_text(), command, done.stdout, machine()))


if __name__ == "__main__":
    main()

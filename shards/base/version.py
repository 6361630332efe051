"""Which code is this? The version of the package, and that of a checkout to the commit."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path


def package_version() -> str:
    """The version of the installed package: what datasets record, whose bytes must not depend on a commit."""
    return metadata.version("xec")


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package version, with the commit when it runs from a checkout and `git` is there to tell."""
    here = Path(__file__).resolve().parents[2]
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return package_version()
    commit = described.stdout.strip()
    return f"{package_version()}+{commit}" if described.returncode == 0 and commit else package_version()

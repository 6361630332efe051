"""The pages about clusters: the profile in them is valid, their commands exist, and the image holds every package."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from cluster.profile import load_profile
from xec import _Root

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_profile_of_the_page_for_sites_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("sites.md", "yaml")
    file = tmp_path / "mysite.yaml"
    file.write_text(text)
    profile = load_profile(str(file))
    assert profile.partitions["gh"].arch == "aarch64"
    assert profile.kinds["ingest"].time == "4:00:00"


@pytest.mark.parametrize("page", ["cluster.md", "sites.md", "cluster-scripts.md"])
def test_commands_of_the_pages_exist_and_their_files_too(page: str) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("xec ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[1] in _Root.commands_table
        for word in words:
            if word.startswith("recipes/"):
                assert (ROOT / word).exists()


def test_the_image_holds_every_package_that_is_built() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    definition = (ROOT / "containers" / "xec.def").read_text()
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        assert f"    {package} /opt/xec/{package}" in definition

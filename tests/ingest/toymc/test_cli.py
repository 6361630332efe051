"""The command: what it says, what it refuses, and that asking for help is quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from typer.testing import CliRunner

from ingest.toymc import rootfile
from ingest.toymc.cli import app, read_channels
from shards.base import ConfigError, InputError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_events_to_a_file_and_the_same_again(tmp_path: Path) -> None:
    out = tmp_path / "toy.root"
    command = ("--events", 12, "--energy", "flat", "--energy-range", 15, 65, "--seed", 4, "--out", out)
    assert run(*command) == f"Wrote 12 events of runs 1…1 to {out}.\n"
    assert run(*command) == f"{out} already holds the same 12 events of runs 1…1; nothing to do.\n"
    stamp = rootfile.stamp(out)
    assert stamp is not None
    assert stamp["options"]["energy_range"] == [15.0, 65.0]
    with uproot.open(out) as file:
        energy = file["tree"]["energyTruth"].array(library="np")
    assert energy.min() >= 0.015
    assert energy.max() <= 0.065


def test_files_default_to_a_run_each(tmp_path: Path) -> None:
    text = run("--events", 9, "--files", 3, "--first-run", 5, "--compression", "lz4", "--out", tmp_path / "a.root")
    assert text == f"Wrote 9 events of runs 5…7 to {tmp_path}/a_000.root … a_002.root.\n"
    (tmp_path / "a_001.root").unlink()
    text = run("--events", 9, "--files", 3, "--first-run", 5, "--compression", "lz4", "--out", tmp_path / "a.root")
    assert text.startswith("Wrote 1 of 3 files (9 events of runs 5…7)")


def test_dead_channels_from_a_file(tmp_path: Path) -> None:
    pattern = tmp_path / "dead.txt"
    pattern.write_text("# broken\n17\n  4000 # cable\n\n17\n")
    assert read_channels(pattern) == (17, 4000)
    run("--events", 2, "--dead-file", pattern, "--dead-mark", "nan", "--dead-branch", "--out", tmp_path / "d.root")
    with uproot.open(tmp_path / "d.root") as file:
        npho, dead = (file["tree"][k].array(library="np") for k in ("npho", "dead"))
    assert np.array_equal(np.flatnonzero(np.isnan(npho[0])), [17, 4000])
    assert np.array_equal(np.flatnonzero(dead[1]), [17, 4000])
    pattern.write_text("17\nseventeen\n")
    with pytest.raises(InputError, match=r"dead.txt: line 2: is not a channel number \(found 'seventeen'\)"):
        read_channels(pattern)
    with pytest.raises(InputError, match=r"no.txt: there is no such list of channels"):
        read_channels(tmp_path / "no.txt")


def test_out_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--out: is missing; name the ROOT file to write"):
        run("--events", 3)


def test_out_must_be_a_root_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out: does not end in \.root"):
        run("--events", 3, "--out", tmp_path / "toy.txt")


def test_limit_prints_and_writes_a_table(tmp_path: Path) -> None:
    out = tmp_path / "limits.json"
    text = run("limit", "--depth", 2, "--depth", 8, "--case", "point", "--out", out)
    lines = text.splitlines()
    assert lines[0].split() == ["shower", "w/cm", "u/mm", "v/mm", "w/mm", "E/%", "t/ps"]
    assert [line.split()[:2] for line in lines[1:3]] == [["point", "2"], ["point", "8"]]
    assert lines[3] == f"Wrote 2 bounds to {out}."
    assert [row["depth"] for row in json.loads(out.read_text())] == [2.0, 8.0]


@pytest.mark.slow
def test_library_is_made_anew(tmp_path: Path) -> None:
    text = run("library", "--showers", 100, "--sources", 500, "--out", tmp_path)
    assert text.startswith("Wrote showers.npz (")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scattering.npz", "showers.npz"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ingest.toymc.cli import app; "
        "print([m for m in ('numpy', 'scipy', 'uproot', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_report_makes_the_page_and_its_pictures(tmp_path: Path) -> None:
    text = run("report", "--out", tmp_path / "toymc", "--events", 500)
    assert text == f"Wrote {tmp_path}/toymc.md and its pictures to {tmp_path}/toymc.\n"
    page = (tmp_path / "toymc.md").read_text()
    pictures = {p.name for p in (tmp_path / "toymc").iterdir()}
    assert len(pictures) == 8
    assert all(f"toymc/{name}" in page for name in pictures)
    assert "not as expected" not in page
